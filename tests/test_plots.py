"""Plots: what is drawn, what is refused, and what is left behind."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from arviz.stats.ecdf_utils import ecdf_confidence_band
from scipy.stats import ks_2samp

from guides import DataError, HamiltonianGuide, MeanFieldGuide, ModelError, OptionError
from ppl_models.diagnostics import Bound, Evidence, ImportanceNLL, Verdict, k_hat, to_arviz, trajectory
from ppl_models.diagnostics.findings import Threshold, finding
from ppl_models.diagnostics.plots import (
    plot_ecdf,
    plot_energy_error,
    plot_evidence,
    plot_history,
    plot_k_hat,
    plot_marginals,
    plot_pairs,
    plot_trajectory,
)
from ppl_models.diagnostics.plots.ecdf_band import ecdf_band
from ppl_models.diagnostics.plots.style import styled
from ppl_models.training import FitResult


@pytest.fixture(autouse=True)
def _nothing_left():
    """No figure beyond those that were asked for, and no global style, is left."""
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


def group(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("school", len(x)):
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(theta, 1.0), obs=x)


def plane(x):
    pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("b", dist.LogNormal(0.0, 0.5))
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def images(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        mean = z.sum(-1)[..., None, None].expand(*z.shape[:-1], 3, 4)
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=x)


@pytest.fixture(scope="module")
def answer():
    x = torch.tensor([0.5, -0.2, 1.0])
    guide = MeanFieldGuide(group, init_scale=0.5)
    return to_arviz(group, guide, x, seed=0, coords={"school": ["Choate", "Deerfield", "Andover"]})


def draws(num=300, *, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(num)
    return {
        "mu": shift + scale * torch.randn(num, generator=generator),
        "theta": shift + scale * torch.randn(num, 3, generator=generator),
    }


def test_a_backend_that_the_first_figure_loads_stays_interactive():
    with styled():
        plt.ion()  # as the backend of notebooks does
    assert plt.isinteractive()
    plt.ioff()


# ------------------------------------------------------------------------------------------------------------ marginals


def test_marginals_show_quantiles_and_say_how_far_off_the_guide_is(answer):
    reference = draws(500, shift=0.3, scale=1.5)
    axes = plot_marginals(answer, reference)
    assert [each.get_title().split("\n")[0] for each in axes] == [
        "mu",
        "theta[Choate]",
        "theta[Deerfield]",
        "theta[Andover]",
    ]
    own = answer.posterior["theta"].values.reshape(-1, 3)[:, 2]
    other = reference["theta"][:, 2].numpy()
    for i, each in enumerate((own, other)):
        density, bar, dot = axes[3].lines[3 * i : 3 * i + 3]
        low, middle, high = np.quantile(each, (0.05, 0.5, 0.95))
        np.testing.assert_allclose(bar.get_xdata(), [low, high])
        np.testing.assert_allclose(dot.get_xdata(), [middle])
        assert np.trapezoid(density.get_ydata(), density.get_xdata()) == pytest.approx(1, abs=0.02)
    sd = other.std(ddof=1)
    told = axes[3].get_title().split("\n")[1].replace("−", "-")
    distance = ks_2samp(own, other).statistic
    assert told == f"Δ {(own.mean() - other.mean()) / sd:+.2f} sd, sd × {own.std(ddof=1) / sd:.2f}, KS {distance:.2f}"
    assert [text.get_text() for text in axes[0].figure.legends[0].get_texts()] == ["guide", "reference"]


def test_marginals_of_a_tree_alone_and_in_axes_that_are_given(answer):
    tree = xr.DataTree.from_dict({"posterior": answer.posterior})
    figure = plt.figure()
    given = figure.subplots(2, 1)
    before = plt.get_fignums()
    axes = plot_marginals(tree, var_names=["theta[Andover]", "mu"], ax=given)
    assert list(axes) == list(given)
    assert plt.get_fignums() == before
    assert [each.get_title() for each in axes] == ["theta[Andover]", "mu"]
    np.testing.assert_allclose(axes[0].lines[2].get_xdata(), np.median(answer.posterior["theta"].values[..., 2]))


def test_a_number_that_never_changes_is_a_line():
    constant = {"k": torch.ones(50)}
    (axes,) = plot_marginals(constant, {"k": torch.full((60,), 4.2)})
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1.0, 1.0])
    assert axes.get_title() == "k\nKS 1.00"


@pytest.mark.parametrize("plot", [plot_marginals, plot_pairs])
def test_what_cannot_be_drawn_of_draws_is_refused(plot):
    many = {"theta": torch.randn(100, 200)}
    with pytest.raises(OptionError, match=r"got 200 \(theta\[0\], .*var_names=\['theta\[0\]', 'theta\[1\]'\]"):
        plot(many)
    with pytest.raises(OptionError, match=r"must name sites \(mu, theta\) .* got 'thta'. Did you mean 'theta'\?"):
        plot(draws(), var_names=["thta"])
    with pytest.raises(TypeError, match=r"Write var_names=\['mu'\]"):
        plot(draws(), var_names="mu")
    with pytest.raises(OptionError, match="at least one site"):
        plot(draws(), var_names=[])
    with pytest.raises(DataError, match=r"posterior\['mu'\] must hold at least 25 draws; got 10"):
        plot(draws(10))
    with pytest.raises(DataError, match=r"reference must hold draws of 'theta'; got 'mu'"):
        plot(draws(), {"mu": torch.randn(50)})
    with pytest.raises(DataError, match=r"reference\['theta'\] must hold 3 numbers per draw.* got 2"):
        plot(draws(), draws() | {"theta": torch.randn(50, 2)})
    with pytest.raises(DataError, match=r"posterior\['mu'\] must be finite"):
        plot({"mu": torch.full((50,), torch.nan), "nu": torch.randn(50)})
    with pytest.raises(TypeError, match=r"posterior must be InferenceData .* got int"):
        plot(3)
    with pytest.raises(DataError, match="at least one site; got none"):
        plot({})
    with pytest.raises(TypeError, match="ax must be Matplotlib Axes; got str"):
        plot(draws(), var_names=["theta"], ax="here")
    assert not plt.get_fignums()


# ---------------------------------------------------------------------------------------------------------------- pairs


def test_pairs_show_draws_contours_and_correlations():
    torch.manual_seed(0)
    z = torch.randn(2000, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    other = torch.randn(1000, 2)
    axes = plot_pairs({"z": z}, {"z": other})
    assert axes.shape == (2, 2)
    panel = axes[1, 0]
    dots = panel.lines[0].get_xydata()
    np.testing.assert_allclose(dots, z[::5].numpy())
    guide = next(each for each in panel.collections if not each.get_fill() or each.get_facecolor().size == 0)
    outer, inner = guide.get_paths()
    # The contours hold 90 % and 50 % of the draws, up to what a kernel blurs.
    assert np.mean(outer.contains_points(z.numpy())) == pytest.approx(0.9, abs=0.05)
    assert np.mean(inner.contains_points(z.numpy())) == pytest.approx(0.5, abs=0.06)
    texts = [each.get_text() for each in axes[0, 1].texts]
    values = [np.corrcoef(each.T.numpy())[0, 1] for each in (z, other)]
    assert texts == [f"r = {value:+.2f}".replace("-", "−") for value in values]
    assert axes[1, 0].get_xlabel() == "z[0]"
    assert axes[1, 0].get_ylabel() == "z[1]"


def test_pairs_of_one_number_or_in_the_wrong_axes_are_refused():
    with pytest.raises(OptionError, match=r"at least two numbers; got 'mu' alone. Use plot_marginals"):
        plot_pairs(draws(), var_names=["mu"])
    figure, axes = plt.subplots(1, 2)
    with pytest.raises(DataError, match=r"ax must hold 4 Axes; got 2. Write ax=figure.subplots\(2, 2\)"):
        plot_pairs(draws(), var_names=["theta[0]", "theta[1]"], ax=axes)
    assert plt.get_fignums() == [figure.number]


def test_pairs_draw_constants_and_lines_as_points():
    line = torch.randn(50)
    axes = plot_pairs({"a": line, "b": 2 * line, "c": torch.ones(50)})
    assert axes[0, 2].texts[0].get_text() == "constant"
    assert all(not axes[i, j].collections for i, j in ((1, 0), (2, 0)))


# ---------------------------------------------------------------------------------------------------------------- k-hat


def test_k_hat_stands_at_its_datum_and_the_worst_are_named():
    values = torch.tensor([0.1, 1.2, 0.6, -torch.inf, 0.8, torch.inf, 0.2])
    ax = plot_k_hat(values, worst=3)
    points = np.concatenate([np.asarray(each.get_offsets()) for each in ax.collections])
    points = points[points[:, 0].argsort()]
    np.testing.assert_array_equal(points[:, 0], np.arange(7))
    known = values.isfinite().numpy()
    np.testing.assert_allclose(points[known, 1], values[known].numpy())
    low, high = ax.get_ylim()
    assert low < points[3, 1] < 0
    assert 1.2 < points[5, 1] < high
    assert [each.get_text() for each in ax.texts] == ["5", "1", "4"]
    labels = [each.get_text() for each in ax.get_legend().get_texts()]
    assert labels == ["≤ 0.5: 3", "0.5 to 0.7: 1", "> 0.7: 3"]
    levels = [line.get_ydata()[0] for line in ax.lines]
    assert levels == [0.5, 0.7]


def test_k_hat_in_its_order_names_the_data_all_the_same():
    values = torch.tensor([0.9, 0.1, 0.6])
    ax = plot_k_hat(values, sort=True)
    points = np.concatenate([np.asarray(each.get_offsets()) for each in ax.collections])
    np.testing.assert_allclose(points[points[:, 0].argsort(), 1], [0.1, 0.6, 0.9])
    assert {each.get_text(): each.xy[0] for each in ax.texts} == {"0": 2, "2": 1}


def test_k_hat_is_taken_from_what_has_it():
    log_weights = torch.randn(200, 4)
    expected = k_hat(log_weights)
    one = finding("k-hat", expected, None, Threshold(0.5, 0.7, "a paper"), "advice")
    for source in (ImportanceNLL(log_weights), Verdict((one,), (), expected), expected.numpy()):
        ax = plot_k_hat(source)
        points = np.concatenate([np.asarray(each.get_offsets()) for each in ax.collections])
        np.testing.assert_allclose(np.sort(points[:, 1]), expected.sort().values.numpy())
    assert plot_k_hat(torch.tensor(0.3)).get_xticklabels()[0].get_text() == "all latents"
    plt.close("all")
    with pytest.raises(DataError, match=r"needs k-hat; got Verdict without"):
        plot_k_hat(Verdict((one,)))
    with pytest.raises(DataError, match="at least one k-hat"):
        plot_k_hat(torch.zeros(0))
    assert not plt.get_fignums()


# ------------------------------------------------------------------------------------------------------------- evidence


def bounds(num_data=None, *, upper=True):
    torch.manual_seed(0)
    shape = (6,) if num_data is None else (6, num_data)
    made = [Bound(torch.randn(shape) * 0.2 + mean) for mean in (-14.0, -12.0, -10.5, -9.8)]
    size = () if num_data is None else (num_data,)
    return Evidence(*made[:3], made[3] if upper else None, True, 0.99, torch.ones(size))


def test_evidence_stands_between_its_bounds():
    found = bounds()
    ax = plot_evidence(found, exact=-10.0)
    table = found.table
    assert [each.get_text() for each in ax.get_yticklabels()] == ["ELBO", "IWAE", "annealed", "reverse annealed"]
    for row in range(4):
        interval, point = ax.lines[2 * row : 2 * row + 2]
        np.testing.assert_allclose(interval.get_xdata(), table.iloc[row][["low", "high"]].to_numpy(float))
        np.testing.assert_allclose(point.get_xdata(), [table.iloc[row]["mean"]])
        assert list(point.get_ydata()) == [row]
    assert list(ax.lines[8].get_xdata()) == [-10.0, -10.0]
    (area,) = ax.patches
    np.testing.assert_allclose([area.get_x(), area.get_x() + area.get_width()], found.interval_per_datum)
    low, high = found.interval_per_datum
    assert ax.get_title().replace("−", "-") == f"log p(x) in [{low:,.2f}, {high:,.2f}], 99 %"
    alone = plot_evidence(bounds(upper=False))
    assert "≥" in alone.get_title()
    assert len(alone.get_yticklabels()) == 3


def test_evidence_per_datum_is_drawn_less_its_annealed_bound():
    found, exact = bounds(5), torch.full((5,), -10.0)
    ax = plot_evidence(found, exact=exact, per_datum=True)
    base = found.annealed.mean
    order = (found.elbo.mean - base).argsort(descending=True)
    assert [each.get_text() for each in ax.get_xticklabels()] == [str(int(i)) for i in order]
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(drawn["ELBO"], (found.elbo.mean - base)[order])
    np.testing.assert_allclose(drawn["reverse annealed"], (found.upper.mean - base)[order])
    np.testing.assert_allclose(drawn["exact log p(x)"], (exact - base)[order])
    assert not drawn["annealed"].any()


def test_evidence_of_all_data_has_no_single_ones():
    with pytest.raises(DataError, match="per_datum needs evidence of several data"):
        plot_evidence(bounds(), per_datum=True)
    with pytest.raises(DataError, match=r"exact must have shape \(5,\).* got \(4,\)"):
        plot_evidence(bounds(5), exact=torch.zeros(4))
    assert not plt.get_fignums()


# ----------------------------------------------------------------------------------------------------------------- ECDF


def test_the_band_holds_uniform_numbers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    num, repeats, places = 200, 4000, np.arange(1, 50)
    low, high = ecdf_band(num, places / 50, 0.9)
    ranks = generator.integers(0, 50, (repeats, num))
    shares = np.stack([(ranks < place).mean(1) for place in places], 1)
    inside = ((shares >= low - 1e-12) & (shares <= high + 1e-12)).all(1).mean()
    # Counts are whole, so the level is reached from above; the excess is that of one count more.
    assert 0.9 - 4 * (0.09 / repeats) ** 0.5 < inside < 0.93


def test_the_band_is_that_of_arviz():
    points = np.arange(1, 20) / 20
    own, arviz = ecdf_band(100, points, 0.95), ecdf_confidence_band(100, points, points, 0.95)
    for one, other in zip(own, arviz, strict=True):
        np.testing.assert_allclose(one, other, atol=0.01 + 1e-12)  # one count


def test_ecdf_of_ranks_is_the_share_below_less_the_uniform_one():
    ranks = torch.tensor([[0, 3], [1, 3], [2, 3], [3, 3]]).repeat(10, 1)
    ax = plot_ecdf(ranks, num_draws=3, labels=["even", "high"])
    even, high = (next(line for line in ax.lines if line.get_label() == name) for name in ("even", "high"))
    np.testing.assert_allclose(even.get_xdata(), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(even.get_ydata(), 0, atol=1e-12)
    np.testing.assert_allclose(high.get_ydata(), [0, -0.25, -0.5, -0.75, 0])
    assert ax.get_title() == "1 of 2 quantities leave the 95 % band"
    band = ax.collections[0].get_paths()[0].vertices
    low, top = ecdf_band(40, np.array([0.25, 0.5, 0.75]), 0.95)
    assert {round(v, 9) for v in band[:, 1]} == {
        round(v, 9) for v in [0, *(low - [0.25, 0.5, 0.75]), *(top - [0.25, 0.5, 0.75])]
    }


def test_ecdf_colours_those_that_leave_and_counts_the_others():
    ranks = torch.randint(0, 1000, (300, 20))
    ranks[:, 4] = ranks[:, 4] // 2
    ax = plot_ecdf(ranks, num_draws=999)
    labels = [each.get_text() for each in ax.get_legend().get_texts()]
    assert "quantity 4" in labels
    assert f"{20 - len(labels) + 2} others" in labels


def test_ecdf_of_transforms_needs_no_number_of_draws():
    values = np.random.default_rng(0).random(500)
    ax = plot_ecdf(values, level=0.99)
    line = ax.lines[1]
    np.testing.assert_allclose(line.get_ydata()[50], (values <= 0.5).mean() - 0.5)
    assert ax.get_title() == "inside the 99 % band"


def test_what_are_no_ranks_is_refused():
    with pytest.raises(DataError, match=r"PIT values must lie in \[0, 1\].* Of ranks, give num_draws="):
        plot_ecdf(torch.arange(20))
    with pytest.raises(DataError, match=r"whole numbers from 0 to num_draws = 9; got some from 0 to 19"):
        plot_ecdf(torch.arange(20), num_draws=9)
    with pytest.raises(DataError, match="at least 10 simulations; got 5"):
        plot_ecdf(torch.arange(5), num_draws=9)
    with pytest.raises(DataError, match=r"shape \(simulations,\)"):
        plot_ecdf(torch.zeros(20, 2, 2))
    with pytest.raises(DataError, match="must be finite"):
        plot_ecdf(torch.full((20,), torch.nan))
    with pytest.raises(DataError, match="labels must be 2 names"):
        plot_ecdf(torch.zeros(20, 2), labels=["a"])
    with pytest.raises(OptionError, match="level must be positive and below 1; got 95"):
        plot_ecdf(torch.zeros(20), level=95)
    assert not plt.get_fignums()


# -------------------------------------------------------------------------------------------------------- energy, paths


def test_energy_errors_are_those_of_the_trajectories():
    x = torch.tensor(0.0)
    guide = HamiltonianGuide(plane, num_steps=4, init_step_size=0.2, init_temperature=2.0)
    left, right = plot_energy_error(plane, guide, x, num_particles=50, seed=0)
    own = trajectory(plane, guide, x, num_particles=50, seed=0)
    lines = {line.get_label(): line.get_ydata() for line in left.lines}
    errors = own.energy_error[:, 0]
    np.testing.assert_allclose(lines["median"], torch.quantile(errors, 0.5, dim=1, interpolation="nearest"))
    np.testing.assert_allclose(lines["with cooling"], (own.energy - own.energy[0])[:, 0].median(1).values)
    top = left.collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(float(torch.quantile(errors, 0.95, dim=1, interpolation="nearest").max()))
    chains = trajectory(plane, guide, x, method="hmc", num_leapfrog=4, num_transitions=5, num_particles=50, seed=0)
    middle = torch.quantile(chains.energy_error.flatten(1), 0.5, dim=1, interpolation="nearest")
    np.testing.assert_allclose({line.get_label(): line.get_ydata() for line in right.lines}["median"], middle)
    assert float(right.get_title().split()[-1]) == pytest.approx(
        float((-chains.energy_error[-1]).exp().clamp(max=1).mean()), abs=0.006
    )


def test_energy_errors_need_a_hamiltonian_guide():
    with pytest.raises(ModelError, match="needs a HamiltonianGuide; got MeanFieldGuide"):
        plot_energy_error(plane, MeanFieldGuide(plane), torch.tensor(0.0))
    with pytest.raises(OptionError, match="num_particles must be a whole number of at least 5; got 1"):
        plot_energy_error(plane, HamiltonianGuide(plane), torch.tensor(0.0), num_particles=1)
    assert not plt.get_fignums()


def test_paths_in_the_plane_run_from_start_to_end():
    x = torch.tensor(0.0)
    guide = HamiltonianGuide(plane, num_steps=4)
    found = trajectory(plane, guide, x, method="hmc", num_particles=4, num_transitions=6, step_size=3.0, seed=0)
    ax = plot_trajectory(found)
    paths = [line for line in ax.lines if len(line.get_xdata()) == 7]
    for i, line in enumerate(paths):
        np.testing.assert_allclose(line.get_xydata(), found.latent[:, i].numpy())
    refused = ax.lines[-1].get_xydata()
    assert 0 < len(refused) == int((~found.accepted).sum())
    assert {tuple(row) for row in refused} <= {tuple(row) for row in found.latent.flatten(0, 1).numpy()}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a (unconstrained)", "b (unconstrained)")


def test_paths_are_decoded_to_images_a_row_for_each_datum():
    x = torch.rand(3, 3, 4)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    guide = HamiltonianGuide(images, encoder=encoder, num_steps=4)
    found = trajectory(images, guide, x, num_particles=2, seed=0)

    def decode(latents):
        return latents["z"].sum(-1)[..., None, None, None].sigmoid().expand(-1, -1, 1, 3, 4)

    ax = plot_trajectory(found, decode=decode, data=x, every=2)
    assert [each.get_text() for each in ax.texts] == ["datum", "0", "2", "4"]
    picture = ax.images[0].get_array()
    side = picture.shape[1] / 4
    for row in range(3):
        for column, step in ((1, 0), (2, 2), (3, 4)):
            pixel = picture[int((row + 0.5) * picture.shape[0] / 3), int((column + 0.5) * side)]
            assert float(pixel) == pytest.approx(float(found.latents["z"][step, 0, row].sum().sigmoid()))
    assert float(picture[10, 10]) == pytest.approx(float(x[0, 0, 0]))
    in_plane = plot_trajectory(found, datum=1)
    np.testing.assert_allclose(in_plane.lines[0].get_xydata(), found.latent[:, 0, 1].numpy())


def test_what_cannot_be_drawn_of_paths_is_refused():
    x = torch.rand(3, 3, 4)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    found = trajectory(images, HamiltonianGuide(images, encoder=encoder, num_steps=2), x, seed=0)
    with pytest.raises(OptionError, match="datum must be one of the 3 data, from 0; got 3"):
        plot_trajectory(found, datum=3)
    with pytest.raises(DataError, match=r"decode must return images .* got \(1, 3\)"):
        plot_trajectory(found, decode=lambda latents: latents["z"].sum(-1))
    with pytest.raises(DataError, match="one image of one channel for each of 3 rows"):
        plot_trajectory(found, decode=lambda latents: torch.zeros(1, 2, 3, 4))
    with pytest.raises(DataError, match=r"data must be images of shape \(3, 3, 4\).* got \(2, 3, 4\)"):
        plot_trajectory(found, decode=lambda latents: torch.zeros(1, 3, 3, 4), data=x[:2])
    y = torch.tensor([0.1, 0.2])
    wide = trajectory(group, HamiltonianGuide(group, num_steps=2), y, seed=0)
    with pytest.raises(OptionError, match=r"two latents in the plane; got 3. Give decode="):
        plot_trajectory(wide)
    assert not plt.get_fignums()


# -------------------------------------------------------------------------------------------------------------- history


def records(num, **columns):
    loss = 10 + torch.randn(num) + 50 * torch.exp(-torch.arange(num) / 20)
    return [{"step": i, "loss": float(value)} | {k: v(i) for k, v in columns.items()} for i, value in enumerate(loss)]


def test_history_shows_the_running_median_and_its_band():
    result = FitResult(steps=500, records=records(500), seconds=2.0, converged=True)
    ax = plot_history(result)
    rolling = pd.Series([each["loss"] for each in result.records]).rolling(10, min_periods=1, center=True)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), rolling.median())
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(rolling.quantile(0.95).max())
    assert band.min() == pytest.approx(rolling.quantile(0.05).min())
    assert ax.get_ylim()[1] < 40  # the first steps do not flatten the rest
    assert ax.get_title() == "500 steps, converged, 2 s"


def test_history_marks_skipped_steps_and_has_validation_on_an_axis_of_its_own():
    made = records(
        20, validation_loss=lambda i: float(i) if i % 5 == 0 else float("nan"), skipped=lambda i: i in (3, 7)
    )
    made[3]["loss"] = float("inf")
    ax = plot_history(FitResult(steps=20, skipped=2, records=made))
    marks = next(line for line in ax.lines if line.get_label() == "skipped")
    assert list(marks.get_xdata()) == [3, 7]
    (other,) = [each for each in ax.figure.axes if each is not ax]
    assert list(other.lines[0].get_xdata()) == list(other.lines[0].get_ydata()) == [0, 5, 10, 15]
    assert [each.get_text() for each in ax.get_legend().get_texts()] == ["training", "skipped", "validation"]
    assert np.isnan(ax.lines[0].get_ydata()[3])


def test_history_of_nothing_is_refused():
    with pytest.raises(DataError, match="at least one step"):
        plot_history(FitResult())
    with pytest.raises(DataError, match="a finite loss"):
        plot_history(FitResult(records=[{"step": 0, "loss": float("nan")}]))
    with pytest.raises(OptionError, match="window must be a whole number of at least 1; got 0"):
        plot_history(FitResult(records=[{"step": 0, "loss": 1.0}]), window=0)
    assert not plt.get_fignums()


# -------------------------------------------------------------------------------------------------------------- verdict


def test_a_verdict_is_drawn_in_the_axes_given_with_a_marker_for_each_level():
    rule = Threshold(0.5, 0.7, "a paper")
    made = [finding(name, value, None, rule, "advice") for name, value in (("bad", 0.9), ("fair", 0.6), ("good", 0.1))]
    figure, ax = plt.subplots()
    assert Verdict(tuple(made)).plot(ax=ax) is ax
    assert plt.get_fignums() == [figure.number]
    points = [container.lines[0] for container in ax.containers]
    assert [point.get_marker() for point in points] == ["X", "s", "o"]
    np.testing.assert_allclose([float(point.get_xdata()[0]) for point in points], [2.0, 0.5, -1.0])
    with pytest.raises(TypeError, match="ax must be Matplotlib Axes; got int"):
        Verdict(tuple(made)).plot(ax=3)
