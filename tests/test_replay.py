"""Steps that were not finite, written to disk and run again; denormals; what an objective tells of its loss."""

from __future__ import annotations

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from guides import DataError, DivergedError, HamiltonianGuide, MeanFieldGuide, ModelError
from ppl_models import VAE, OffsetGaussian
from ppl_models.datasets import binarise
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import ELBO, Estimate
from ppl_models.training import fit, replay
from ppl_models.training.denormals import denormals_are_zero, flushing_denormals
from ppl_models.training.random_state import random_state, restored

quiet = functools.partial(fit, progress=False)


class Rare(OffsetGaussian):
    """Its log density is infinite where a latent is beyond a limit: on some draws."""

    def forward(self, x=None, *, num=None):
        z = super().forward(x, num=num)
        pyro.factor("cliff", torch.where(self.noise > 1.5, math.inf, 0.0) * self.offset.sum().exp())
        return z

    @property
    def noise(self):
        return torch.randn(())


def fitted(folder, **options):
    model = Rare(2)
    guide = MeanFieldGuide(model)
    data = torch.randn(50, 2)
    return model, guide, quiet(model, guide, data, seed=0, bundle=folder, **({"steps": 60, "lr": 0.05} | options))


@pytest.mark.parametrize("batch_size", [None, 20])
def test_a_bundle_is_the_same_step_again(tmp_path, batch_size):
    _, _, result = fitted(tmp_path, batch_size=batch_size)
    history = result.history
    bad = history["step"][history["skipped"]].tolist()
    assert 1 <= len(bad) < 20
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"step-{step}.pt" for step in bad)
    model = Rare(2)
    guide = MeanFieldGuide(model)
    state = torch.get_rng_state()
    again = replay(tmp_path / f"step-{bad[-1]}.pt", model, guide, ELBO())
    assert torch.equal(state, torch.get_rng_state())
    assert again.step == bad[-1]
    assert again.loss == pytest.approx(history["loss"][bad[-1]], nan_ok=True)
    assert "first non-finite log density at site 'cliff' of the model" in again.message
    assert "gradients of model.offset" in again.message
    assert again.recorded == f"step {bad[-1]}: loss {again.loss:g}; {again.message}"
    content = torch.load(tmp_path / f"step-{bad[-1]}.pt", weights_only=True)
    assert len(content["batch"]) == 1
    assert (content["minibatch"] is None) == (batch_size is None)


def test_a_finite_quantity_is_the_same_too(tmp_path):
    """A fault in the gradient alone: the loss is a number, by which noise, batch, scale and parameters are seen."""

    def make():
        encoder = nn.Sequential(MLPEncoder((1, 4, 4), output_dim=4, hidden=(8,)), nn.Dropout(0.2))
        vae = Edge(MLPDecoder(2, event_shape=(1, 4, 4), hidden=(8,)), latent_dim=2)
        return vae, HamiltonianGuide(vae, encoder=encoder, num_steps=2)

    vae, guide = make()
    guide.eval()
    images = torch.rand(30, 1, 4, 4)
    result = quiet(
        vae, guide, images, batch_size=8, transform=binarise, steps=4, seed=3, bundle=tmp_path, objective=ELBO()
    )
    assert result.skipped == 2
    again = replay(tmp_path / "step-3.pt", *make(), ELBO())
    assert again.loss == result.history["loss"][3]
    assert math.isnan(again.gradient_norm)
    assert "every site is finite: the fault lies in the gradient" in again.message


class Edge(VAE):
    """From its fifth call on, a term that is zero, with an infinite slope."""

    calls = 0

    def forward(self, x=None, *, num=None):
        value = super().forward(x, num=num)
        Edge.calls += x is not None
        if Edge.calls > 14:
            weight = next(self.decoder.parameters()).sum()
            pyro.factor("edge", (weight - weight).sqrt())
        return value


def test_functions_with_global_parameters_are_replayed(tmp_path):
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.factor("rare", torch.where(loc > 1, -math.inf, 0.0) * scale)

    quiet(model, MeanFieldGuide(model, init_scale=1.0), torch.ones(3), steps=30, lr=0.01, seed=0, bundle=tmp_path)
    path = sorted(tmp_path.iterdir())[0]
    value = torch.load(path, weights_only=True)["pair"]["parameters"]["scale"]["value"]
    pyro.clear_param_store()
    again = replay(path, model, MeanFieldGuide(model, init_scale=1.0), ELBO())
    assert "at site 'rare' of the model" in again.message
    assert torch.equal(pyro.param("scale").unconstrained(), value)
    pyro.clear_param_store()


def test_it_can_stop_at_the_first(tmp_path):
    with pytest.raises(DivergedError, match=r"1 steps were skipped, max_skipped=0") as raised:
        fitted(tmp_path, max_skipped=0)
    (path,) = tmp_path.iterdir()
    assert f"written to {path}" in str(raised.value)


def test_bundles_that_do_not_fit_are_refused(tmp_path):
    fitted(tmp_path)
    path = sorted(tmp_path.iterdir())[0]
    gaussian = OffsetGaussian(2)
    with pytest.raises(ModelError, match="model must be of class Rare, as in the file; got OffsetGaussian"):
        replay(path, gaussian, MeanFieldGuide(gaussian), ELBO())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="must be a whole file"):
        replay(path, gaussian, MeanFieldGuide(gaussian), ELBO())


def test_generators_go_on_where_they_were():
    states = random_state()
    first, second = torch.randn(3), torch.randn(3)
    with restored(states):
        torch.randn(3)
        state = random_state()
    with restored(states):
        assert torch.equal(torch.randn(3), first)
    with restored(state):
        assert torch.equal(torch.randn(3), second)


# Denormals.


class Probe(torch.autograd.Function):
    """Notes, in the backward pass, whether denormals are zeros."""

    seen: list[bool] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        Probe.seen.append(denormals_are_zero())
        return gradient


class Probed(OffsetGaussian):
    def forward(self, x=None, *, num=None):
        value = super().forward(x, num=num)
        pyro.factor("probe", Probe.apply(self.offset.sum()))
        return value


@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_zeros_in_the_backward_pass_and_then_as_before(before):
    torch.set_flush_denormal(before)
    try:
        assert denormals_are_zero() == before
        model = Probed(2)
        Probe.seen.clear()
        quiet(model, MeanFieldGuide(model), torch.randn(5, 2), steps=2)
        assert Probe.seen == [True, True]
        assert denormals_are_zero() == before
        with pytest.raises(RuntimeError, match="^True$"), flushing_denormals():
            raise RuntimeError(str(denormals_are_zero()))
        assert denormals_are_zero() == before
    finally:
        torch.set_flush_denormal(False)


def test_the_pool_of_threads_does_not_keep_the_flag():
    """In a fresh process: here the pool may have been started before."""
    import subprocess
    import sys

    code = """
import torch
from ppl_models.training.denormals import flushing_denormals
torch.set_num_threads(4)
denormals = torch.tensor([1e-310] * 200_000, dtype=torch.float64)
with flushing_denormals():
    (denormals * 1.0).sum()
assert (denormals * 1.0 != 0).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# What an objective tells.


class Told(ELBO):
    """An objective with parts, which notes how far training is."""

    def __init__(self):
        super().__init__()
        self.progress = []

    def set_progress(self, *, step, epoch):
        self.progress.append((step, epoch))

    def estimate(self, model, guide, *args, **kwargs):
        loss = super().estimate(model, guide, *args, **kwargs).loss
        return Estimate(loss, {"kl[z]": loss.detach() / 4, "reconstruction": -0.75 * loss.detach().float()})


def test_parts_are_columns_and_progress_is_told():
    gaussian, objective = OffsetGaussian(2), Told()
    options = {"steps": 5, "batch_size": 10, "objective": objective, "seed": 0}
    result = quiet(gaussian, MeanFieldGuide(gaussian), torch.randn(20, 2), **options)
    history = result.history
    assert list(history.columns)[-2:] == ["kl[z]", "reconstruction"]
    assert history["kl[z]"].to_numpy() == pytest.approx(history["loss"].to_numpy() / 4)
    assert history["reconstruction"].to_numpy() == pytest.approx(-0.75 * history["loss"].to_numpy(), rel=1e-6)
    assert objective.progress == [(0, 0), (0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]
