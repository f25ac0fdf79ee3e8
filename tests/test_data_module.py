"""Batches and Lightning: what a resumed run sees, and that validation and test never change."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from guides import MeanFieldGuide, UniformDequantisation
from guides.errors import OptionError
from ppl_models import VAE, FlowDensity
from ppl_models.datasets import Batches, DataModule, digits, toy_data
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.training import train


def numbered(count: int = 23) -> Tensor:
    return torch.arange(count, dtype=torch.float32).unsqueeze(-1)


def epoch(batches: Batches, number: int) -> list[list[float]]:
    batches.set_epoch(number)
    return [batch.flatten().tolist() for batch in batches]


# -------------------------------------------------------------------------------------------------------------- Batches


def test_every_epoch_shows_each_datum_once_in_an_order_of_its_own():
    batches = Batches(numbered(), batch_size=5, seed=1)
    first, second = epoch(batches, 0), epoch(batches, 1)
    assert [len(batch) for batch in first] == [5, 5, 5, 5, 3]
    assert len(batches) == 5
    for shown in (first, second):
        assert sorted(number for batch in shown for number in batch) == numbered().flatten().tolist()
    assert first != second
    assert first[0] != sorted(first[0])


def test_an_epoch_depends_on_the_seed_and_its_number_alone():
    batches, other = (Batches(numbered(), batch_size=5, seed=seed) for seed in (1, 2))
    seventh = epoch(batches, 7)
    epoch(batches, 3)
    torch.manual_seed(99)
    assert epoch(batches, 7) == seventh
    assert epoch(Batches(numbered(), batch_size=5, seed=1), 7) == seventh
    assert epoch(other, 7) != seventh


def test_passes_are_successive_epochs_if_nobody_counts():
    batches = Batches(numbered(), batch_size=5, seed=1)
    passes = [[batch.flatten().tolist() for batch in batches] for _ in range(3)]
    assert passes == [epoch(batches, number) for number in range(3)]


def test_pixels_are_drawn_anew_in_every_epoch_and_the_same_for_the_same_batch():
    grey = torch.full((40, 1, 10, 10), 0.3)
    batches = Batches(grey, batch_size=20, seed=1, dynamic=True)
    state = torch.get_rng_state()
    batches.set_epoch(2)
    first, second = batches
    batches.set_epoch(3)
    third, _ = batches
    batches.set_epoch(2)
    assert torch.equal(next(iter(batches)), first)
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    drawn = torch.cat([first, second, third])
    assert abs(drawn.mean().item() - 0.3) < 5 * math.sqrt(0.21 / drawn.numel())
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_seed_the_order_is_that_of_the_data():
    batches = Batches(numbered(7), batch_size=3)
    assert epoch(batches, 0) == epoch(batches, 5) == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_short_last_batch_may_be_dropped():
    batches = Batches(numbered(), batch_size=5, seed=1, drop_last=True)
    assert [len(batch) for batch in epoch(batches, 0)] == [5] * 4
    assert len(batches) == 4
    assert len(Batches(numbered(20), batch_size=5, seed=1, drop_last=True)) == 4


@pytest.mark.parametrize("done", [0, 1, 4, 5])
def test_a_restored_place_is_where_the_epoch_goes_on(done):
    whole = epoch(Batches(numbered(), batch_size=5, seed=1), 6)
    batches, again = (Batches(numbered(), batch_size=5, seed=1) for _ in range(2))
    batches.set_epoch(6)
    going = iter(batches)
    for _ in range(done):
        next(going)
    again.load_state_dict(batches.state_dict())
    shown = iter(again)
    again.set_epoch(6)  # Lightning says it after ``iter``
    assert [batch.flatten().tolist() for batch in shown] == whole[done % 5 :]
    assert epoch(again, 6) == whole
    # The place holds for one pass, even one that breaks off.
    again.load_state_dict({"epoch": 6, "next": 2})
    next(iter(again))
    assert epoch(again, 6) == whole


def test_a_place_in_another_epoch_is_forgotten():
    batches = Batches(numbered(), batch_size=5, seed=1)
    batches.load_state_dict({"epoch": 6, "next": 3})
    assert len(epoch(batches, 7)) == 5


@pytest.mark.parametrize("num", [23, 28])
def test_processes_share_an_epoch_out(num):
    whole = epoch(Batches(numbered(num), batch_size=5, seed=1), 2)
    shares = []
    for rank in (0, 1):
        # PyTorch's group of processes that are not there.
        distributed.init_process_group("fake", rank=rank, world_size=2, store=FakeStore())
        try:
            shares.append(epoch(Batches(numbered(num), batch_size=5, seed=1), 2))
            assert len(epoch(Batches(numbered(num), batch_size=5), 2)) == len(whole)
        finally:
            distributed.destroy_process_group()
    pairs = len(whole) // 2
    assert shares == [whole[0 : 2 * pairs : 2], whole[1 : 2 * pairs : 2]]


def test_bad_options_of_batches_are_named():
    with pytest.raises(OptionError, match=r"batch_size must be a whole number of at least 1; got 0"):
        Batches(numbered(), batch_size=0)
    with pytest.raises(OptionError, match=r"batch_size must be at most 23 with drop_last=True; got 24"):
        Batches(numbered(), batch_size=24, drop_last=True)
    with pytest.raises(OptionError, match=r"seed must be a whole number, at least 0 .*; got -1"):
        Batches(numbered(), batch_size=5, seed=-1)
    with pytest.raises(OptionError, match=r"seed must be given with dynamic=True; got None"):
        Batches(numbered(), batch_size=5, dynamic=True)


# ------------------------------------------------------------------------------------------------------------ Lightning


class Recorder(LightningModule):
    """Learn nothing, and write down what is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained: list[tuple[int, Tensor]] = []
        self.validated: list[Tensor] = []

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        self.trained.append((self.current_epoch, batch))
        return self.weight * batch.to(self.weight.dtype).mean()

    def validation_step(self, batch: Tensor, _: int) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Saver(Callback):
    """Save after a given number of steps, or at the end of the first epoch."""

    def __init__(self, path: Path, step: int | None) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, *_: object) -> None:
        if self.step is None and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def run(data: DataModule, *callbacks: Callback, resume: Path | None = None) -> Recorder:
    recorder = Recorder()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(
        max_epochs=3, num_sanity_val_steps=0, enable_model_summary=False, callbacks=list(callbacks), **options
    )
    trainer.fit(recorder, datamodule=data, ckpt_path=resume)
    return recorder


def module(seed: int = 3) -> DataModule:
    return DataModule(digits(), batch_size=300, seed=seed)  # 5 batches an epoch, the last one shorter


@pytest.mark.parametrize("step", [2, 5, 8, None])
def test_a_resumed_run_sees_what_it_would_have_seen(tmp_path, step):
    whole = run(module(), Saver(tmp_path / "saved.ckpt", step))
    assert [number for number, _ in whole.trained] == [0] * 5 + [1] * 5 + [2] * 5
    resumed = run(module(), resume=tmp_path / "saved.ckpt")
    rest = whole.trained[5 if step is None else step :]
    assert [number for number, _ in resumed.trained] == [number for number, _ in rest]
    for (_, shown), (_, expected) in zip(resumed.trained, rest, strict=True):
        assert torch.equal(shown, expected)


def test_a_run_shows_epochs_that_differ_and_a_validation_set_that_does_not():
    data = module()
    recorder = run(data)
    epochs = [torch.cat([batch for at, batch in recorder.trained if at == number]) for number in range(3)]
    assert [len(each) for each in epochs] == [1257] * 3
    assert not torch.equal(epochs[0], epochs[1])
    assert [len(batch) for batch in recorder.validated] == [180] * 3
    assert all(torch.equal(batch, digits().validation) for batch in recorder.validated)
    for (_, shown), expected in zip(recorder.trained, module().train_dataloader(), strict=False):
        assert torch.equal(shown, expected)


def test_runs_with_other_seeds_share_the_split():
    first, second = module(3), module(4)
    batches = [next(iter(each.train_dataloader())) for each in (first, second)]
    assert not torch.equal(*batches)
    assert torch.equal(first.data.train, second.data.train)
    for part in ("val_dataloader", "test_dataloader"):
        assert torch.equal(torch.cat(list(getattr(first, part)())), torch.cat(list(getattr(second, part)())))


def test_static_images_are_binarised_once():
    data = DataModule("digits", batch_size=1257, seed=1, static_seed=2)
    other = DataModule("digits", batch_size=1257, seed=5, static_seed=2)
    epochs = [next(iter(each.train_dataloader())) for each in (data, data, other)]
    assert set(epochs[0].unique().tolist()) == {0.0, 1.0}
    rows = [sorted(map(tuple, each.flatten(1).tolist())) for each in epochs]
    assert rows[0] == rows[1] == rows[2]
    third = next(iter(DataModule("digits", batch_size=1257, seed=1, static_seed=3).train_dataloader()))
    assert sorted(map(tuple, third.flatten(1).tolist())) != rows[0]


GREY_MODELS = {
    "categorical": lambda: VAE(
        MLPDecoder(2, event_shape=(1, 8, 8, 17), hidden=(8,)), latent_dim=2, likelihood="categorical", levels=17
    ),
    "discretised_logistic": lambda: VAE(
        MLPDecoder(2, event_shape=(1, 8, 16), hidden=(8,)), latent_dim=2, likelihood="discretised_logistic", levels=17
    ),
    "flow": lambda: FlowDensity.images((1, 8, 8), levels=17, num_scales=2, num_couplings=1, hidden=4, depth=1),
}


@pytest.mark.parametrize("name", GREY_MODELS)
def test_grey_images_stay_grey_and_train_models_of_grey_levels(name):
    torch.manual_seed(0)
    every = digits(binary=False)
    few = {part: getattr(every, part)[:60] for part in ("train", "train_labels")}
    data = DataModule(replace(every, **few), batch_size=30, seed=1)
    for loader, images in (
        (data.train_dataloader(), data.data.train),
        (data.val_dataloader(), every.validation),
        (data.test_dataloader(), every.test),
    ):
        shown = torch.cat(list(loader))
        assert torch.equal(shown.flatten().sort().values, images.flatten().sort().values)
        assert len(shown.unique()) == 17
    model = GREY_MODELS[name]()
    if name == "flow":
        guide = UniformDequantisation(model)
    else:
        guide = MeanFieldGuide(model, encoder=MLPEncoder((1, 8, 8), output_dim=4, hidden=(8,)).float())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        result = train(model.float(), guide, data, epochs=3, lr=1e-2, seed=0, accelerator="cpu", progress=False)
    losses = [each["validation_loss"] / len(every.validation) for each in result.records]
    # Less than equal probabilities for all levels give, or soon so: all 64 pixels were judged as grey levels.
    assert losses[-1] < losses[0] < 2 * 64 * math.log(17)


def test_grey_images_have_no_static_binarisation():
    with pytest.raises(OptionError, match=r"only for images that are to be binary; got 2 with .*binary=False"):
        DataModule(digits(binary=False), static_seed=2)


def test_points_stay_as_they_are():
    points = toy_data("rings", num_train=10, num_validation=4, num_test=4)
    data = DataModule(points, batch_size=4, drop_last=True)
    shown = torch.cat(list(data.train_dataloader()))
    assert len(shown) == 8
    assert {*map(tuple, shown.tolist())} <= {*map(tuple, points.train.tolist())}
    assert torch.equal(torch.cat(list(data.test_dataloader())), points.test)
    assert repr(data) == f"DataModule({points!r})"
    with pytest.raises(OptionError, match=r"static_seed is only for images that .*; got 1 with .*'rings'"):
        DataModule(points, static_seed=1)
    with pytest.raises(OptionError, match=r"Did you mean 'rings'\?"):
        DataModule("ring")
