"""Reproductions: what was published against closed forms, and a small study from end to end, with interrupts."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import arviz as az
import pandas as pd
import pytest
import torch
from torch.distributions import MultivariateNormal

from guides import MeanFieldGuide, OptionError
from ppl_models import GaussianSummary, OffsetGaussian
from ppl_models.cli import run
from ppl_models.objectives import log_weights
from ppl_models.reproduce_command import app
from ppl_models.reproductions import REPRODUCTIONS, Job, ReportFolder, reproduce_gaussian, run_jobs
from ppl_models.reproductions.gaussian.closed_forms import (
    doubled_iaf_error,
    mean_field_scale,
    planar_error,
    planar_gap,
    volume_error,
    volume_gap,
    volume_limit,
)
from ppl_models.reproductions.gaussian.data import data_sets, model_at, own_data, study_data, truth
from ppl_models.reproductions.gaussian.figures import gaps_figure, learning_figure, posteriors_figure
from ppl_models.reproductions.gaussian.fitting import fit_method, measure
from ppl_models.reproductions.gaussian.methods import LEARNED, METHODS, ROUNDS, STANDARD, Method
from ppl_models.reproductions.gaussian.minibatch_optimum import hamiltonian_gap, minibatch_optimum
from ppl_models.reproductions.gaussian.pieces import fit_job, fit_key
from ppl_models.reproductions.gaussian.published import DIMS, published
from ppl_models.reproductions.gaussian.published import METHODS as PUBLISHED_METHODS
from ppl_models.reproductions.gaussian.tables import why
from tests.examples import run_example
from tests.test_cli import refused

CELLS = {(cell.dim, cell.method, cell.quantity): cell.value for cell in published()}
TINY: dict[str, Any] = {"dims": [2], "methods": ["HVAE K=1", "mean-field VB"], "num_data": 100, "progress": False}
MOMENTS = ("guide mean", "guide sd", "nuts mean", "nuts sd")
PNG = b"\x89PNG\r\n\x1a\n"


# ------------------------------------------------------------------------------------------------- what was published


def test_the_published_table_is_whole():
    assert len(CELLS) == len(published()) == 3 * (5 * 8 + 6)
    assert tuple(METHODS) == PUBLISHED_METHODS
    assert {dim for dim, _, _ in CELLS} == set(DIMS)


def test_theta_is_the_sum_but_where_it_was_printed_from_other_digits():
    for (dim, method, quantity), value in CELLS.items():
        if quantity == "theta":
            # Printed with one digit; a half of the last digit of each of the three.
            total = CELLS[dim, method, "Delta"] + CELLS[dim, method, "Sigma"]
            assert abs(value - total) < 0.06, (dim, method)


@pytest.mark.parametrize("dim", DIMS)
def test_published_errors_of_the_offsets_are_the_noise_in_z(dim):
    shared, network = _noise_in_z(dim), _noise_in_z(dim, after_network=True)
    for method in METHODS:
        if (dim, method, "Delta") not in CELLS or method == "mean-field VB":
            continue
        # Of planar K=1 at d = 300 two runs diverged and were set back.
        tolerance = 0.02 if (dim, method) == (300, "planar K=1") else 0.005
        expected = network if method == "IAF" else shared
        assert CELLS[dim, method, "Delta"] == pytest.approx(expected, rel=tolerance), (method, expected)


def _noise_in_z(dim, *, after_network=False):
    offset = truth(dim)[0]
    sets = study_data(dim, after_network=after_network)
    return sum((x.mean(0) - offset).square().sum().item() for x in sets) / 3


def test_published_mean_field_errors_of_the_offsets_are_not_those_of_its_optimum():
    assert CELLS[25, "mean-field VB", "Delta"] < 0.8 * _noise_in_z(25)
    assert CELLS[50, "mean-field VB", "Delta"] < 0.9 * _noise_in_z(50)
    assert CELLS[400, "mean-field VB", "Delta"] > 2 * _noise_in_z(400)


def test_the_study_s_data_are_those_of_its_distributions():
    offset, scale = (each.float() for each in truth(20))
    torch.manual_seed(12345)
    for x in study_data(20, sets=2, num_data=50):
        z = MultivariateNormal(torch.zeros(20, dtype=torch.float32), torch.eye(20, dtype=torch.float32)).sample()
        law = MultivariateNormal(z + offset, torch.diag(scale.square()))
        assert torch.equal(x, law.sample(torch.Size([50])).double())


def test_the_network_is_drawn_in_single_precision_whatever_the_default(monkeypatch):
    before = study_data(2, num_data=5, after_network=True)
    torch.set_default_dtype(torch.float32)
    try:
        again = study_data(2, num_data=5, after_network=True)
    finally:
        torch.set_default_dtype(torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(before, again, strict=True))
    assert not torch.equal(before[0], study_data(2, num_data=5)[0])


@pytest.mark.parametrize("dim", DIMS)
def test_published_errors_of_the_scales_are_those_of_biased_objectives(dim):
    scale = truth(dim)[1]
    assert CELLS[dim, "IAF", "Sigma"] == pytest.approx(doubled_iaf_error(scale), rel=0.02)
    assert CELLS[dim, "planar K=30", "Sigma"] == pytest.approx(planar_error(scale, factor=2.0), rel=0.01)
    if dim != 300:  # there a run that diverged was set back
        assert CELLS[dim, "planar K=1", "Sigma"] == pytest.approx(planar_error(scale, factor=2.0), rel=0.01)
    if dim < 400:
        left_alone = planar_error(scale, layers=0)
        assert CELLS[dim, "HVAE K=10, no tempering", "Sigma"] == pytest.approx(left_alone, rel=0.015)
    assert CELLS[dim, "HVAE K=10", "Sigma"] > volume_error(scale, 256)


def test_minibatches_taken_for_data_sets_make_the_published_hamiltonian_errors():
    # One of the three sets: the errors are biases, which hardly differ between them.
    scale, (x,) = truth(25)[1], study_data(25, sets=1)
    for tempering, method, tolerance in ((False, "HVAE K=1, no tempering", 0.02), (True, "HVAE K=1", 0.1)):
        found = (minibatch_optimum(x, tempering=tempering).scale - scale).square().sum().item()
        assert CELLS[25, method, "Sigma"] == pytest.approx(found, rel=tolerance)


def test_minibatches_taken_for_data_sets_make_the_published_mean_field_errors():
    scale = truth(100)[1]
    errors = {None: 0.0, 256: 0.0}
    for x in study_data(100):
        for batch_size in errors:
            found = mean_field_scale(x.std(0, correction=0), len(x), batch_size=batch_size)
            errors[batch_size] += (found - scale).square().sum().item() / 3
    assert CELLS[100, "mean-field VB", "Sigma"] == pytest.approx(errors[256], rel=0.07)
    assert errors[None] < 0.95 * errors[256]


def test_the_mean_field_optimum_of_minibatches_by_hand():
    # Four data in two minibatches: two divergences of N(0, v) from N(0, 1), one likelihood.
    def loss(scale, variance):
        return 4 * (scale.log() + 0.5 * (1 + variance) / scale**2) + 2 * 0.5 * (variance - variance.log())

    best = mean_field_scale(torch.ones(1, dtype=torch.float64), 4, batch_size=2).requires_grad_()
    variance = (best.detach() ** 2 - 1).requires_grad_()
    for slope in torch.autograd.grad(loss(best, variance).sum(), [best, variance]):
        assert abs(slope) < 1e-9


def test_the_gap_of_one_leapfrog_step_is_that_of_the_guide():
    model = OffsetGaussian(2, offset=torch.tensor([0.2, -0.1]), scale=torch.tensor([0.7, 1.3]))
    data = GaussianSummary.of(own_data(2, num_data=40))
    guide = METHODS["HVAE K=1"].make(STANDARD, model, data)
    values = model.log_evidence(data) - log_weights(model, guide, data, num_particles=40_000).values
    posterior = model.exact_posterior(data)
    gap = hamiltonian_gap(posterior.stddev**-2, posterior.mean, guide.step_size, guide.temperatures[0]).sum()
    assert abs(values.mean() - gap) < 5 * values.std() / 200


def test_the_minibatch_optimum_of_all_data_is_the_volume_s():
    x = own_data(1, num_data=2000)
    best = minibatch_optimum(x, batch_size=None)
    model = model_at(best.offset, best.scale)
    least = volume_gap(best.scale, 2000)
    assert model.log_evidence(x).item() - best.elbo == pytest.approx(least, abs=1e-4)
    for factor in (0.99, 1.01):
        other = model_at(best.offset, best.scale * factor)
        assert other.log_evidence(x).item() - volume_gap(other.scale, 2000) < best.elbo


def test_least_gaps_by_hand():
    scale = torch.tensor([1.0, 1.0])
    assert volume_gap(scale, 3) == pytest.approx(2 * (2 - 1 - 0.5 * math.log(4)))
    assert planar_gap(scale, 3, layers=1) == pytest.approx(0.5 * (4 - 1 - math.log(4)))
    assert planar_gap(scale, 3, layers=2) == 0


def test_no_scales_take_a_guide_that_keeps_volume_below_its_limit():
    data = GaussianSummary.of(own_data(1, num_data=40))
    offset, best = (each.item() for each in OffsetGaussian(1).maximum_likelihood(data))
    scales = best * torch.linspace(0.5, 3.0, 2001)
    n, variance = 40, scales.square()
    # The evidence and the gap by hand, with the offset at its best.
    evidence = -0.5 * (n * (2 * math.pi * variance).log() + data.scatter / variance + torch.log1p(n / variance))
    a = 1 + n / variance
    lacking = model_at(data.mean, torch.full((1,), best)).log_evidence(data) - evidence + a.sqrt() - 1 - 0.5 * a.log()
    assert offset == data.mean.item()
    limit = volume_limit(data)
    assert limit <= lacking.min() < limit + 1e-4
    assert limit < volume_gap(torch.full((1,), best), n) - 1e-3  # wider scales than the best win some of it back


# ------------------------------------------------------------------------------------------------------------- fits


@pytest.mark.parametrize("method", ["HVAE K=1", "IAF"])
def test_put_right_a_method_reaches_the_evidence_at_maximum_likelihood(method):
    data = data_sets(3, sets=1, num_data=500)[0]
    numbers = measure(fit_method(METHODS[method], LEARNED, data, steps=0.6), data, truth(3), draws=2000)
    assert numbers["gap to ML"] < 0.1
    assert numbers["location"] < 1e-4 * 20  # 500 data in place of 10,000
    assert numbers["Sigma against ML"] < 1e-6


def test_as_published_no_fit_beats_its_limit():
    data = data_sets(3, sets=1, num_data=500)[0]
    method = METHODS["HVAE K=1"]
    fitted = fit_method(method, STANDARD, data, steps=0.3)
    numbers = measure(fitted, data, truth(3), draws=4000)
    least = method.least_gap(STANDARD, fitted.model, data.count)
    assert least - 5 * numbers["standard error"] < numbers["gap"] < 3 * least
    assert numbers["gap to ML"] > volume_limit(data) - 5 * numbers["standard error"]
    assert numbers["ML log evidence"] >= numbers["log evidence"]
    assert numbers["gap to ML"] == pytest.approx(numbers["gap"] + numbers["ML log evidence"] - numbers["log evidence"])
    assert fitted.curve.step[-1] == 300
    assert fitted.curve.scale[-1] == pytest.approx(numbers["Sigma against ML"])
    # A point is the mean of two steps with ten draws each: a two-hundredth of the 4000.
    assert fitted.curve.elbo[-1] == pytest.approx(numbers["elbo"], abs=5 * 15 * numbers["standard error"])


def test_over_a_fixed_base_mean_field_vb_stops_on_the_ridge():
    data = data_sets(3, sets=1)[0]
    numbers = measure(fit_method(METHODS["mean-field VB"], STANDARD, data, steps=0.3), data, truth(3), draws=1000)
    # The sum of Delta and E z is that of the data, the scales are right, and Delta by itself is anywhere.
    assert numbers["location"] < 1e-3
    assert numbers["Sigma against ML"] < 1e-4
    assert numbers["Delta against ML"] > 0.1


def test_the_seconds_of_a_fit_are_those_of_all_of_it():
    def slow(model):
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        return MeanFieldGuide(model)

    data = data_sets(2, sets=1, num_data=50)[0]
    fitted = fit_method(Method("slow", slow), LEARNED, data, steps=0.001)
    assert fitted.seconds > 0.1 * len(ROUNDS[LEARNED])


def test_own_data_do_not_depend_on_what_was_drawn_before():
    first = own_data(2, seed=1, num_data=5)
    torch.randn(7)
    assert torch.equal(first, own_data(2, seed=1, num_data=5))
    sets = data_sets(2, sets=2, num_data=5)
    assert torch.equal(sets[1].mean, first.mean(0))


# ------------------------------------------------------------------------------------------------------ end to end


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return reproduce_gaussian(
        out=tmp_path_factory.mktemp("reports") / "gaussian", sets=2, steps=0.01, processes=1, judge=False, **TINY
    )


def test_the_example_shows_the_report(report, capsys):
    run_example("gaussian", report)
    assert capsys.readouterr().out.endswith(f"{report.folder / 'index.md'}\n")


def test_a_report_has_every_part(report):
    names = {str(path.relative_to(report.folder)) for path in report.files}
    assert names >= {
        "index.md",
        "config.json",
        "tables/headline.csv",
        "tables/headline.md",
        "tables/summary.csv",
        "tables/goals.csv",
        "tables/fits.csv",
        "figures/errors.png",
        "figures/gaps.png",
        "figures/learning-d2.png",
    }
    assert not [path for path in report.folder.rglob("*") if path.name.startswith(".")]
    assert all(path.read_bytes().startswith(PNG) for path in report.files if path.suffix == ".png")
    index = (report.folder / "index.md").read_text(encoding="utf-8")
    for path in report.files:
        if path.suffix == ".png" or path.name == "fits.csv":
            assert f"({path.relative_to(report.folder)})" in index


def test_a_report_s_rows_are_those_of_its_jobs(report):
    fits = pd.read_csv(report.folder / "tables" / "fits.csv")
    assert len(fits) == 2 * 2 * 2
    key = fit_key(2, 2, "HVAE K=1", STANDARD)
    job = json.loads((report.folder / "jobs" / f"{key}.json").read_text())
    row = fits[(fits["method"] == "HVAE K=1") & (fits["setting"] == STANDARD) & (fits["data set"] == 2)].iloc[0]
    assert row["elbo"] == pytest.approx(job["row"]["elbo"])
    summary = report.tables["summary"].set_index(["setting", "method"])
    both = fits[(fits["method"] == "HVAE K=1") & (fits["setting"] == STANDARD)]
    assert summary.loc[(STANDARD, "HVAE K=1"), "gap"] == pytest.approx(both["gap"].mean())
    # The sets share the draws: an error of all of them.
    error = summary.loc[(STANDARD, "HVAE K=1"), "standard error"]
    assert error == pytest.approx(both["standard error"].mean())
    against = [summary.loc[(STANDARD, "HVAE K=1"), f"{name} against ML"] for name in ("theta", "Delta", "Sigma")]
    assert against[0] == pytest.approx(against[1] + against[2])
    limit = json.loads((report.folder / "jobs" / "limit-d2-set2.json").read_text())
    assert limit["least gap to ML"] == volume_limit(data_sets(2, sets=2, num_data=100)[1])
    assert json.dumps(report.as_dict(), allow_nan=False)
    assert report.reached is False  # after a hundredth of the steps


def test_a_judged_fit_leaves_draws_and_a_verdict(tmp_path):
    folder = ReportFolder(tmp_path, name="gaussian", settings={})
    options = {"source": "own", "seed": 0, "num_data": 100, "steps": 0.3, "draws": 1000}
    result = fit_job(folder, dim=2, data_set=1, method="mean-field VB", setting=LEARNED, judge=True, **options)
    key = fit_key(2, 1, "mean-field VB", LEARNED)
    verdict = json.loads((tmp_path / "verdicts" / f"{key}.json").read_text())
    assert verdict["level"] == result["row"]["verdict"]
    draws = {end: az.from_netcdf(str(tmp_path / "posteriors" / f"{key}{end}.nc")) for end in ("", "-nuts")}
    for end, who in (("", "guide"), ("-nuts", "nuts")):
        location = draws[end].posterior["location"]
        assert location.shape == (4, 1000, 2)
        moments = torch.tensor(result["moments"][f"{who} mean"])
        torch.testing.assert_close(moments, torch.tensor(location.mean(("chain", "draw")).values))
    figure = posteriors_figure([result])
    assert [text.get_text() for text in figure.axes[1].texts] == [verdict["level"]]


def test_a_report_shows_its_own_verdicts_and_links_no_others(report, tmp_path):
    folder = shutil.copytree(report.folder, tmp_path / "report")
    moments = {name: [0.0, 0.0] if "mean" in name else [1.0, 1.0] for name in MOMENTS}
    level = {STANDARD: "fail", LEARNED: "pass"}
    for setting in (STANDARD, LEARNED):
        for method in TINY["methods"]:
            key = fit_key(2, 1, method, setting)
            job = json.loads((folder / "jobs" / f"{key}.json").read_text())
            job["row"]["verdict"] = level[setting]
            (folder / "jobs" / f"{key}-judged.json").write_text(json.dumps(job | {"moments": moments}))
    shown = f"d2-set1-{TINY['methods'][0].lower().replace(' ', '-').replace('=', '-')}-as-published"
    for path in (f"verdicts/{shown}.json", f"posteriors/{shown}-nuts.nc", "verdicts/d3-set1-iaf-put-right.json"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("{}")
    again = reproduce_gaussian(out=folder, sets=2, steps=0.01, processes=1, **TINY)
    index = (folder / "index.md").read_text(encoding="utf-8")
    assert f"(verdicts/{shown}.json)" in index
    assert f"(posteriors/{shown}-nuts.nc)" in index
    assert "d3-set1" not in index
    assert again.tables["verdicts"].to_dict("list") == {
        "method": TINY["methods"],
        STANDARD: ["fail", "fail"],
        LEARNED: ["pass", "pass"],
    }
    assert "| HVAE K=1 | fail | pass |" in index


def test_noise_that_lifts_a_bound_above_the_evidence_stays_in_the_means():
    gaps = [[3.0, -1.0, 2.0], [-1.0, -1.0, None]]
    results = []
    for i, values in enumerate(gaps):
        row = {"d": 2, "data set": i + 1, "setting": LEARNED, "method": "IAF", "ML log evidence": 10.0}
        elbo = [None if gap is None else 10.0 - gap for gap in values]
        curve = {"step": [1, 2, 3], "offset": [4.0, 2.0, 1.0], "scale": [1.0, 1.0, 1.0], "elbo": elbo}
        results.append({"row": row | {"gap to ML": values[0]}, "curve": curve})
    assert learning_figure(results, 2).axes[1].lines[0].get_ydata().tolist() == [1.0, 1e-3, 2.0]
    limits = [{"d": 2, "data set": i + 1, "least gap to ML": 5.0 + i} for i in range(2)]
    left, right = gaps_figure([result["row"] for result in results], limits).axes
    assert right.lines[0].get_ydata().tolist() == [1.0]
    assert left.lines[0].get_ydata().tolist() == [5.5]


def test_an_interrupted_study_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = {**TINY, "sets": 1, "steps": 0.005, "processes": 1, "judge": False}
    done: list[str] = []
    keep = ReportFolder.keep

    def third_is_interrupted(self, key, result):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(key)
        keep(self, key, result)

    monkeypatch.setattr(ReportFolder, "keep", third_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce_gaussian(out=tmp_path, **whole)
    assert sorted(path.stem for path in (tmp_path / "jobs").iterdir()) == sorted(done)
    assert not (tmp_path / "index.md").exists()

    again: list[str] = []
    monkeypatch.setattr(ReportFolder, "keep", lambda self, key, result: (again.append(key), keep(self, key, result)))
    report = reproduce_gaussian(out=tmp_path, **whole)
    assert len(again) == 3  # the limit of the data set, and a fit, were done
    assert not set(again) & set(done)
    assert len(report.tables["summary"]) == 4


# -------------------------------------------------------------------------------------------------------- the frame


def add(folder, *, a, b):
    return {"sum": a + b, "nothing": math.nan}


def fail(folder):
    raise RuntimeError("broken on purpose")


def linger(folder):
    """Tell which process this is, and stay for longer than the test."""
    (folder.path / "lingers").write_text(str(os.getpid()))
    time.sleep(30)


def fail_beside(folder):
    while not (folder.path / "lingers").exists() or not (folder.path / "lingers").read_text():
        time.sleep(0.05)
    raise RuntimeError("broken on purpose")


def test_a_failure_in_another_process_ends_the_others_and_what_is_done_stays(tmp_path):
    folder = ReportFolder(tmp_path, name="sums", settings={})
    folder.keep("first", {"sum": 0})
    jobs = [Job("second", add, {"a": 1, "b": 1}), Job("slow", linger), Job("bad", fail_beside)]
    with pytest.raises(RuntimeError, match="broken on purpose"):
        run_jobs(folder, jobs, processes=2, progress=False)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "lingers").read_text()), 0)
    found = run_jobs(folder, [Job("first", fail), jobs[0]], processes=1, progress=False)
    assert found == {"first": {"sum": 0}, "second": {"sum": 2, "nothing": None}}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gaussian", {"seed": 1}, "out holds a report of other settings: .* has seed=0. Name another folder"),
        ("mnist", {"seed": 0}, "out must be a folder of 'mnist'; got .* of 'gaussian'"),
    ],
)
def test_a_folder_of_another_report_is_refused(name, settings, message, tmp_path):
    ReportFolder(tmp_path, name="gaussian", settings={"seed": 0}, scope={"dims": [1]})
    ReportFolder(tmp_path, name="gaussian", settings={"seed": 0}, scope={"dims": [1, 2]})
    with pytest.raises(OptionError, match=message):
        ReportFolder(tmp_path, name=name, settings=settings)


def test_a_folder_tells_all_versions_that_have_worked_in_it(tmp_path):
    def opened():
        ReportFolder(tmp_path, name="gaussian", settings={})
        return json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))

    config = opened()
    (today,) = config["versions"]
    older = today | {"torch_version": "1.0"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"versions": [older]}), encoding="utf-8")
    assert [opened()["versions"] for _ in range(2)] == [[older, today], [older, today]]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(OptionError, match="is of something else"):
        ReportFolder(tmp_path, name="gaussian", settings={})


def test_tables_in_markdown(tmp_path):
    folder = ReportFolder(tmp_path, name="sums", settings={})
    table = pd.DataFrame({"what": ["a|b", "c"], "value": [1.23456, math.nan]})
    folder.table("numbers", table, caption="Numbers.")
    lines = (tmp_path / "tables" / "numbers.md").read_text().splitlines()
    assert lines == ["| what | value |", "| --- | ---: |", "| a\\|b | 1.235 |", "| c |  |"]
    assert pd.read_csv(tmp_path / "tables" / "numbers.csv")["value"][0] == 1.23456


# ------------------------------------------------------------------------------------------------------ the command


def test_each_reproduction_has_its_command():
    assert [command.name for command in app.registered_commands] == list(REPRODUCTIONS)


def test_the_command_writes_and_prints(tmp_path, capsys):
    arguments = [
        "reproduce",
        "gaussian",
        "--dims",
        "2",
        "--methods",
        "mean-field VB",
        "--sets",
        "1",
        "--steps",
        "0.002",
    ]
    arguments += ["--no-judge", "--processes", "1", "--mute", "--out", str(tmp_path)]
    assert run([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["reproduction"] == "gaussian"
    assert [row["method"] for row in told["tables"]["headline"]] == ["mean-field VB"]
    assert all(Path(path).is_file() for path in told["files"])
    assert run(arguments) == 0
    shown = capsys.readouterr()
    assert str(tmp_path / "index.md") in shown.out.replace("\n", "")
    assert shown.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gausian"], "Did you mean 'gaussian'?"),
        (["gaussian", "--methods", "IAFF"], "got 'IAFF'. Did you mean 'IAF'?"),
        (["gaussian", "--data", "studi"], "Did you mean 'study'?"),
        (["gaussian", "--dims", "25;50"], "dims must be whole numbers with commas between them"),
        (["gaussian", "--dims", "1"], "dims must be a whole number of at least 2; got 1."),
        (["gaussian", "--dims", "25", "--full"], "dims and full must not be given together"),
        (["gaussian", "--data", "study", "--seed", "1"], "seed must be 0 for the study's data"),
        (["gaussian", "--steps", "0"], "steps must be positive"),
        (["gaussian", "--out", __file__, "--dims", "2"], "out must be a folder that files can be written to"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, capsys):
    assert message in refused(["reproduce", *arguments], capsys)


def test_methods_are_done_once_and_there_is_one(tmp_path):
    options = {"out": tmp_path, "dims": [2], "sets": 1, "steps": 0.002, "judge": False, "progress": False}
    with pytest.raises(OptionError, match="methods must name at least one of 'HVAE K=1', .*; got none"):
        reproduce_gaussian(methods=[], **options)
    report = reproduce_gaussian(methods=["mean-field VB", "mean-field VB"], processes=1, num_data=20, **options)
    scope = json.loads((report.folder / "config.json").read_text(encoding="utf-8"))["scope"]
    assert scope["methods"] == ["mean-field VB"]


def test_every_reason_is_a_sentence():
    assert all(why(method, quantity, dim) for dim, method, quantity in CELLS)
