"""check: what each finding sees, what no verdict may let pass, and what is refused."""

from __future__ import annotations

import json
import math
from io import StringIO

import arviz as az
import pyro
import pyro.distributions as dist
import pytest
import torch
from rich.console import Console
from torch import nn

from guides import MeanFieldGuide
from guides.errors import DataError, ModelError, OptionError
from ppl_models import OffsetGaussian
from ppl_models.diagnostics import check
from ppl_models.diagnostics.collapse import collapse
from ppl_models.diagnostics.draws import Drawing
from ppl_models.diagnostics.findings import Threshold, finding, levels_of
from ppl_models.diagnostics.moments import Differences, Summary, corrected, quantile_yardstick
from ppl_models.diagnostics.predictive import held_out_density, predictive_check
from ppl_models.diagnostics.reference_chains import ReferenceChains

QUICK = {"anneal": False, "seed": 0}


def exact(dim=2, *, num=20, shift=0.0, stretch=1.0):
    """An offset Gaussian, its data, and its posterior moved and stretched."""
    model = OffsetGaussian(dim, scale=1.5).requires_grad_(False)
    x = torch.randn(dim) + 1.5 * torch.randn(num, dim)
    posterior = model.exact_posterior(x)
    guide = MeanFieldGuide(model).setup(x)
    guide.loc.data = posterior.mean + shift * posterior.stddev
    guide.log_scale.data = (stretch * posterior.stddev).log()
    return model, guide, x, posterior


def chains(values, **stats):
    """InferenceData of one site."""
    return az.from_dict(posterior={"z": values.numpy()}, sample_stats={k: v.numpy() for k, v in stats.items()} or None)


# -------------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("value", "error", "level"),
    [
        (0.9, 0.0, 0),
        (1.1, 0.0, 1),
        (2.1, 0.0, 2),
        (1.1, 0.1, 0),  # may be below 1 and is surely below 2
        (0.9, 0.6, 1),  # may be above 2
        (2.1, 0.1, 1),  # may be below 2
        (math.nan, 0.0, 1),
        (0.9, math.nan, 1),
        (0.9, math.inf, 1),
        (math.inf, 0.0, 2),
    ],
)
def test_a_number_passes_and_fails_only_where_its_error_allows_it(value, error, level):
    for sign in (1, -1):
        threshold = Threshold(sign * 1.0, sign * 2.0, "")
        assert levels_of(torch.tensor([sign * value]), torch.tensor([error]), threshold).tolist() == [level]
    # What cannot fail does not pass for want of an error.
    assert levels_of(torch.tensor([0.5]), torch.tensor([math.inf]), Threshold(1.0, math.inf, "")).tolist() == [1]


def test_many_numbers_are_judged_at_one_rate_of_chance():
    threshold = Threshold(0.0, math.inf, "")
    values = torch.randn(400, 100)
    alarms = sum(int(levels_of(row, torch.ones(100), threshold).max()) for row in values)
    # Of 400 findings of 100 numbers each, 4 on average: P(Poisson(4) > 14) < 1e-4.
    assert alarms <= 14
    assert levels_of(torch.full((100,), 4.0), torch.ones(100), threshold).min() == 1
    # Errors that were estimated from three numbers reach further.
    assert levels_of(torch.full((1,), 4.0), torch.ones(1), threshold, freedom=2).item() == 0


def test_a_lower_bound_can_show_that_something_is_wrong_only():
    threshold, below = Threshold(0.0, 1.0, ""), torch.tensor(-math.inf)
    judged = [levels_of(torch.tensor([v]), torch.tensor([2.0]), threshold, highest=below).item() for v in (-9.0, 9.0)]
    assert judged == [0, 2]


def test_few_bad_data_make_doubtful_and_most_fail():
    threshold = Threshold(1.0, 2.0, "")
    values = torch.tensor([0.5, 3.0, 0.5, 0.4])
    assert finding("", values, None, threshold, "").level == "fail"
    some = finding("", values, None, threshold, "", most=True, label="number {}".format)
    assert (some.level, some.value) == ("doubtful", 3.0)
    assert "1 of 4 do not pass; worst number 1: 3" in some.detail
    assert finding("", torch.tensor([3.0, 3.0, 0.5]), None, threshold, "", most=True).level == "fail"


# ------------------------------------------------------------------------------------------------------ moments


def test_weighted_draws_say_how_far_the_unweighted_are_off():
    """Draws of N(0.3, 1.2^2) weighted to N(0, 1): all differences are known, and errors are what they say."""
    wide, target = dist.Normal(0.3, 1.2), dist.Normal(0.0, 1.0)
    z = {p: target.icdf(torch.tensor(p)) for p in (0.05, 0.5, 0.95)}
    truth = torch.tensor([0.3, math.log(1.2), *(0.3 + 0.2 * z[p] for p in z)])
    found, errors = [], []
    for _ in range(100):
        draws = wide.sample((1000, 1))
        weights = (target.log_prob(draws) - wide.log_prob(draws)).softmax(0)
        d = corrected(draws, weights)
        found.append(torch.cat([d.mean, d.log_sd, d.quantiles[:, 0]]))
        errors.append(torch.cat([d.mean_error, d.log_sd_error, d.quantile_errors[:, 0]]))
    found, errors = torch.stack(found), torch.stack(errors)
    assert ((found.mean(0) - truth).abs() < 5 * found.std(0) / 10 + 0.002).all()
    # Sds of 100 runs are known to 7 %; the quantiles' errors take the density for normal.
    assert torch.allclose(errors.mean(0) / found.std(0), torch.ones(5), atol=0.25)
    even = corrected(draws, torch.full((1000, 1), 1e-3))
    assert max(even.mean.abs(), even.mean_error, even.log_sd.abs(), even.log_sd_error) < 1e-12


def test_summaries_of_chains_and_the_yardstick_of_draws():
    """The errors of n normal draws are 1 / sqrt(n), 1 / sqrt(2 n), and the yardstick's of a quantile."""
    one = Summary.of(torch.randn(4, 1000, 1) * 2 + 1)
    scale = math.sqrt(4000) / 2
    assert scale * one.mean_error.item() == pytest.approx(1, rel=0.15)
    assert scale * one.sd_error.item() == pytest.approx(math.sqrt(0.5), rel=0.15)
    for i, p in enumerate((0.05, 0.5, 0.95)):
        assert scale * one.quantile_errors[i].item() == pytest.approx(quantile_yardstick(p), rel=0.3)
    other = Summary.of(torch.randn(4, 1000, 1))
    d = Differences.between(one, other)
    assert d.mean.item() == pytest.approx(1.0, abs=5 * d.mean_error.item())
    assert d.log_sd.item() == pytest.approx(math.log(2), abs=5 * d.log_sd_error.item())
    advice = dict.fromkeys(("mean", "sd", "quantiles"), "")
    levels = {each.name: each.level for each in d.findings("", advice, str, most=False)}
    assert set(levels.values()) == {"fail"}


# ---------------------------------------------------------------------------------------------- predictive checks


def data_model(x, scale=1.0):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def posterior_of(x):
    def guide(*_):
        precision = len(x) + 1.0
        pyro.sample("z", dist.Normal(x.sum() / precision, precision**-0.5))

    return guide


def p_value(x, model=data_model):
    drawing = Drawing(model, posterior_of(x), (x,), max_batch=50_000, vectorize_particles=True, caller="check")
    return predictive_check(drawing, drawing.posterior(50))[0].value


def test_the_predictive_check_is_uniform_for_data_of_the_model_though_they_were_fitted():
    """Three data and one latent: averages over the posterior would be far from uniform here."""
    from scipy.stats import kstest

    values = [p_value(torch.randn(()) + torch.randn(3)) for _ in range(60)]
    # One draw's p-value is exactly uniform; ten draws of one posterior are combined, which leaves it nearly so.
    assert kstest(values, "uniform").pvalue > 1e-3
    assert p_value(torch.randn(()) + 2 * torch.randn(100)) < 1e-3
    assert p_value(torch.randn(()) + 0.5 * torch.randn(100)) < 1e-3
    assert p_value(dist.StudentT(2.0).sample((200,))) < 1e-3


def test_counts_have_ties_and_are_checked_all_the_same():
    def counts(x):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        pyro.sample("z", dist.Gamma(2.0 + x.sum(), 1.0 + len(x)))

    def value(x):
        drawing = Drawing(counts, guide, (x,), max_batch=50_000, vectorize_particles=True, caller="check")
        return predictive_check(drawing, drawing.posterior(50))[0].value

    assert value(torch.poisson(torch.full((50,), 0.5))) > 1e-3
    assert value(torch.poisson(dist.Gamma(0.5, 0.25).sample((50,)))) < 1e-3


def test_held_out_density_is_that_of_the_predictive_law():
    x = 0.4 + torch.randn(30)
    options = {"max_batch": 50_000, "vectorize_particles": True}
    precision = len(x) + 1.0
    law = dist.Normal(x.sum() / precision, math.sqrt(1 + 1 / precision))
    other = law.sample((20,))
    (fine,) = held_out_density(data_model, posterior_of(x), (x,), (other,), **options)
    assert fine.value > 0.005
    told = float(fine.detail.split()[3])
    assert told == pytest.approx(law.log_prob(other).mean().item(), abs=0.05)

    def reading(data):
        return posterior_of(data)(data)

    # The posterior is that of the data that were fitted, whatever the guide makes of its arguments.
    (bad,) = held_out_density(data_model, reading, (x,), (other + 2,), **options)
    assert bad.level == "fail"


# ---------------------------------------------------------------------------------------------------- the reference


def test_good_chains_pass_and_bad_ones_are_doubtful_but_never_a_failure():
    like = {"z": torch.zeros(5, 2)}
    good = torch.randn(4, 1000, 2)
    calm = {"diverging": torch.zeros(4, 1000, dtype=torch.bool), "energy": torch.randn(4, 1000)}

    def levels(source):
        return {each.name.split(": ")[1]: each.level for each in ReferenceChains(source, like).findings()}

    assert set(levels(chains(good, **calm)).values()) == {"pass"}
    assert (
        levels(chains(good, **calm | {"diverging": torch.rand(4, 1000) < 0.01}))["share of divergent transitions"]
        == "doubtful"
    )
    apart = levels(chains(good + 3 * torch.arange(4.0)[:, None, None]))
    assert (apart["R-hat"], apart["effective draws"]) == ("doubtful", "doubtful")
    near = levels(chains(good + 0.2 * torch.arange(4.0)[:, None, None]))  # R-hat 1.03
    assert near["R-hat"] == "doubtful"
    slow = levels(chains(good, **calm | {"energy": torch.randn(4, 1000).cumsum(1)}))
    assert slow["E-BFMI"] == "doubtful"
    assert levels(chains(good[:1]))["R-hat"] == "doubtful"
    assert levels(chains(good[:, :50]))["effective draws"] == "doubtful"
    assert levels({"z": good.flatten(0, 1)} | {}) == {}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"w": torch.randn(100, 2)}, r"reference must hold draws of \['z'\]; got \['w'\]"),
        ({"z": torch.randn(100, 3)}, r"reference\['z'\] must hold draws of shape \(2,\); got \(3,\)"),
        ({"z": torch.full((100, 2), math.nan)}, r"reference\['z'\] must be finite; got 200"),
        ({"z": torch.randn(2, 2)}, "at least 4"),
        ("chains", r"must hold draws of shape \(2,\); got \(5,\) behind \(chain, draw, ...\)"),
    ],
)
def test_a_reference_of_another_model_is_refused(source, message):
    model, guide, x, _ = exact()
    source = chains(torch.randn(4, 100, 5)) if source == "chains" else source
    with pytest.raises(DataError, match=message):
        check(model, guide, x, reference=source, num_samples=100, **QUICK)


def test_chains_that_stood_still_say_so_and_let_nothing_pass():
    """Every transition diverged: the verdict on an exact guide is doubtful, and names them."""
    model, guide, x, _ = exact()
    still = torch.zeros(4, 1, 2).expand(4, 500, 2).contiguous()
    bad = chains(still, diverging=torch.ones(4, 500, dtype=torch.bool), energy=torch.zeros(4, 500))
    verdict = check(model, guide, x, reference=bad, **QUICK)
    assert verdict.level == "doubtful"
    assert "all transitions diverged" in verdict["reference: share of divergent transitions"].detail
    assert verdict["means against the reference"].level == "doubtful"
    assert any("trusted" in note for note in verdict.notes)


def test_chains_that_diverge_fail_no_guide_however_far_they_are():
    model, guide, x, posterior = exact()
    draws = (posterior.sample((4, 1000)) + posterior.stddev).double()
    calm = {"diverging": torch.zeros(4, 1000, dtype=torch.bool), "energy": torch.randn(4, 1000)}
    rough = calm | {"diverging": torch.rand(4, 1000) < 0.01}
    levels = {}
    for name, stats in (("calm", calm), ("rough", rough)):
        verdict = check(model, guide, x, reference=chains(draws, **stats), **QUICK)
        levels[name] = (verdict.level, verdict["means against the reference"].level)
    assert levels == {"calm": ("fail", "fail"), "rough": ("doubtful", "doubtful")}


# -------------------------------------------------------------------------------------------------------- verdicts


@pytest.fixture(scope="module")
def right():
    """The verdict on an exact guide, with all that there is."""
    model, guide, x, posterior = exact()
    return check(model, guide, x, reference={"z": posterior.sample((1000,))}, seed=0)


def test_an_exact_guide_passes_with_a_reference_and_chains(right):
    assert right.level == "pass", right
    names = [each.name for each in right.findings]
    assert {"k-hat", "k-hat of sites", "effective draws", "evidence gap", "evidence from the prior"} <= set(names)
    assert {"means by weights", "means against the reference", "predictive check"} <= set(names)
    assert all(each.threshold.source and each.advice for each in right.findings)
    assert abs(right["evidence gap"].value) < 1e-8


def test_the_evidence_gap_is_the_divergence():
    model, guide, x, _ = exact(2, shift=1.0, stretch=1.2)
    gap = check(model, guide, x, seed=0)["evidence gap"]
    truth = 2 * (0.5 * (1.2**2 - 1) - math.log(1.2) + 0.5 * 1.0**2)
    assert gap.value == pytest.approx(truth, abs=4 * gap.standard_error)
    assert gap.standard_error < truth / 10


def test_without_chains_or_a_reference_nothing_passes():
    model, guide, x, _ = exact()
    verdict = check(model, guide, x, **QUICK)
    assert [each.name for each in verdict.findings if each.level != "pass"] == ["looks beyond the guide"]
    assert verdict.level == "doubtful"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shift": 0.5}, {"means by weights": "fail", "means against the reference": "fail"}),
        ({"stretch": 0.6}, {"log sds against the reference": "fail", "k-hat": "fail"}),
        ({"stretch": 2.0}, {"k-hat": "pass", "log sds by weights": "fail", "log sds against the reference": "fail"}),
        ({"stretch": 1.2}, {"k-hat": "pass", "log sds by weights": "doubtful"}),
    ],
)
def test_wrong_moments_are_seen_by_weights_and_by_a_reference(options, expected):
    model, guide, x, posterior = exact(5, **options)
    verdict = check(model, guide, x, reference={"z": posterior.sample((1000,))}, **QUICK)
    assert {name: verdict[name].level for name in expected} == expected, verdict


def two_modes():
    z = pyro.sample("z", dist.Normal(0.0, 10.0))
    pyro.factor("density", torch.logaddexp(dist.Normal(-5.0, 0.5).log_prob(z), dist.Normal(5.0, 0.5).log_prob(z)))
    pyro.factor("flat", 0.5 * (z / 10).square())


def test_a_mode_that_the_guide_never_visits_is_seen_from_the_prior():
    """Weights, moments by weights and chains from the guide are blind to it: all of them pass."""
    guide = MeanFieldGuide(two_modes).setup()
    guide.loc.data[:], guide.log_scale.data[:] = 5.0, math.log(0.5)
    verdict = check(two_modes, guide, seed=0)
    assert [each.name for each in verdict.findings if each.level != "pass"] == ["evidence from the prior"]
    found = verdict["evidence from the prior"]
    assert found.level == "fail"
    assert found.value == pytest.approx(math.log(2), abs=4 * found.standard_error + 0.05)


def test_the_verdict_converts(right, tmp_path):
    told = json.loads(right.to_json())
    assert told["level"] == "pass"
    assert told["findings"][0].keys() >= {"name", "level", "value", "standard_error", "passes", "fails", "source"}
    assert right.table.loc["k-hat", "level"] == "pass"
    data = right.to_arviz()
    assert data.attrs["level"] == "pass"
    assert list(data.verdict["finding"].values) == [each.name for each in right.findings]
    data.to_netcdf(str(tmp_path / "verdict.nc"), engine="h5netcdf")
    console = Console(width=120, record=True, file=StringIO())
    console.print(right)
    shown = console.export_text()
    assert "Verdict: pass" in shown
    assert "Pareto Smoothed Importance Sampling" in str(right)
    ax = right.plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == [each.name for each in right.findings]
    with pytest.raises(KeyError, match="no finding 'khat'"):
        right["khat"]


# --------------------------------------------------------------------------------------------------- single data


class Encoder(nn.Module):
    """The exact posterior of :func:`local`, its sds stretched for the first of the data."""

    def __init__(self, bad, stretch):
        super().__init__()
        self.bad, self.stretch = bad, stretch

    def forward(self, x):
        scale = torch.full_like(x, math.log(0.5**0.5))
        scale[: self.bad] += math.log(self.stretch)
        return torch.stack([x / 2, scale], -1)


def local(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_bad_data_are_listed_and_most_of_them_fail():
    x = math.sqrt(2) * torch.randn(12)
    fine = check(local, MeanFieldGuide(local, encoder=Encoder(0, 1.0)), x, held_out=x + 3, **QUICK)
    assert {each.name for each in fine.findings if each.level != "pass"} == {
        "held-out density",
        "looks beyond the guide",
    }
    assert fine.k_hat.shape == (12,)
    some = check(local, MeanFieldGuide(local, encoder=Encoder(2, 0.2)), x, **QUICK)
    assert (some.level, some["k-hat"].level) == ("doubtful", "doubtful")
    assert "2 of 12 do not pass" in some["k-hat"].detail
    assert {"datum 0", "datum 1"} == {
        part.split(":")[0].split("worst ")[-1].strip() for part in some["k-hat"].detail.split(", ")
    }
    most = check(local, MeanFieldGuide(local, encoder=Encoder(8, 0.2)), x, **QUICK)
    assert most["k-hat"].level == "fail"


def test_collapsed_sites_are_doubtful():
    """Posterior means with a variance of 1 on one unit of the first site, and none on the second site."""
    means = torch.stack([torch.randn(200), torch.zeros(200), torch.zeros(200)], -1)
    vectors = means + torch.randn(500, 200, 3)
    found = collapse(vectors, ["a", "a", "b"], {"a": torch.ones(500, 200), "b": torch.zeros(500, 200)})
    assert {each.name: (each.value, each.level) for each in found} == {
        "active units of a": (1.0, "pass"),
        "active units of b": (0.0, "doubtful"),
        "share of data that inform a": (1.0, "pass"),
        "share of data that inform b": (0.0, "doubtful"),
    }
    # The means of 50 draws vary by 0.02 where the posterior is the prior; that is the draws' doing.
    (idle,) = collapse(torch.randn(50, 2000, 1), ["a"], {})
    assert idle.value == 0


# -------------------------------------------------------------------------------------------------------- bad input


def test_too_few_draws_are_refused_or_doubtful():
    model, guide, x, _ = exact(stretch=1.05)
    with pytest.raises(OptionError, match="num_samples must be a whole number of at least 25; got 20"):
        check(model, guide, x, num_samples=20)
    few = check(model, guide, x, num_samples=50, **QUICK)
    assert (few["k-hat"].level, few["effective draws"].level) == ("doubtful", "doubtful")
    assert "50 draws are too few to tell" in few["k-hat"].detail


def test_a_log_joint_that_is_no_number_is_a_failure():
    def broken():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", z.log())  # NaN below zero

    verdict = check(broken, MeanFieldGuide(broken, init_scale=1.0), num_samples=100, seed=0)
    (only,) = verdict.findings
    assert (verdict.level, only.name) == ("fail", "share of draws without a density")
    assert 0.3 < only.value < 0.7


def test_discrete_latents_are_refused():
    def model():
        pyro.sample("k", dist.Bernoulli(0.5))

    def guide():
        pyro.sample("k", dist.Bernoulli(0.5))

    with pytest.raises(ModelError, match="latents must be continuous; got the discrete site 'k'"):
        check(model, guide)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "hmc"}, "reference must be 'nuts', InferenceData or exact draws by site; got 'hmc'"),
        ({"max_batch": 0}, "max_batch must be a whole number"),
    ],
)
def test_options_are_checked(options, message):
    model, guide, x, _ = exact()
    with pytest.raises(OptionError, match=message):
        check(model, guide, x, **options)


def test_data_that_are_no_numbers_are_refused():
    model, guide, x, _ = exact()
    with pytest.raises(DataError, match="held-out argument"):
        check(model, guide, x, held_out=x * math.nan)


def test_nuts_is_asked_for_by_its_name():
    x = torch.tensor([0.3, 0.7])
    verdict = check(data_model, posterior_of(x), x, reference="nuts", num_samples=1000, **QUICK)
    assert verdict["reference: R-hat"].level == "pass"
    assert verdict["means against the reference"].level == "pass"
    assert verdict.level == "pass", verdict
    assert verdict.to_arviz().posterior["z"].shape == (4, 1000)


def test_the_seed_fixes_all_and_the_global_generator_stays_as_it_was():
    model, guide, x, _ = exact(stretch=1.1)
    before = torch.get_rng_state()
    one, two = (check(model, guide, x, num_samples=400, **QUICK).as_dict() for _ in range(2))
    assert one == two
    assert torch.equal(torch.get_rng_state(), before)
