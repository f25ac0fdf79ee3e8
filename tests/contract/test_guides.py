"""What every guide must satisfy, alone and over a base, on models whose evidence is known."""

from __future__ import annotations

import copy
import math
import pickle

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

import guides
from guides import Guide, ModelError
from ppl_models.objectives import ELBO, log_weights
from tests.contract.problems import AMORTISED, PROBLEMS, SEQUENTIAL, Problem
from tests.contract.registry import GUIDES, OWN, PAIRS, one_gradient

#: Failure rate of one Monte Carlo check at 5 standard errors: below 1e-6.
STANDARD_ERRORS = 5.0

PYRO_OBJECTIVES = {
    "Trace_ELBO": lambda: Trace_ELBO(num_particles=2),
    "Trace_ELBO-vectorized": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True),
    "TraceGraph_ELBO": lambda: TraceGraph_ELBO(num_particles=2),
    "TraceMeanField_ELBO": lambda: TraceMeanField_ELBO(num_particles=2),
    "RenyiELBO": lambda: RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True),
}


def guide_of(problem, name, encoder=None) -> Guide:
    """A guide by its name: one of all that take any model, or one of those that belong to the problem's."""
    for family in OWN.values():
        if name in family:
            return family[name](problem.model)
    return (GUIDES | PAIRS)[name](problem.model, encoder or problem.encoder)


def made(problem, name) -> tuple[Problem, Guide]:
    problem = (PROBLEMS | SEQUENTIAL)[problem]()
    return problem, guide_of(problem, name)


#: Every guide alone, and on the problems of one model those that belong to it.
ALONE = [(problem, name) for problem in PROBLEMS for name in GUIDES]
BELONGING = [(problem, name) for problem in OWN for name in OWN[problem]]


@pytest.fixture(params=ALONE + BELONGING, ids="-".join)
def case(request):
    return made(*request.param)


@pytest.fixture
def problem(case):
    return case[0]


@pytest.fixture
def guide(case) -> Guide:
    return case[1]


#: Every guide alone and over every base; a list with an encoder has no one vector to stand on.
ALONE_OR_PAIRS = [
    (problem, name)
    for problem in PROBLEMS
    for name in GUIDES | PAIRS
    if not (problem in AMORTISED and name.endswith("-over-list"))
]


@pytest.fixture(params=ALONE_OR_PAIRS + BELONGING, ids="-".join)
def pair(request):
    return made(*request.param)


def named_parameters(problem, guide):
    named = {f"model.{name}": p for name, p in problem.model.named_parameters()}
    return named | {f"guide.{name}": p for name, p in guide.named_parameters()}


def test_registry_is_the_public_family():
    public = {c for c in map(vars(guides).get, guides.__all__) if isinstance(c, type) and issubclass(c, Guide)}
    kinds = {type(make(lambda: None, None)) for make in GUIDES.values()} | {
        type(made(*names)[1]) for names in BELONGING
    }
    assert kinds == public - {Guide}


def test_evidence(pair):
    problem, guide = pair
    with torch.no_grad():
        values = log_weights(problem.model, guide, *problem.args, num_particles=8000).values
    ratio = (values - problem.log_evidence).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert (error < 0.06).all(), "the check would be too weak to see a fault"
    assert ((ratio.mean(0) - 1).abs() < STANDARD_ERRORS * error).all(), (ratio.mean(0), error)


def test_bound_is_below_the_evidence(problem, guide):
    with torch.no_grad():
        values = log_weights(problem.model, guide, *problem.args, num_particles=10_000).values
    error = values.std(0) / math.sqrt(len(values))
    assert (values.mean(0) <= problem.log_evidence + STANDARD_ERRORS * error).all()


def test_log_weights_are_per_datum_where_data_are_independent(problem, guide):
    found = []
    for gradients in (True, False):
        pyro.set_rng_seed(1)
        with torch.set_grad_enabled(gradients):
            found.append(log_weights(problem.model, guide, *problem.args, num_particles=7).values)
    assert found[0].shape == (7, *problem.log_evidence.shape)
    torch.testing.assert_close(found[0].detach(), found[1], rtol=1e-10, atol=1e-10)  # without a graph, the same


def test_gradient_is_the_central_difference_at_fixed_noise(pair):
    problem, guide = pair
    guide.setup(*problem.args)
    parameters = {name: p for name, p in named_parameters(problem, guide).items() if p.requires_grad}

    def loss():
        pyro.set_rng_seed(1)
        return ELBO(num_particles=3).differentiable_loss(problem.model, guide, *problem.args)

    gradients, step = one_gradient(parameters, loss), 1e-5
    # All parameters move at once, each along a direction that it contributes about 1 to.
    directions = {name: torch.randn_like(g) / g.norm().clamp(min=0.1) for name, g in gradients.items()}

    @torch.no_grad()
    def mismatch(*names):
        values = []
        for sign in (1, -1):
            for name in names:
                parameters[name] += sign * step * directions[name]
            values.append(loss().item())
            for name in names:
                parameters[name] -= sign * step * directions[name]
        expected = sum((gradients[name] * directions[name]).sum().item() for name in names)
        return (values[0] - values[1]) / (2 * step) - expected

    # float64: truncation ~ step^2, rounding ~ 1e-16 * |loss| / step
    assert abs(mismatch(*gradients)) < 1e-6, {name: mismatch(name) for name in gradients}


def test_every_parameter_has_a_finite_gradient_that_is_not_zero(problem, guide):
    guide.setup(*problem.args)
    parameters = named_parameters(problem, guide)
    gradients = one_gradient(
        parameters, lambda: ELBO(num_particles=3).differentiable_loss(problem.model, guide, *problem.args)
    )
    assert gradients.keys() == parameters.keys()
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().sum() > 0, name


def test_sites_are_in_the_model_s_support_and_shape(problem, guide):
    trace = poutine.trace(problem.model).get_trace(*problem.args)
    values = guide(*problem.args)
    latents = {name for name in trace.stochastic_nodes if type(trace.nodes[name]["fn"]).__name__ != "_Subsample"}
    assert values.keys() == latents
    for name, value in values.items():
        assert value.shape == trace.nodes[name]["value"].shape
        assert trace.nodes[name]["fn"].support.check(value).all()


@pytest.mark.parametrize("loss", PYRO_OBJECTIVES)
def test_pyro_trains_it(problem, guide, loss):
    guide.setup(*problem.args)
    before = [p.detach().clone() for p in guide.parameters()]
    svi = SVI(problem.model, guide, pyro.optim.Adam({"lr": 0.01}), PYRO_OBJECTIVES[loss]())
    assert math.isfinite(svi.step(*problem.args))
    assert all(not torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))


def test_pyro_s_objectives_agree(problem, guide):
    guide.setup(*problem.args)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.1  # away from the start, where a missing term could be zero
        ours = log_weights(problem.model, guide, *problem.args, num_particles=4000).values
        ours = ours.reshape(4000, -1).sum(1)
        for objective in (Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO):
            of_many = objective(num_particles=1500, vectorize_particles=True)
            theirs = of_many.loss(problem.model, guide, *problem.args)
            # 1500 draws, or fewer where the objective has an analytic part.
            error = ours.std() * math.sqrt(1 / 4000 + 1 / 1500)
            assert abs(ours.mean() + theirs) < STANDARD_ERRORS * error, objective


def test_copies_and_state_dicts_keep_the_law(problem, guide):
    guide.setup(*problem.args)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.1
    twin = pickle.loads(pickle.dumps(guide))
    again = copy.deepcopy(guide)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(guide.state_dict())
    draws = []
    for each in (guide, twin, again):
        pyro.set_rng_seed(3)
        trace = poutine.trace(each).get_trace(*problem.args)
        draws.append((trace.log_prob_sum().item(), sorted(trace.stochastic_nodes)))
    assert draws[0] == draws[1] == draws[2]


def test_parameters_are_asked_for_after_setup(problem, guide):
    with pytest.raises(ModelError, match="must be set up before use"):
        list(guide.parameters())
    with pytest.raises(ModelError, match="must be set up before use"):
        guide.load_state_dict({})


def test_it_works_in_inference_mode(problem, guide):
    guide.setup(*problem.args)
    with torch.inference_mode():
        values = guide(*problem.args)
    assert all(torch.isfinite(value).all() for value in values.values())


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_from_it(problem, guide, parallel):
    names = tuple(guide(*problem.args))
    single = guide(*problem.args)
    draws = Predictive(guide, num_samples=6, parallel=parallel, return_sites=names)(*problem.args)
    for name in names:
        assert draws[name].shape[0] == 6
        assert draws[name].reshape(6, *single[name].shape).std(0).min() > 0


def test_its_draws_condition_the_model(problem, guide):
    values = {name: value.detach() for name, value in guide(*problem.args).items()}
    trace = poutine.trace(poutine.condition(problem.model, data=values)).get_trace(*problem.args)
    assert torch.isfinite(trace.log_prob_sum())
    assert all(torch.equal(trace.nodes[name]["value"], value) for name, value in values.items())


def test_same_seed_same_draw(problem, guide):
    draws = []
    guide.setup(*problem.args)
    for _ in range(2):
        pyro.set_rng_seed(3)
        draws.append(guide(*problem.args))
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])


@pytest.mark.parametrize(("problem", "name"), ALONE + BELONGING)
def test_two_guides_of_a_model_share_nothing(problem, name):
    problem, guide = made(problem, name)
    other = guide_of(problem, name, None if problem.encoder is None else type(problem.encoder)())
    guide.setup(*problem.args)
    other.setup(*problem.args)
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in other.parameters()}
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in problem.model.parameters()}


@pytest.mark.parametrize(("problem", "name"), [case for case in ALONE if case[0] in AMORTISED] + BELONGING)
def test_batch_size_may_change_when_amortised(problem, name):
    problem, guide = made(problem, name)
    guide.setup(*problem.args)
    values = log_weights(problem.model, guide, problem.args[0][:2], num_particles=5).values
    assert values.shape == (5, 2)
