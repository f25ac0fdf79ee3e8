"""What every model must satisfy."""

from __future__ import annotations

import copy

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import nn

import ppl_models
from guides import DataError, OptionError
from ppl_models.objectives import log_weights
from tests.contract.registry import MODELS


@pytest.fixture(params=MODELS)
def model(request) -> nn.Module:
    return MODELS[request.param]()


def latents(model, *args) -> dict[str, torch.Tensor]:
    """A draw of the model's latents."""
    trace = poutine.trace(model).get_trace(*args)
    plates = {name for name, site in trace.nodes.items() if type(site.get("fn")).__name__ == "_Subsample"}
    return {name: trace.nodes[name]["value"].detach() for name in trace.stochastic_nodes if name not in plates}


def test_registry_is_the_public_family():
    named = map(vars(ppl_models).get, ppl_models.__all__)
    public = {c for c in named if isinstance(c, type) and issubclass(c, nn.Module)}
    assert {type(make()) for make in MODELS.values()} == public


def test_parameters_exist_after_the_constructor_and_none_appear_later(model):
    names = {name for name, _ in model.named_parameters()}
    model(None, num=2)
    assert names
    assert {name for name, _ in model.named_parameters()} == names


def test_it_generates_what_it_scores(model):
    x = model(None, num=5)
    trace = poutine.trace(model).get_trace(x)
    assert len(x) == 5
    assert torch.isfinite(trace.log_prob_sum())
    assert trace.nodes["x"]["is_observed"]
    assert torch.equal(trace.nodes["x"]["value"], x)


def test_data_stand_in_the_plate(model):
    trace = poutine.trace(model).get_trace(model(None, num=5))
    trace.compute_log_prob()
    site = trace.nodes["x"]
    assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]
    assert site["log_prob"].shape == (5,)


def test_particles_give_the_same_density_one_by_one_and_batched(model):
    x = model(None, num=4)
    draws = [latents(model, x) for _ in range(3)]
    single = [poutine.trace(poutine.condition(model, z)).get_trace(x).log_prob_sum().item() for z in draws]
    together = {name: torch.stack([z[name] for z in draws]) for name in draws[0]}
    together = {name: z if z.dim() >= 3 else z[:, None] for name, z in together.items()}
    with pyro.plate("particles", 3, dim=-2):
        trace = poutine.trace(poutine.condition(model, together)).get_trace(x)
    trace.compute_log_prob()
    batched = sum(trace.nodes[name]["log_prob"].sum(-1) for name in (*together, "x"))
    torch.testing.assert_close(batched.detach(), torch.tensor(single), rtol=1e-10, atol=1e-10)


def test_every_parameter_has_a_finite_gradient_that_is_not_zero(model):
    x = model(None, num=6).detach()
    poutine.trace(model).get_trace(x).log_prob_sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_two_instances_share_no_parameter(model):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1
    assert all(not torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_wrong_shapes_and_no_number_are_refused(model):
    x = model(None, num=4)
    with pytest.raises(DataError, match="must have"):
        model(torch.zeros(4, *x.shape[1:-1], x.shape[-1] + 1))
    with pytest.raises(OptionError, match="num must be a whole number of at least 1; got None. To generate"):
        model(None)
    with pytest.raises(OptionError, match="got 0"):
        model(None, num=0)


def test_predictive_generates_from_given_latents(model):
    x = model(None, num=4)
    draws = [latents(model, x) for _ in range(3)]
    given = {name: torch.stack([z[name] for z in draws]) for name in draws[0]}
    assert Predictive(model, posterior_samples=given, num_samples=3)(None, num=4)["x"].shape == (3, *x.shape)


def test_prior_is_a_valid_guide(model):
    # With q = p, log p(x, z) - log q(z) is log p(x | z), and its evidence estimate needs nothing of ours.
    x = model(None, num=4)

    def prior(x):
        return poutine.block(model, hide=["x"])(x)

    assert torch.isfinite(log_weights(model, prior, x, num_particles=3).values).all()
