"""train: what it learns, how it goes on after any end, several processes, steps and data that fail."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import pyro
import pyro.distributions as dist
import pytest
import pytorch_lightning as pl
import torch
from pyro import poutine
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from guides import DataError, DivergedError, HamiltonianGuide, MeanFieldGuide, ModelError, OptionError
from ppl_models import VAE
from ppl_models.datasets import DataModule, ImageData
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import ELBO, IWAE
from ppl_models.training import graph, load, replay, schedules, train
from ppl_models.training.loaders import InMemory, Resumable
from ppl_models.training.training_module import TrainingModule
from tests.training_program import GREY, Noisy, decaying, losses, make_pair, run


def quiet(*args, **options):
    return train(*args, **({"seed": 0, "progress": False} | options))


class Killed(BaseException):
    """In place of a SIGKILL, which leaves nothing but what is on disk."""


class At(pl.Callback):
    """Does something after a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            self.action()


def interrupt():
    signal.raise_signal(signal.SIGINT)


def kill():
    raise Killed


def parameters(*parts):
    return [p.detach().clone() for part in parts for p in part.parameters()]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


# What it learns.


class Conjugate(pyro.nn.PyroModule):
    """x_i ~ N(z_i, 1), z_i ~ N(0, 1): log p(x_i) is that of N(0, 2), and the posterior is N(x_i / 2, 1 / 2)."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_it_finds_the_exact_posterior_of_every_datum():
    x, model = torch.randn(50, 1), Conjugate()
    guide = MeanFieldGuide(model, encoder=nn.Linear(1, 2))
    for parameter in guide.encoder.parameters():
        nn.init.zeros_(parameter)  # from the prior: no first step that Adam would remember for long
    objective = ELBO(gradient="stl")  # whose noise vanishes there
    result = quiet(
        model, guide, x, epochs=40, batch_size=16, lr=0.1, schedule="cosine", validation=x, objective=objective
    )
    exact = -torch.distributions.Normal(0.0, 2**0.5).log_prob(x).sum().item()
    assert result.steps == 40 * 4
    # At the exact posterior every draw gives the evidence itself.
    assert result.history["validation_loss"].iloc[-1] == pytest.approx(exact, abs=0.2)
    assert result.history["loss"].iloc[-1] == pytest.approx(exact, abs=0.2)
    slope, scale = guide.encoder.weight[:, 0], guide.encoder.bias
    assert slope.tolist() == pytest.approx([0.5, 0.0], abs=0.01)
    assert scale.tolist() == pytest.approx([0.0, -0.5 * math.log(2)], abs=0.01)


def test_history_is_of_all_data_whatever_the_batches():
    model, guide = make_pair()
    result = run(model=model, guide=guide, lr=1e-9, epochs=1, objective=IWAE(num_particles=300))
    record = result.records[0]
    assert {"loss", "validation_loss", "reconstruction", "kl[z]", "learning_rate", "skipped"} <= set(record)
    with torch.no_grad():
        exact = IWAE(num_particles=3000).loss(model, guide, GREY.round())
    assert record["validation_loss"] == pytest.approx(exact, rel=0.01)  # IWAE of 300 and 3000 are nats apart in 55
    assert (result.steps, result.num_data, result.num_validation_data) == (4, 20, 20)
    assert result.num_parameters == sum(p.numel() for p in [*model.parameters(), *guide.parameters()])


def test_the_global_generator_and_modes_stay():
    model, guide = make_pair()
    guide.encoder = guide.base.encoder.eval() if guide.encoder is None else guide.encoder.eval()
    state, validating = torch.random.get_rng_state(), pyro.poutine.util.is_validation_enabled()
    run(model=model, guide=guide, epochs=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert pyro.poutine.util.is_validation_enabled() == validating
    assert not guide.encoder.training
    assert model.training


def test_validation_changes_nothing():
    with_it, without = (run(validation=validation, epochs=3).history["loss"] for validation in (GREY.round(), None))
    assert with_it.tolist() == without.tolist()


def test_data_of_all_kinds_are_the_same_data():
    x = GREY.round()
    loader = DataLoader(TensorDataset(x), batch_size=5)

    class Module(pl.LightningDataModule):
        def setup(self, stage):
            self.x = x

        def train_dataloader(self):
            return loader

        def val_dataloader(self):
            return DataLoader(self.x, batch_size=20)

    pairs = [(x[at : at + 5], "label") for at in range(0, 20, 5)]
    first = losses(run(data=loader))
    assert losses(run(data=Module(), validation=None)) == first
    assert losses(run(data=pairs, unpack=lambda batch: batch[:1], num_data=20, validation=x)) == first


def test_precision_and_compiling_change_little(monkeypatch):
    monkeypatch.setattr(graph, "_compiled", lambda traced, inputs: traced)
    first = losses(run())
    compiled = run(compile=True)
    assert compiled.compile_seconds > 0
    for one, other in zip(first, losses(compiled), strict=True):
        assert other == pytest.approx(one, rel=1e-9)
    torch.set_default_dtype(torch.float32)
    try:
        model, guide = make_pair()
        mixed = quiet(model, guide, GREY.round().float(), epochs=1, precision="bf16-mixed")
        model, guide = make_pair()
        plain = quiet(model, guide, GREY.round().float(), epochs=1)
    finally:
        torch.set_default_dtype(torch.float64)
    assert mixed.records[-1]["loss"] == pytest.approx(plain.records[-1]["loss"], rel=0.005)  # the noise is the same
    assert mixed.records[-1]["loss"] != plain.records[-1]["loss"]


def test_the_study_s_schedule_counts_epochs(monkeypatch):
    study = schedules.SCHEDULES["study"]
    x = GREY.round()
    model, guide = make_pair()
    # As if 149 epochs were done.
    monkeypatch.setitem(schedules.SCHEDULES, "study", lambda done, epoch: study(done, epoch + 149))
    result = quiet(model, guide, x, epochs=3, batch_size=20, lr=0.1, schedule="study")
    assert result.history["learning_rate"].tolist() == pytest.approx([0.1, 0.1, 0.1 * (1 - 1 / 850)])


def test_gradients_are_clipped_before_the_step():
    model, guide = make_pair()
    guide.setup(GREY.round())
    before = parameters(model, guide)
    result = run(model=model, guide=guide, optim=torch.optim.SGD, schedule="constant", lr=1.0, max_grad_norm=1e-3)
    moved = sum((a - b).square().sum() for a, b in zip(before, parameters(model, guide), strict=True)).sqrt()
    assert 0 < moved <= result.steps * 1e-3
    assert result.records[0]["gradient_norm"] > 0.1


def test_functions_with_global_parameters_are_trained():
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    x = 3.0 * torch.randn(40)
    quiet(model, lambda x: None, x, epochs=60, batch_size=20, lr=0.05)
    assert pyro.param("scale").item() == pytest.approx(x.square().mean().sqrt().item(), rel=0.1)
    pyro.clear_param_store()


def test_progress_goes_to_the_error_stream(capfd):
    run(epochs=1, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Epoch" in err
    run(epochs=1)
    assert capfd.readouterr() == ("", "")


# How it goes on.


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    model, guide = make_pair()
    result = run(tmp_path_factory.mktemp("unbroken"), model=model, guide=guide)
    return losses(result), parameters(model, guide)


def resumed(folder, **options):
    model, guide = make_pair()
    result = run(folder, model=model, guide=guide, resume=True, **options)
    return losses(result), parameters(model, guide)


@pytest.mark.parametrize("step", range(1, 9))
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path, unbroken, step):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[At(step, interrupt)])
    assert (tmp_path / "last.ckpt").exists()
    have = resumed(tmp_path)
    assert have[0] == unbroken[0]
    assert_same(have[1], unbroken[1])


def test_a_request_to_end_is_not_left_to_lightning(tmp_path, unbroken, monkeypatch):
    """Its own way is looked for after the step, past the checkpoint: a signal that comes in between must wait."""

    def late(module, outputs, batch, index):
        if module.global_step == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingModule, "on_train_batch_end", late)
    with pytest.raises(SystemExit, match="143"):
        run(tmp_path)
    monkeypatch.undo()
    assert resumed(tmp_path)[0] == unbroken[0]


@pytest.mark.parametrize("step", [1, 4, 6, 8])
def test_a_killed_training_goes_on_from_what_is_on_disk(tmp_path, unbroken, step):
    with pytest.raises(Killed):
        run(tmp_path, callbacks=[At(step, kill)], checkpoint_every=3)
    have = resumed(tmp_path, checkpoint_every=3)
    assert have[0] == unbroken[0]
    assert_same(have[1], unbroken[1])


def test_global_parameters_go_on_too(tmp_path):
    x = 3.0 * torch.randn(8)

    def last(folder, **options):
        pyro.clear_param_store()

        def model(x):
            scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(0.0, scale), obs=x)

        try:
            quiet(model, lambda x: None, x, epochs=2, batch_size=4, lr=0.5, folder=tmp_path / folder, **options)
            return pyro.param("scale").item()
        finally:
            pyro.clear_param_store()

    want = last("unbroken")
    with pytest.raises(Killed):
        last("broken", callbacks=[At(2, kill)], checkpoint_every=1)
    assert last("broken", resume=True) == want


def test_a_second_interrupt_does_not_wait(tmp_path):
    def twice():
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[At(1, twice)])
    assert not (tmp_path / "last.ckpt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def draw_from_all():
    """A number from each of the three generators."""
    import random

    import numpy as np

    return random.random(), np.random.random(), torch.rand(())


def random_crop(batch):
    """A transformation that draws from all three generators."""
    first, second, third = draw_from_all()
    return ((batch[0] + (first + second) * third).remainder(1.0).round(),)


@pytest.mark.parametrize("own_generator", [False, True])
def test_loaders_go_on_in_the_middle_of_an_epoch(tmp_path, own_generator):
    def options():
        draw_from_all()  # what was drawn before must not matter
        generator = torch.Generator() if own_generator else None
        data = DataLoader(TensorDataset(GREY), batch_size=6, shuffle=True, generator=generator)
        return {"data": data, "unpack": random_crop}

    want = losses(run(tmp_path / "unbroken", **options()))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", callbacks=[At(6, interrupt)], **options())
    have = losses(run(tmp_path / "broken", resume=True, **options()))
    assert have == want


def test_data_modules_go_on_in_the_middle_of_an_epoch(tmp_path):
    grey, labels = GREY.reshape(20, 1, 2, 2).float(), torch.zeros(20, dtype=torch.int64)
    parts = {"train": grey, "validation": grey.round(), "test": grey.round()}
    images = ImageData(name="grey", grey_levels=99, **parts, **{f"{part}_labels": labels for part in parts})

    def options():
        data = DataModule(images, batch_size=6, seed=3)
        torch.manual_seed(0)
        model = VAE(MLPDecoder(1, event_shape=(1, 2, 2), hidden=(3,)), latent_dim=1).float()
        guide = MeanFieldGuide(model, encoder=MLPEncoder((1, 2, 2), output_dim=2, hidden=(3,))).float()
        return {"data": data, "validation": None, "model": model, "guide": guide}

    want = losses(run(tmp_path / "unbroken", **options()))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", callbacks=[At(6, interrupt)], **options())
    assert losses(run(tmp_path / "broken", resume=True, **options())) == want


@pytest.mark.slow
def test_workers_draw_from_the_seed_too():
    def options():
        loader = DataLoader(Noisy(), batch_size=4, num_workers=1, multiprocessing_context="spawn")
        return {"data": loader, "epochs": 1}

    assert losses(run(**options())) == losses(run(**options()))


def test_a_training_can_be_made_longer(tmp_path):
    want = losses(run(tmp_path / "long", epochs=3))
    run(tmp_path / "short", epochs=1)
    assert losses(run(tmp_path / "short", epochs=3, resume=True)) == want
    # What is done is not done again.
    assert losses(run(tmp_path / "short", epochs=3, resume=True)) == want


def test_without_a_checkpoint_it_begins(tmp_path, unbroken):
    assert resumed(tmp_path)[0] == unbroken[0]


def test_the_best_epoch_is_kept(tmp_path):
    # The rate is so large that the loss rises in the end.
    model, guide = make_pair()
    kept = []

    class Keep(pl.Callback):
        def on_train_epoch_end(self, *args):
            kept.append(parameters(model, guide))

    options = {"patience": 3, "schedule": "constant", "lr": 1.0}
    result = run(tmp_path, model=model, guide=guide, epochs=30, callbacks=[Keep()], **options)
    assert result.stopped_early
    assert result.epochs < 30
    assert result.best_epoch == result.history["validation_loss"].idxmin() == result.epochs - 4
    again = make_pair()
    load(result.best, *again)
    assert_same(parameters(*again), kept[result.best_epoch])
    load(result.last, *again)
    assert_same(parameters(*again), parameters(model, guide))
    longer = run(tmp_path, epochs=60, resume=True, **options)
    assert longer.epochs == result.epochs


def test_patience_is_for_losses_that_are_not_finite_too():
    x = torch.randn(4, 1)
    model = Conjugate()
    guide = MeanFieldGuide(model, encoder=nn.Linear(1, 2))
    far = torch.full((1, 1), 1e300)  # beyond what a square can be
    result = quiet(model, guide, x, epochs=6, validation=far, patience=3)
    assert (result.epochs, result.stopped_early, result.best_epoch) == (3, True, None)


def test_epochs_without_a_validation_tell_none(tmp_path):
    options = {"trainer": {"check_val_every_n_epoch": 2}, "patience": 2}
    run(tmp_path, epochs=3, **options)
    result = run(tmp_path, epochs=5, resume=True, **options)
    assert result.history["validation_loss"].isna().tolist() == [True, False, True, False, True]


def start(*options, **environment):
    env = os.environ | environment
    command = [sys.executable, "-m", "tests.training_program", *options]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_signals_to_a_program(tmp_path, unbroken):
    """SIGINT and SIGTERM let the step finish, and give the exit code; SIGKILL leaves the last checkpoint."""
    signals = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
    programs = {number: start(str(tmp_path / number.name), json.dumps({"epochs": 100_000})) for number in signals}
    for number, program in programs.items():
        while not (tmp_path / number.name / "last.ckpt").exists():
            time.sleep(0.05)
            assert program.poll() is None, program.stderr.read()
        program.send_signal(number)
    for number, code in signals.items():
        _, error = programs[number].communicate(timeout=120)
        assert programs[number].returncode == code, error
        assert ("stopped by a signal" in error) == (number != signal.SIGKILL)
        epochs = torch.load(tmp_path / number.name / "last.ckpt", weights_only=True)["epoch"]
        have = resumed(tmp_path / number.name, epochs=epochs + 2)[0]
        assert have[:2] == unbroken[0]
        assert len(have) == epochs + 2


# Several processes.


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_with_the_batches_joined(tmp_path):
    options = {"devices": 2, "strategy": "ddp", "accelerator": "cpu", "batch_size": 3}
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    shared |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "GLOO_SOCKET_IFNAME": "lo"}
    programs = [
        start(str(tmp_path), json.dumps(options), RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in (0, 1)
    ]
    alone = losses(run(tmp_path / "alone", batch_size=6))
    for program in programs:
        out, error = program.communicate(timeout=240)
        assert program.returncode == 0, error
        for one, other in zip(alone, json.loads(out), strict=True):
            assert other == pytest.approx(one, rel=1e-9)


def test_shares_of_an_epoch_are_all_of_it():
    rows = torch.arange(10.0)
    source = InMemory((rows,), batch_size=2, transform=lambda x, generator: x + torch.rand(2, generator=generator))

    def batches(place):
        return list(Resumable(source, seed=3, epoch=lambda: 1, place=lambda: place))

    whole = [batch["args"][0] for batch in batches((0, 1))]
    assert sorted(torch.cat(whole).floor().tolist()) == rows.tolist()
    shares = [batches((rank, 2)) for rank in (0, 1)]
    assert_same([share[0]["args"][0] for share in shares], whole[:2])
    assert_same([share[1]["args"][0] for share in shares], whole[2:4])
    assert [share[2]["counts"] for share in shares] == [True, False]
    assert torch.equal(shares[0][2]["args"][0], whole[4])
    assert len(shares[1][2]["args"][0]) == 1


def test_an_epoch_is_a_function_of_the_seed_and_its_number():
    source = InMemory((torch.arange(6),), batch_size=6)

    def order(seed, epoch):
        batches = Resumable(source, seed=seed, epoch=lambda: epoch, place=lambda: (0, 1))
        return next(iter(batches))["args"][0].tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_processes_need_a_seed_and_modules():
    model, guide = make_pair()
    with pytest.raises(OptionError, match="several processes needs a seed"):
        quiet(model, guide, GREY.round(), epochs=1, devices=2, seed=None)


# Steps and data that fail.


def exploding():
    """A likelihood that is NaN for data whose first number is 2."""
    torch.manual_seed(0)

    class Explodes(Conjugate):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
                pyro.factor("burst", torch.where(x[:, 0] == 2, math.nan, z[:, 0] * 0))

    model, x = Explodes(), torch.randn(12, 1)
    x[7] = 2.0
    return model, MeanFieldGuide(model, encoder=nn.Linear(1, 2)), x


def test_steps_that_are_not_finite_are_skipped_counted_and_replayable(tmp_path, caplog):
    model, guide, x = exploding()
    with caplog.at_level(logging.WARNING):
        result = quiet(model, guide, x, epochs=3, batch_size=4, lr=1.0, schedule=decaying, bundle=tmp_path)
    assert result.skipped == 3
    assert result.history["skipped"].tolist() == [1, 1, 1]
    # Of the eight steps before the last, two or three were skipped, and do not count for the schedule.
    assert math.log(result.history["learning_rate"].iloc[-1], 0.9) == pytest.approx(5.5, abs=0.51)
    assert all(torch.isfinite(p).all() for p in parameters(model, guide))
    assert all(math.isfinite(loss) for loss in result.history["loss"])
    assert "first non-finite log density at site 'burst' of the model" in caplog.messages[0]
    found = sorted(tmp_path.glob("step-*.pt"))
    assert len(found) == 3
    again = replay(found[0], *exploding()[:2], ELBO())
    assert math.isnan(again.loss)
    assert again.recorded in caplog.messages[0] or caplog.messages[0].startswith(f"skipped {again.recorded}")


def test_too_many_of_them_stop_the_training():
    model, guide, x = exploding()
    with pytest.raises(DivergedError, match=r"training stopped at step \d+: loss nan; .*max_skipped=0"):
        quiet(model, guide, x, epochs=3, batch_size=4, max_skipped=0)


def test_steps_that_look_for_a_scale_are_not_counted():
    """Half precision multiplies its loss by a scale, too large at first, and skips what overflows."""
    torch.set_default_dtype(torch.float32)
    try:
        model, guide, x = exploding()
        x = x.float()
        guide.setup(x)
        before, skipped = parameters(model, guide), []
        for data in (x[8:], x):
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=10**6)
            plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
            strategy = SingleDeviceStrategy(device=torch.device("cpu"), precision_plugin=plugin)
            options = {"epochs": 30, "batch_size": 4, "strategy": strategy, "max_skipped": 30}
            skipped.append(quiet(model, guide, data, **options).skipped)
            assert 1 < scaler.get_scale() < 2.0**40
    finally:
        torch.set_default_dtype(torch.float64)
    assert skipped == [0, 30]
    assert all(torch.isfinite(p).all() for p in parameters(model, guide))
    assert not torch.equal(parameters(model, guide)[0], before[0])


def test_data_that_are_not_finite_are_no_step_to_skip():
    bad = GREY.round()
    bad[13, 2] = math.nan
    model, guide = make_pair()
    with pytest.raises(DataError, match=r"argument 0 must be finite; got 1 NaN"):
        quiet(model, guide, bad, epochs=1)
    with pytest.raises(DataError, match=r"batch 2 of epoch 0: argument 0 must be finite; got 1 NaN .* \(1, 2\)"):
        quiet(model, guide, DataLoader(TensorDataset(bad), batch_size=6), epochs=1)
    with pytest.raises(DataError, match=r"validation batch 2: argument 0 must be finite; got 1 NaN .* \(1, 2\)"):
        quiet(model, guide, GREY.round(), epochs=1, validation=DataLoader(TensorDataset(bad), batch_size=6))


class Shrinking(Dataset):
    """Its second batch is empty."""

    def __len__(self):
        return 4

    def __getitems__(self, indices):
        return [GREY[i].round() for i in indices if i < 2]


EMPTY = DataLoader(Shrinking(), batch_size=2, collate_fn=lambda rows: torch.stack(rows) if rows else GREY[:0])

BAD_DATA = {
    "no batches": (lambda: DataLoader(TensorDataset(GREY[:0]), batch_size=2), {}, DataError, "at least one batch"),
    "an empty batch": (lambda: EMPTY, {}, DataError, "batch 1 of the epoch has none"),
    "an unknown size": (lambda: [GREY.round()], {}, OptionError, "num_data must be given"),
    "an unknown length": (lambda: iter([GREY]), {"num_data": 20}, OptionError, "num_batches must be given"),
    "too few batches": (lambda: [GREY.round()], {"num_data": 20, "num_batches": 2}, DataError, "must have 2 batches"),
    "dictionaries": (lambda: [{"x": GREY}], {"num_data": 20}, DataError, "Write unpack="),
    "no data at all": (lambda: 3, {}, TypeError, "data must be tensors, a loader or a data module"),
    "a transform of a loader": (
        lambda: EMPTY,
        {"transform": lambda x, g: x},
        OptionError,
        "transform must not be given",
    ),
    "batches of a loader": (lambda: EMPTY, {"batch_size": 3}, OptionError, "batch_size must not be given"),
    "a number of tensors": (lambda: GREY.round(), {"num_data": 3}, OptionError, "num_data must not be given"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_are_refused(name):
    make, options, error, message = BAD_DATA[name]
    with pytest.raises(error, match=message):
        quiet(*make_pair(), make(), epochs=1, **options)


def test_minibatches_need_the_data_plate():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape).to_event(1), obs=x)

    with pytest.raises(ModelError, match="must hold its data in the plate 'data'"):
        quiet(model, MeanFieldGuide(model), torch.randn(10), epochs=1, batch_size=5)
    quiet(model, MeanFieldGuide(model), torch.randn(10), epochs=1)  # all data at once need none


BAD_OPTIONS = {
    "epochs": ({"epochs": 0}, OptionError, "epochs must be a whole number"),
    "batch_size": ({"batch_size": 0}, OptionError, "batch_size must be a whole number"),
    "lr": ({"lr": -1.0}, OptionError, "lr must be positive"),
    "patience": ({"patience": 0}, OptionError, "patience must be"),
    "patience without validation": ({"patience": 1}, OptionError, "patience needs validation"),
    "resume": ({"resume": True}, OptionError, "need a folder"),
    "loggers": ({"loggers": "csv"}, OptionError, "need a folder"),
    "trainer": ({"trainer": {"max_epochs": 3}}, OptionError, "write epochs= instead"),
    "trainer, fixed": ({"trainer": {"inference_mode": True}}, OptionError, "fixed; leave it out"),
    "optim": ({"optim": pyro.optim.Adam({"lr": 0.1})}, TypeError, "torch optimizer class"),
    "compile": ({"compile": "always"}, OptionError, "compile must be True, False or 'auto'"),
    "schedule": ({"schedule": "cosin"}, OptionError, "Did you mean 'cosine'"),
    "unknown": ({"epoch": 3}, TypeError, "epoch"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_refused(name):
    options, error, message = BAD_OPTIONS[name]
    with pytest.raises(error, match=message):
        quiet(*make_pair(), GREY.round(), **({"epochs": 1} | options))


# Checkpoints.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(folder, epochs=1)
    return (folder / "last.ckpt").read_bytes()


@pytest.fixture
def checkpoint(tmp_path, finished):
    path = tmp_path / "last.ckpt"
    path.write_bytes(finished)
    return path


def test_a_folder_with_a_training_is_not_written_over(checkpoint, finished):
    with pytest.raises(OptionError, match="holds a training already. Write resume=True"):
        run(checkpoint.parent)
    assert checkpoint.read_bytes() == finished


@pytest.mark.parametrize("name", ["lr", "seed", "objective", "batch_size", "optim", "schedule", "num_data"])
def test_other_settings_are_refused(checkpoint, finished, name):
    others = {"lr": 0.1, "seed": 1, "objective": ELBO(), "batch_size": 3, "optim": torch.optim.SGD}
    others |= {"schedule": "constant", "num_data": GREY[:18].round()}
    options = {"data" if name == "num_data" else name: others[name]}
    with pytest.raises(OptionError, match=f"{name} must stay as it was"):
        run(checkpoint.parent, resume=True, **({"batch_size": 6} | options))
    assert checkpoint.read_bytes() == finished


def test_checkpoints_of_other_models_are_refused(checkpoint, finished):
    model = VAE(MLPDecoder(1, event_shape=(4,), hidden=(5,)), latent_dim=1)
    guide = HamiltonianGuide(model, num_steps=1, encoder=MLPEncoder((4,), output_dim=2, hidden=(3,)))
    with pytest.raises(ModelError, match="model must have the parameters that the file has"):
        run(checkpoint.parent, model=model, guide=guide, resume=True)
    assert checkpoint.read_bytes() == finished


def test_checkpoints_cut_short_are_refused(checkpoint, finished):
    for size in (0, 100, len(finished) // 2):
        checkpoint.write_bytes(finished[:size])
        with pytest.raises(DataError, match=r"last\.ckpt must be a whole file"):
            run(checkpoint.parent, resume=True)
        assert checkpoint.read_bytes() == finished[:size]


def test_checkpoints_of_other_versions_are_refused(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"format": 0}, checkpoint)
    with pytest.raises(DataError, match="must have format 1; got 0"):
        run(checkpoint.parent, resume=True)


def test_a_full_disk_leaves_the_older_checkpoint(checkpoint, finished):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run(checkpoint.parent, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.read_bytes() == finished
    assert [path.name for path in checkpoint.parent.iterdir()] == ["last.ckpt"]


# Loggers.


def test_loggers_tell_what_the_history_tells(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(tmp_path, loggers=["csv", "tensorboard"])
    table = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(table[0].split(","), row.split(","), strict=True)) for row in table[1:]]
    assert [float(row["loss"]) for row in rows] == pytest.approx(result.history["loss"].tolist(), rel=1e-6)
    assert [float(row["kl[z]"]) for row in rows] == pytest.approx(result.history["kl[z]"].tolist(), rel=1e-6)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "version_0"))
    events.Reload()
    told = [event.value for event in events.Scalars("validation_loss")]
    assert told == pytest.approx(result.history["validation_loss"].tolist(), rel=1e-6)


@pytest.mark.slow
def test_weights_and_biases_work_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run(tmp_path, loggers="wandb", epochs=1)
    import wandb

    wandb.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_unknown_loggers_are_refused(tmp_path):
    with pytest.raises(OptionError, match="loggers must be one of 'csv', 'tensorboard', 'wandb'"):
        run(tmp_path, loggers="cvs")


def test_handlers_around_are_seen(unbroken):
    with poutine.scale(scale=2.0):
        assert losses(run())[0]["validation_loss"] != unbroken[0][0]["validation_loss"]
