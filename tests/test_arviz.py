"""to_arviz and from_fit: every group means what ArviZ takes it for, in both generations of ArviZ."""

from __future__ import annotations

import math

import arviz as az
import arviz_base
import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from guides import DataError, FullRankGuide, MeanFieldGuide, ModelError, OptionError
from ppl_models import OffsetGaussian
from ppl_models.diagnostics import from_fit, to_arviz
from ppl_models.labels import Labelled, datasets
from ppl_models.training import fit
from tests.contract.problems import PROBLEMS
from tests.contract.registry import GUIDES

LATENTS = {"offset_gaussian": ["z"], "gamma_poisson": ["rate"], "groups": ["shares", "level"], "linear_vae": ["z"]}


def exact_guide(model, x, *, spread=1.0):
    """Normal guide with the posterior's own moments, or wider ones."""
    guide = MeanFieldGuide(model).setup(x)
    posterior = model.exact_posterior(x)
    guide.loc.data, guide.log_scale.data = posterior.loc.detach(), (posterior.scale.log() + math.log(spread)).detach()
    return guide


# --------------------------------------------------------------------------------------------------- what groups hold


@pytest.mark.parametrize("vectorize", [True, False], ids=["batched", "looped"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_densities_are_the_model_s_at_the_draws(name, vectorize):
    problem = PROBLEMS[name]()
    guide = GUIDES["hamiltonian"](problem.model, problem.encoder)
    data = to_arviz(
        problem.model, guide, *problem.args, num_samples=3, num_chains=2, max_batch=9, vectorize_particles=vectorize
    )
    assert list(data.posterior) == LATENTS[name]
    for chain, draw in [(0, 0), (1, 2)]:
        values = {site: torch.tensor(data.posterior[site].values[chain, draw]) for site in LATENTS[name]}
        trace = poutine.trace(poutine.condition(problem.model, data=values)).get_trace(*problem.args)
        log_p = data.sample_stats["log_p"].values[chain, draw].sum()
        assert log_p == pytest.approx(trace.log_prob_sum().item(), abs=1e-9)
        trace.compute_log_prob()
        for site in data.log_likelihood:
            expected = trace.nodes[site]["log_prob"].detach()
            np.testing.assert_allclose(data.log_likelihood[site].values[chain, draw], expected, atol=1e-9)
            np.testing.assert_array_equal(data.observed_data[site].values, trace.nodes[site]["value"])


def test_log_q_is_the_guide_s_density():
    gaussian, x = OffsetGaussian(2), torch.randn(6, 2)
    guide = exact_guide(gaussian, x)
    data = to_arviz(gaussian, guide, x, num_samples=5)
    log_q = gaussian.exact_posterior(x).log_prob(torch.tensor(data.posterior["z"].values)).sum(-1).detach()
    np.testing.assert_allclose(data.sample_stats["log_q"].values, log_q, atol=1e-9)
    weights = data.sample_stats["log_p"] - data.sample_stats["log_q"]  # of an exact guide: the evidence
    np.testing.assert_allclose(weights.values, gaussian.log_evidence(x).item(), atol=1e-9)


def test_predictions_and_priors_have_the_exact_moments():
    gaussian = OffsetGaussian(1, offset=2.0, scale=0.5)
    x = torch.tensor([[1.0], [1.4]])
    data = to_arviz(gaussian, exact_guide(gaussian, x), x, num_samples=2000, seed=0)
    posterior = gaussian.exact_posterior(x)
    expected = {
        "posterior": ("z", posterior.loc.item(), posterior.variance.item()),
        "posterior_predictive": ("x", posterior.loc.item() + 2.0, posterior.variance.item() + 0.25),
        "prior": ("z", 0.0, 1.0),
        "prior_predictive": ("x", 2.0, 1.25),
    }
    for group, (site, mean, variance) in expected.items():
        values = data[group][site].values.reshape(8000, -1)
        assert values.mean(0) == pytest.approx(mean, abs=5 * math.sqrt(variance / 8000))
        assert values.var(0) == pytest.approx(variance, rel=5 * math.sqrt(2 / 8000))
    # Given a draw, data are independent; over draws they share it.
    shared = np.cov(data.prior_predictive["x"].values.reshape(8000, 2).T)[0, 1]
    assert shared == pytest.approx(1.0, abs=5 * math.sqrt((1.25**2 + 1) / 8000))


def test_loo_is_the_exact_one():
    gaussian = OffsetGaussian(1)
    x = 0.7 + torch.randn(12, 1)
    without = [gaussian.log_evidence(torch.cat([x[:i], x[i + 1 :]])) for i in range(12)]
    exact = sum(gaussian.log_evidence(x) - each for each in without).item()
    found = az.loo(to_arviz(gaussian, exact_guide(gaussian, x), x, num_samples=1000, seed=0))
    assert found.n_data_points == 12
    assert found.elpd_loo == pytest.approx(exact, abs=0.1)
    # From a guide that is too wide, the log-densities put it right.
    wide = to_arviz(gaussian, exact_guide(gaussian, x, spread=2.0), x, num_samples=1000, seed=0, container="datatree")
    stats = wide["sample_stats"]
    assert abs(arviz_stats.loo(wide).elpd - exact) > 0.5
    corrected = arviz_stats.loo_approximate_posterior(wide, stats["log_p"], stats["log_q"])
    assert corrected.elpd == pytest.approx(exact, abs=0.1)


# ----------------------------------------------------------------------------------------------------------- the labels


def test_dimensions_are_named_after_plates():
    problem = PROBLEMS["linear_vae"]()
    guide = GUIDES["mean_field"](problem.model, problem.encoder)
    people = ["Ada", "Emmy", "Grace", "Sofia"]
    data = to_arviz(problem.model, guide, *problem.args, num_samples=2, coords={"data": people}, dims={"x": ["one"]})
    drawn = [group for group in data.groups() if group != "observed_data"]
    dims = {group: {site: array.dims[2:] for site, array in data[group].items()} for group in drawn}
    assert dims == {
        "posterior": {"z": ("data", "z_dim_1")},
        "posterior_predictive": {"x": ("data", "one")},
        "log_likelihood": {"x": ("data",)},
        "sample_stats": {"log_p": ("data",), "log_q": ("data",)},
        "prior": {"z": ("data", "z_dim_1")},
        "prior_predictive": {"x": ("data", "one")},
    }
    assert data.observed_data["x"].dims == ("data", "one")
    assert data.posterior["data"].values.tolist() == people
    assert data.posterior["draw"].values.tolist() == [0, 1]
    assert data.attrs["guide"] == "MeanFieldGuide"


def test_names_that_would_clash_are_left_out():
    def site(*shape, event_dim=0, plates=None):
        return Labelled(torch.zeros(shape), event_dim, plates or {})

    groups = {
        "posterior": {
            "x": site(1, 2, 3, plates={-1: "x"}),  # a plate with the name of a site
            "narrow": site(1, 2, 1, 3, plates={-2: "rows", -1: "columns"}),  # a value that all rows share
            "wide": site(1, 2, 4, 3, plates={-2: "rows", -1: "columns"}),
        },
        "observed_data": {"y": site(4, 3, 2, event_dim=1, plates={-2: "rows", -1: "columns"})},
    }
    found = datasets(groups)
    assert found["posterior"]["x"].dims == ("chain", "draw", "x_dim_0")
    assert found["posterior"]["narrow"].dims == ("chain", "draw", "narrow_dim_0", "columns")
    assert found["posterior"]["wide"].dims == ("chain", "draw", "rows", "columns")
    assert found["observed_data"]["y"].dims == ("rows", "columns", "y_dim_2")


def test_both_containers_hold_the_same_and_both_generations_read_them(tmp_path):
    gaussian, x = OffsetGaussian(2), torch.randn(6, 2)
    guide = exact_guide(gaussian, x)
    old = to_arviz(gaussian, guide, x, num_samples=100, seed=1)
    new = to_arviz(gaussian, guide, x, num_samples=100, seed=1, container="datatree")
    assert isinstance(old, az.InferenceData)
    assert list(new.children) == old.groups()
    for group in old.groups():
        assert new[group].to_dataset().equals(old[group])
    assert arviz_base.extract(new).sizes["sample"] == 400
    mean = az.summary(old, kind="stats", round_to=6)["mean"]
    assert arviz_stats.summary(new, kind="stats", round_to=6)["mean"].astype(float).tolist() == pytest.approx(mean)
    assert arviz_stats.loo(new).elpd == pytest.approx(az.loo(old).elpd_loo, abs=0.01)  # another r_eff
    old.to_netcdf(str(tmp_path / "old.nc"), engine="h5netcdf")
    assert az.from_netcdf(str(tmp_path / "old.nc")).posterior.equals(old.posterior)


def test_a_fit_is_a_group_along_its_steps():
    gaussian, x = OffsetGaussian(1), torch.randn(6, 1)
    guide = MeanFieldGuide(gaussian)
    result = fit(gaussian, guide, x, steps=4, seed=0, progress=False)
    training = from_fit(result)
    assert training["training"]["loss"].dims == ("step",)
    assert training["training"]["loss"].values.tolist() == [record["loss"] for record in result.records]
    assert training.attrs["num_parameters"] == result.num_parameters
    draws = to_arviz(gaussian, guide, x, num_samples=2)
    draws.extend(training)
    assert draws.groups()[-1] == "training"
    assert from_fit(result, container="datatree")["training"]["gradient_norm"].shape == (4,)


# ----------------------------------------------------------------------------------------------- options and bad input


def test_a_seed_fixes_the_draws_and_nothing_outside_changes():
    problem = PROBLEMS["groups"]()
    guide = FullRankGuide(problem.model).setup(*problem.args)
    state = torch.get_rng_state()
    first, again = (to_arviz(problem.model, guide, *problem.args, num_samples=2, seed=3) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert first.posterior.equals(again.posterior)
    assert first.prior_predictive.equals(again.prior_predictive)
    assert not to_arviz(problem.model, guide, *problem.args, num_samples=2, seed=4).posterior.equals(first.posterior)


def test_factors_are_part_of_the_density_but_no_data():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("tilt", 0.3 * z)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    data = to_arviz(model, MeanFieldGuide(model), torch.zeros(3), num_samples=2, seed=0)
    assert list(data.observed_data) == list(data.log_likelihood) == list(data.posterior_predictive) == ["x"]
    z = torch.tensor(data.posterior["z"].values)
    expected = dist.Normal(0.0, 1.0).log_prob(z) + 0.3 * z + torch.tensor(data.log_likelihood["x"].values).sum(-1)
    np.testing.assert_allclose(data.sample_stats["log_p"].values, expected, atol=1e-12)


def test_an_improper_prior_is_named():
    def model(x):
        z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide, x = MeanFieldGuide(model), torch.tensor(0.5)
    with pytest.raises(ModelError, match=r"the prior cannot be drawn from: one of its laws is improper. Write prior=F"):
        to_arviz(model, guide, x, num_samples=2)
    assert "prior" not in to_arviz(model, guide, x, num_samples=2, prior=False).groups()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_samples": 0}, OptionError, "num_samples must be a whole number of at least 1; got 0"),
        ({"num_chains": 1.5}, OptionError, "num_chains must be a whole number of at least 1; got 1.5"),
        ({"container": "tree"}, OptionError, "container must be one of 'inference_data', 'datatree'; got 'tree'"),
        ({"coords": {"rows": [1]}}, OptionError, r"coords must name dimensions \(chain, .*data.*\); got 'rows'"),
        ({"coords": {"data": [1]}}, DataError, r"coords\['data'\] must hold 3 values; got 1"),
        ({"dims": {"y": ["a"]}}, OptionError, r"dims must name sites of the model \(z, x\); got 'y'"),
        ({"dims": {"x": "pixel"}}, OptionError, r"dims\['x'\] must be a list of 1 names.*got 'pixel'"),
        ({"dims": {"x": ["z"]}}, OptionError, r"dims\['x'\] must not have the names of sites; got 'z'"),
    ],
    ids=str,
)
def test_bad_options_are_named(options, error, message):
    gaussian, x = OffsetGaussian(2), torch.zeros(3, 2)
    with pytest.raises(error, match=message):
        to_arviz(gaussian, MeanFieldGuide(gaussian), x, **{"num_samples": 2} | options)


def test_bad_data_are_named():
    gaussian = OffsetGaussian(1)
    with pytest.raises(DataError, match="argument 0 must be finite"):
        to_arviz(gaussian, MeanFieldGuide(gaussian), torch.full((2, 1), math.nan))

    def subsampling(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    with pytest.raises(DataError, match="to_arviz needs all data; got a model that subsamples them"):
        to_arviz(subsampling, MeanFieldGuide(subsampling), torch.zeros(5))
