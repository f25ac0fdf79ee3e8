"""fit: minibatches, seeds, clipping, schedules, and steps that are not finite."""

from __future__ import annotations

import functools
import logging
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from torch import nn

from guides import (
    DataError,
    DivergedError,
    FullRankGuide,
    HamiltonianGuide,
    MeanFieldGuide,
    ModelError,
    OptionError,
    PlanarGuide,
)
from ppl_models import VAE, OffsetGaussian
from ppl_models.datasets import binarise
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import ELBO, IWAE
from ppl_models.training import fit, train
from ppl_models.training.batches import minibatches
from ppl_models.training.schedules import SCHEDULES

quiet = functools.partial(fit, progress=False)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(200, 2) * torch.tensor([0.5, 1.5]) + 1


def fitted(x, *, guide=MeanFieldGuide, **options):
    gaussian = OffsetGaussian(2)
    guide = guide(gaussian)
    result = quiet(gaussian, guide, x, **({"steps": 20, "seed": 0} | options))
    return gaussian, guide, result


def test_it_finds_the_maximum_likelihood_and_the_exact_posterior(x):
    gaussian, guide, result = fitted(x, steps=1000, lr=0.05, schedule="cosine", objective=ELBO(num_particles=50))
    offset, scale = gaussian.maximum_likelihood(x)
    posterior = gaussian.exact_posterior(x)
    torch.testing.assert_close(gaussian.scale.detach(), scale, rtol=1e-3, atol=0)
    assert (guide.loc + gaussian.offset - offset).abs().max() < 0.02
    torch.testing.assert_close(guide.log_scale.exp().detach(), posterior.stddev.detach(), rtol=0.02, atol=0)
    assert result.skipped == 0


def test_history_is_a_tidy_table(x):
    _, _, result = fitted(x, steps=12, validation=x[:50], validate_every=5)
    history = result.history
    assert list(history.columns)[:8] == [
        "step", "epoch", "loss", "validation_loss", "gradient_norm", "learning_rate", "skipped", "seconds"
    ]  # fmt: skip
    assert history["step"].tolist() == list(range(12))
    assert history["validation_loss"].notna().to_numpy().nonzero()[0].tolist() == [4, 9, 11]
    assert history["seconds"].is_monotonic_increasing
    assert result.num_parameters == 8


def test_same_seed_same_fit_and_the_global_state_stays(x):
    state = torch.random.get_rng_state()
    first = fitted(x, batch_size=30)[2].history["loss"]
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(3)
    assert (fitted(x, batch_size=30)[2].history["loss"] == first).all()
    assert (fitted(x, batch_size=30, seed=1)[2].history["loss"] != first).any()


@pytest.mark.parametrize("learn", [fit, functools.partial(train, epochs=3, batch_size=20)])
def test_training_draws_other_noise_than_its_judges_by_the_same_seed(learn, x):
    # What a flexible guide has learned by heart would put its ELBO above the evidence.
    drawn = []

    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(2))
        drawn.append(pyro.sample("z", dist.Normal(loc, 1.0).to_event(1)).detach())

    options = {"steps": 30} if learn is fit else {}
    learn(model, guide, x, lr=1e-12, seed=7, progress=False, **options)
    pyro.clear_param_store()
    torch.manual_seed(7)
    judges = torch.stack([torch.randn(2) for _ in range(100)])
    assert len(drawn) >= 30
    assert (torch.stack(drawn)[:, None] - judges).abs().min() > 1e-7


def test_order_and_transform_have_a_seed_of_their_own(x):
    seeds = []

    def transform(batch, generator):
        seeds.append(generator.initial_seed())
        return batch

    fitted(x, batch_size=50, transform=transform, steps=2, seed=7)
    fitted(x, batch_size=50, transform=transform, steps=2, seed=8)
    assert len(set(seeds)) == 2
    assert not {7, 8} & set(seeds)


def test_validation_does_not_change_training(x):
    plain = fitted(x)[2].history["loss"]
    assert (fitted(x, validation=x, validate_every=1)[2].history["loss"] == plain).all()


def test_validation_has_the_same_noise_every_time(x):
    history = fitted(x, lr=1e-12, validation=x, validate_every=4)[2].history["validation_loss"].dropna()
    assert len(history) == 5
    assert history.to_numpy() == pytest.approx(history.iloc[0], rel=1e-8)


@pytest.mark.parametrize("guide", [MeanFieldGuide, FullRankGuide])
def test_validation_is_of_its_own_data_whatever_the_minibatches(x, guide):
    losses = [
        fitted(x, guide=guide, lr=1e-12, steps=1, batch_size=size, validation=x[:10], objective=ELBO(num_particles=5))[
            2
        ]
        .history["validation_loss"]
        .iloc[-1]
        for size in (None, 20, 200)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_a_guide_fitted_on_a_summary_takes_all_data(x):
    gaussian, guide, _ = fitted(x, guide=functools.partial(HamiltonianGuide, num_steps=2), steps=2)
    draws = Predictive(guide, num_samples=200, parallel=True, return_sites=("z",))(x)["z"]
    again = Predictive(guide, num_samples=200, parallel=True, return_sites=("z",))(gaussian.summarise(x))["z"]
    assert draws.numel() == again.numel() == 400
    torch.testing.assert_close(draws.std(0).flatten(), again.std(0).flatten(), rtol=0.4, atol=0)


def test_guides_of_other_models_are_refused(x):
    gaussian, other = OffsetGaussian(2), OffsetGaussian(2)
    with pytest.raises(ModelError, match="guide must be a guide of this model"):
        quiet(gaussian, MeanFieldGuide(other), x)
    with pytest.raises(TypeError, match="guide must be a function or an object that can be called"):
        quiet(gaussian, MeanFieldGuide, x)
    with pytest.raises(TypeError, match="were model and guide exchanged"):
        quiet(MeanFieldGuide(gaussian), gaussian, x)

    def stranger(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))

    with pytest.raises(ModelError, match=r"latents, \['z'\]; got \['w'\]"):
        quiet(gaussian, stranger, x)


def local_latents(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.1), obs=x)


@pytest.mark.parametrize("ready", [False, True])
def test_local_latents_in_minibatches_need_an_encoder(ready):
    x, guide = torch.randn(20), MeanFieldGuide(local_latents)
    if ready:
        guide.setup(x)
    with pytest.raises(ModelError, match="only a minibatch is seen, need an encoder"):
        quiet(local_latents, guide, x, batch_size=5)


def test_order_of_data_does_not_depend_on_the_guide(x):
    seen = {}
    for guide in (MeanFieldGuide, functools.partial(PlanarGuide, num_layers=2)):
        batches = seen.setdefault(guide, [])

        def spy(batch, generator, batches=batches):
            batches.append(batch.clone())
            return batch + torch.rand(batch.shape, generator=generator)

        fitted(x, guide=guide, batch_size=64, transform=spy)
    first, second = seen.values()
    assert len(first) == 20
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_epoch_is_a_new_order_of_all_rows():
    rows = torch.arange(10.0)
    batches = minibatches((rows, "constant"), 4, None, torch.Generator().manual_seed(0))
    epochs = [[next(batches) for _ in range(3)] for _ in range(2)]
    orders = [torch.cat([args[0] for _, args in epoch]) for epoch in epochs]
    assert [epoch for epoch, _ in epochs[1]] == [1, 1, 1]
    assert [len(args[0]) for _, args in epochs[0]] == [4, 4, 2]
    assert all(args[1] == "constant" for _, args in epochs[0])
    assert all(torch.equal(order.sort().values, rows) for order in orders)
    assert not torch.equal(*orders)


def test_minibatches_find_what_all_data_find(x):
    # What all data find is the maximum likelihood, as above.
    options = {"lr": 0.03, "schedule": "cosine", "objective": ELBO(num_particles=10)}
    parts, guide, _ = fitted(x, steps=1200, batch_size=50, **options)
    torch.testing.assert_close(parts.scale.detach(), parts.maximum_likelihood(x)[1], rtol=0.02, atol=0)
    # The posterior knows all N data: with N := B its scale would be twice as large.
    expected = parts.exact_posterior(x).stddev.detach()
    torch.testing.assert_close(guide.log_scale.exp().detach(), expected, rtol=0.1, atol=0)


def test_the_summary_is_made_once(x):
    calls = []

    class Counting(OffsetGaussian):
        def summarise(self, x):
            calls.append(len(x))
            return super().summarise(x)

    gaussian = Counting(2)
    quiet(gaussian, MeanFieldGuide(gaussian), x, steps=5)
    assert calls == [200]


def test_gradients_are_clipped_before_the_step(x):
    gaussian, *_ = fitted(x, steps=1, optim=torch.optim.SGD, lr=1.0, max_grad_norm=1e-3)
    moved = torch.cat([gaussian.offset.detach(), gaussian.log_scale.detach()]).norm()
    assert 0 < moved <= 1e-3
    unclipped, *_ = fitted(x, steps=1, optim=torch.optim.SGD, lr=1e-6)
    assert unclipped.log_scale.detach().norm() > 1e-6 * 10


@pytest.mark.parametrize("optim", [torch.optim.Adam, torch.optim.AdamW])
def test_the_fused_optimizer_is_the_optimizer(x, optim, monkeypatch):
    found, kinds = [], []
    post = optim.__init__

    def watched(self, *args, **kwargs):
        post(self, *args, **kwargs)
        kinds.append(self.defaults["fused"])

    monkeypatch.setattr(optim, "__init__", watched)
    for make in (optim, functools.partial(optim)):  # what is no class of torch's is called as it is
        gaussian = OffsetGaussian(2)
        guide = MeanFieldGuide(gaussian)
        fit(gaussian, guide, x, optim=make, lr=0.1, steps=20, seed=0, progress=False)
        found.append([p.detach() for p in [*gaussian.parameters(), *guide.parameters()]])
    assert kinds == [True, None]
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-10, atol=1e-12)


def test_schedules(x):
    assert fitted(x, steps=4, lr=0.1)[2].history["learning_rate"].tolist() == [0.1] * 4
    cosine = fitted(x, steps=4, lr=0.1, schedule="cosine")[2].history["learning_rate"]
    assert cosine.tolist() == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)])
    halving = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    assert fitted(x, steps=3, lr=0.1, schedule=halving)[2].history["learning_rate"].tolist() == [0.1, 0.05, 0.025]


def test_the_study_s_schedule_counts_epochs(x):
    rates = [SCHEDULES["study"](0.0, epoch) for epoch in (0, 150, 151, 575, 1000, 2000)]
    assert rates == pytest.approx([1.0, 1.0, 1 - 1 / 850, 0.5, 0.0, 0.0])
    history = fitted(x, steps=330, lr=0.1, batch_size=100, schedule="study")[2].history
    assert history["learning_rate"].tolist() == [0.1 * SCHEDULES["study"](0.0, epoch) for epoch in history["epoch"]]
    assert history["learning_rate"].iloc[-1] < 0.1


def test_frozen_parameters_stay(x):
    gaussian = OffsetGaussian(2).requires_grad_(False)
    result = quiet(gaussian, MeanFieldGuide(gaussian), x, steps=3)
    assert gaussian.offset.abs().sum() == 0
    assert result.num_parameters == 4
    with pytest.raises(OptionError, match="nothing to train"):
        quiet(gaussian, MeanFieldGuide(gaussian).setup(x).requires_grad_(False), x, steps=3)


def test_pyro_s_guides_are_trained(x):
    gaussian = OffsetGaussian(2)
    guide = pyro.infer.autoguide.AutoDiagonalNormal(gaussian)
    result = quiet(gaussian, guide, x, steps=3, seed=0)
    assert result.num_parameters == 8
    assert guide.loc.abs().min() > 0


@pytest.mark.parametrize("guide", [MeanFieldGuide, functools.partial(HamiltonianGuide, num_steps=2)])
def test_functions_with_global_parameters_are_trained(x, guide):
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    result = quiet(model, guide(model), x[:, 1], steps=300, lr=0.05, seed=0)
    assert result.num_parameters > 2
    assert pyro.param("scale").item() == pytest.approx(x[:, 1].std().item(), rel=0.1)
    pyro.clear_param_store()


def test_amortised_guides_train_on_binarised_minibatches():
    images = torch.rand(40, 1, 4, 4)
    vae = VAE(MLPDecoder(2, event_shape=(1, 4, 4), hidden=(8,)), latent_dim=2)
    guide = HamiltonianGuide(vae, encoder=MLPEncoder((1, 4, 4), output_dim=4, hidden=(8,)), num_steps=2)
    result = quiet(vae, guide, images, objective=IWAE(num_particles=3), steps=6, batch_size=16, transform=binarise)
    assert result.history["epoch"].tolist() == [0, 0, 0, 1, 1, 1]
    assert result.history["loss"].between(300, 700).all()  # 40 images of 16 pixels near log 2 each: scaled to all data


class Explodes(OffsetGaussian):
    """Its log density is infinite on chosen calls."""

    bad = ()
    calls = 0

    def forward(self, x=None, *, num=None):
        self.calls += 1
        value = super().forward(x, num=num)
        if self.calls in self.bad:
            pyro.factor("burst", self.offset.sum() * math.inf)
        return value


@pytest.fixture
def explodes() -> Explodes:
    gaussian = Explodes(2, offset=1.0)
    # Two calls find the latents and the parameters; every skipped step takes one more, to be described.
    gaussian.bad = (5, 6, 8, 9)
    return gaussian


def test_steps_that_are_not_finite_are_skipped_and_counted(explodes, x, caplog):
    with caplog.at_level(logging.WARNING):
        result = quiet(explodes, MeanFieldGuide(explodes), x, steps=8, seed=0)
    assert result.skipped == 2
    assert result.history["skipped"].sum() == 2
    assert all(torch.isfinite(p).all() for p in explodes.parameters())
    message = caplog.messages[0]
    assert "skipped step 2: loss -inf" in message or "skipped step 2: loss nan" in message
    assert "'burst' of the model" in message
    assert "gradients of model.offset" in message


def test_the_first_site_at_fault_is_named_with_that_step_s_own_noise(x, caplog):
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.factor("rare", torch.where(loc > 0, -math.inf, 0.0))
        pyro.factor("after", torch.where(loc > 0, -math.inf, 0.0))

    with caplog.at_level(logging.WARNING):
        result = quiet(model, MeanFieldGuide(model, init_scale=1.0), x, steps=20, lr=1e-6, seed=0)
    assert 0 < result.skipped < 20
    assert all("first non-finite log density at site 'rare' of the model" in message for message in caplog.messages)


def test_a_fault_in_the_gradient_alone_is_told(x, caplog):
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.factor("edge", (loc - loc).sqrt())  # zero, with an infinite slope

    with caplog.at_level(logging.WARNING):
        quiet(model, MeanFieldGuide(model), x, steps=1, seed=0)
    assert "every site is finite: the fault lies in the gradient; non-finite gradients of guide.loc" in caplog.text


def test_a_skipped_step_changes_no_parameter(explodes, x):
    explodes.bad = range(3, 100)
    with pytest.raises(DivergedError, match=r"step 2: .*'burst' of the model.* 3 steps were skipped, max_skipped=2"):
        quiet(explodes, MeanFieldGuide(explodes), x, steps=8, seed=0, max_skipped=2)
    assert (explodes.offset == 1).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, OptionError, "steps must be a whole number of at least 1; got 0"),
        ({"lr": -1.0}, OptionError, "lr must be positive and finite; got -1.0"),
        ({"lr": math.nan}, OptionError, "lr must be positive"),
        ({"batch_size": 0}, OptionError, "batch_size must be a whole number of at least 1; got 0"),
        ({"batch_size": 201}, OptionError, "batch_size must be between 1 and the number of data, 200; got 201"),
        ({"batch_size": 2.5}, OptionError, "got 2.5"),
        ({"objective": ELBO}, TypeError, "objective must be an Objective; got .*Write objective=ELBO"),
        ({"max_grad_norm": 0.0}, OptionError, "max_grad_norm must be positive"),
        ({"max_skipped": -1}, OptionError, "max_skipped must be a whole number of at least 0; got -1"),
        ({"validate_every": 0}, OptionError, "validate_every must be a whole number of at least 1; got 0"),
        ({"schedule": torch.optim.lr_scheduler.ReduceLROnPlateau}, OptionError, "ReduceLROnPlateau, which waits for"),
        ({"schedule": "cosin"}, OptionError, "schedule must be one of 'constant', 'cosine', 'study'; got 'cosin'. Did"),
        ({"step": 3}, TypeError, "step"),
        ({"optim": pyro.optim.Adam({"lr": 0.1})}, TypeError, "optim must be a torch optimizer class"),
    ],
)
def test_bad_options_are_refused(x, options, error, message):
    with pytest.raises(error, match=message):
        fitted(x, **options)


def test_bad_data_are_refused(x):
    gaussian = OffsetGaussian(2)
    with pytest.raises(DataError, match=r"argument 0 must be finite; got 1 NaN or infinite values, .* \(3, 1\)"):
        quiet(gaussian, MeanFieldGuide(gaussian), torch.where(x == x[3, 1], torch.nan, x))
    with pytest.raises(DataError, match="must share a first dimension"):
        quiet(lambda a, b: None, lambda a, b: None, x, x[:3], batch_size=2)
    with pytest.raises(DataError, match="must have dimension 2, as the model; got dimension 3"):
        quiet(gaussian, MeanFieldGuide(gaussian), torch.zeros(4, 3))


def test_minibatches_need_the_data_plate():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    with pytest.raises(ModelError, match="plate 'data'"):
        quiet(model, MeanFieldGuide(model), torch.zeros(10), batch_size=2)


def test_progress_goes_to_the_error_stream(x, capfd):
    gaussian = OffsetGaussian(2)
    fit(gaussian, MeanFieldGuide(gaussian), x, steps=3, description="offset gaussian")
    out, err = capfd.readouterr()
    assert out == ""
    assert "offset gaussian" in err
    assert "3/3" in err


def test_modes_come_back(x):
    vae = VAE(MLPDecoder(2, event_shape=(2,), hidden=(4,)), latent_dim=2, likelihood="bernoulli")
    guide = MeanFieldGuide(vae, encoder=nn.Sequential(MLPEncoder((2,), output_dim=4, hidden=(4,)), nn.Dropout(0.5)))
    vae.eval()
    quiet(vae, guide, (x > 0).double(), steps=2, batch_size=20, validation=(x > 0).double(), validate_every=1)
    assert not vae.training
    assert guide.encoder[1].training
