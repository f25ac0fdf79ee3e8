"""The seeds study, done again: its published numbers from its losses, and a small one from end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pytest
import torch

from guides import OptionError
from ppl_models.cli import run
from ppl_models.datasets import TOY_DENSITIES
from ppl_models.reproductions import reproduce_convergence
from ppl_models.reproductions.convergence.contenders import AS_PUBLISHED, CONTENDERS, FULL, QUICK, parts_of
from ppl_models.reproductions.convergence.figures import losses_figure
from ppl_models.reproductions.convergence.published import PUBLISHED, published_row
from ppl_models.reproductions.convergence.reasons import why
from ppl_models.reproductions.convergence.tables import compared, goals, headline, one_gaussian
from ppl_models.study import build_pair, convergence_metrics, count_parameters, open_results, study
from ppl_models.study.run_metrics import METRICS
from tests.examples import run_example
from tests.published_losses import PUBLISHED_LOSSES, published_losses
from tests.study_results import made_up_results
from tests.test_cli import refused

PNG = b"\x89PNG\r\n\x1a\n"
TINY = {"epochs": 2, "num_train": 300, "num_validation": 50, "num_test": 60, "num_importance": 5, "batch_size": 100}
SMALL: dict[str, Any] = {"models": [AS_PUBLISHED, "flow"], "datasets": ["8gaussians"], "runs": 2, "processes": 1}


# ------------------------------------------------------------------------------------------------- what was published


@pytest.mark.parametrize("name", ["flow_8gaussians", "lvae_8gaussians", "flow_mnist", "vae_mnist", "draw_mnist"])
def test_the_published_rows_are_those_of_the_published_losses(name):
    if not PUBLISHED_LOSSES.is_dir():
        pytest.skip("the published losses are not beside this checkout")
    model, _, dataset = name.partition("_")
    row = published_row(dataset, model)
    losses = np.array(published_losses(name))
    assert losses.shape == (10, row.epochs)
    assert row.used == np.isfinite(losses).any(1).sum()
    assert row.diverged == (~np.isfinite(losses[:, -1])).sum()
    found = convergence_metrics(losses, mode="published")
    for metric, printed in row.metrics.items():
        for value, right in zip(printed, (found[metric]["mean"], found[metric]["std"]), strict=True):
            assert value == pytest.approx(right, rel=1e-3, abs=0.051 if metric == "exceeds" else 5.1e-4)


def test_the_published_table_is_whole():
    assert len({(row.dataset, row.model) for row in PUBLISHED}) == len(PUBLISHED) == 2 * 3 + 7 + 4
    assert all(tuple(row.metrics) == METRICS for row in PUBLISHED)
    for row in PUBLISHED:
        assert row.metrics["min"][0] <= row.metrics["last"][0] <= row.metrics["first"][0]


def test_published_vaes_are_worse_than_one_gaussian_and_flows_near_the_entropy():
    for name in ("8gaussians", "checkerboard"):
        train, test = TOY_DENSITIES[name].sample(50_000), TOY_DENSITIES[name].sample(50_000, seed=1)
        baseline = one_gaussian(train, test)
        assert published_row(name, "flow").metrics["last"][0] - TOY_DENSITIES[name].entropy < 0.2
        assert min(published_row(name, model).metrics["last"][0] for model in ("vae", "lvae")) > baseline + 1


def test_one_gaussian_is_the_maximum_likelihood_one():
    x = torch.randn(200, 2, dtype=torch.float64) @ torch.tensor([[2.0, 0.3], [0.0, 0.5]], dtype=torch.float64)
    entropy = 0.5 * math.log((2 * math.pi * math.e) ** 2 * torch.linalg.det(x.T.cov(correction=0)).item())
    assert one_gaussian(x, x) == pytest.approx(entropy, rel=1e-10)


def test_every_number_has_its_reason():
    for row in PUBLISHED:
        for metric in METRICS:
            assert why(row.dataset, row.model, metric)
    assert "of 10 runs, 5 were NaN from the first epoch" in why("checkerboard", "lvae")
    assert "of 10 runs, 7 ended in NaN" in why("mnist", "flow")
    assert "KL weights" in why("mnist", "draw", "first")
    assert "KL weights" not in why("mnist", "draw", "last") + why("mnist", "flow", "first")
    assert why("omniglot", "vae") == "nothing was published"


# ----------------------------------------------------------------------------------------------------- what is trained


def test_datasets_with_the_same_models_are_one_study():
    points, mnist, omniglot = parts_of(["8gaussians", "mnist", "checkerboard", "omniglot"])
    assert (points.name, points.kind, points.datasets) == ("points", "points", ("8gaussians", "checkerboard"))
    assert points.models == (AS_PUBLISHED, "vae", "lvae", "flow")
    assert mnist.models == (AS_PUBLISHED, "vae", "lvae", "draw", "draw2", "draw3", "draw4")
    assert omniglot.models == ("draw", "draw2", "draw3", "draw4")
    only = parts_of(["mnist", "checkerboard"], ["flow"])
    assert [(part.name, part.models) for part in only] == [("mnist", ("flow",)), ("points", ("flow",))]
    assert set(QUICK) == set(FULL) == {"points", "images"}


def test_the_published_vae_is_the_study_s():
    made = CONTENDERS[AS_PUBLISHED].make["points"]((2,))
    assert repr(made[0]) == repr(build_pair("vae", (2,), published=True)[0])
    assert count_parameters(*build_pair(AS_PUBLISHED, (2,), pairs=CONTENDERS)) == 68_620


# ------------------------------------------------------------------------------------------------- tables and figures


def test_the_headline_counts_runs_and_gaps():
    lines = headline(made_up_results(), {"8gaussians": 4.2}).set_index(["dataset", "model"])
    lost = lines.loc["8gaussians", "lvae"]
    assert (lost["runs"], lost["diverged"], lost["published runs"], lost["published diverged"]) == (
        "4 of 6",
        "2 of 6",
        "8 of 10",
        "2 of 10",
    )
    assert lost["gap"] == pytest.approx(lost["ours"] - lost["floor"])
    assert lost["published"] == 5.824
    other = lines.loc["8gaussians", "vae+iaf/iwae"]
    assert math.isnan(other["published"])
    assert math.isnan(lines.loc["mnist", "vae"]["one Gaussian"])


def test_published_arithmetic_stands_beside_the_right_one():
    results = made_up_results()
    table = compared(results).set_index(["dataset", "model", "metric"])
    assert len(table) == 2 * 3 * len(METRICS)
    losses = results["validation_loss"].sel(model="lvae", dataset="8gaussians").values
    same = convergence_metrics(losses, mode="published")
    row = table.loc["8gaussians", "lvae", "last"]
    assert row["ours, as published"] == same["last"]["mean"]
    assert row["sd, as published"] == same["last"]["std"]
    # The run that diverged in epoch 9 has a last loss of its own there, and is no run here.
    assert row["ours"] == pytest.approx(losses[2:, -1].mean())
    assert row["diverged"] == 2
    first = table.loc["8gaussians", "vae", "first"]
    assert first["ours, after warm-up"] < first["ours"]


def test_goals_are_missed_by_losses_that_are_off():
    results = made_up_results(healthy=True)
    line = {"dataset": "8gaussians", "floor": 2.83, "one Gaussian": 4.2, "published": 5.8}
    rows = [{**line, "model": AS_PUBLISHED, "ours": 5.9}, {**line, "model": "vae", "ours": 4.3}]
    assert [each["reached"] for each in goals(rows, [results])] == [False, False, True]
    rows = [{**line, "model": AS_PUBLISHED, "ours": 5.79}, {**line, "model": "vae", "ours": math.nan}]
    below = results.assign(test_loss=results["test_loss"] - 0.2)
    assert [each["reached"] for each in goals(rows, [below])] == [True, False, False]


def test_curves_show_the_floor_and_what_was_published():
    left, right = losses_figure(made_up_results(), {"8gaussians": 4.2}).axes
    heights = {float(line.get_ydata()[0]) for line in left.lines if line.get_marker() == "<" and len(line.get_ydata())}
    assert heights == {5.819, 5.824}
    labels = {text.get_text() for text in left.get_legend().get_texts()}
    assert labels >= {"vae", "lvae, 2 of 6 diverged", "entropy 2.832", "one Gaussian 4.200", "published, last"}
    assert left.get_ylim()[1] > 5.824
    assert right.get_ylim()[1] > 126.107
    far = made_up_results(healthy=True)
    low, high = losses_figure(far.assign(validation_loss=far["validation_loss"] + 300), {}).axes[1].get_ylim()
    assert low < 125.067 < 400 < high
    assert not any("one Gaussian" in text.get_text() for text in right.get_legend().get_texts())


# -------------------------------------------------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(QUICK, "points", TINY)
        folder = tmp_path_factory.mktemp("reports") / "convergence"
        # The second run is interrupted as it ends, and the same call goes on.
        written: list[str] = []
        write = study.write_record

        def interrupted(where, cell, record):
            if len(written) == 1:
                raise KeyboardInterrupt
            written.append(cell.name)
            write(where, cell, record)

        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(study, "write_record", interrupted)
            with pytest.raises(KeyboardInterrupt):
                reproduce_convergence(out=folder, progress=False, **SMALL)
        assert not (folder / "index.md").exists()
        (first,) = (folder / "studies" / "points" / "runs").iterdir()
        before = first.stat().st_mtime_ns
        found = reproduce_convergence(out=folder, progress=False, **SMALL)
        assert first.stat().st_mtime_ns == before
        yield found


def test_the_example_shows_the_report(report, capsys):
    run_example("convergence", report)
    assert capsys.readouterr().out.endswith(f"{report.folder / 'index.md'}\n")


def test_a_report_has_every_part(report):
    names = {str(path.relative_to(report.folder)) for path in report.files}
    tables = ("headline", "goals", "statements", "published", "final", "comparisons", "runs", "parameters")
    assert names >= {"index.md", "config.json", "points.html", "posteriors/points.nc", "verdicts/points.json"}
    assert names >= {f"tables/{name}.csv" for name in tables}
    assert set(report.tables) == set(tables)
    assert names >= {"figures/losses-points.png", "figures/test-points.png"}
    assert all(path.read_bytes().startswith(PNG) for path in report.files if path.suffix == ".png")
    index = (report.folder / "index.md").read_text(encoding="utf-8")
    for path in report.files:
        if path.suffix in (".png", ".nc", ".html", ".csv"):
            assert f"({path.relative_to(report.folder)})" in index
    verdict = json.loads((report.folder / "verdicts" / "points.json").read_text(encoding="utf-8"))
    levels = report.tables["statements"]["level"].tolist()
    assert [each["level"] for each in verdict["findings"]] == levels
    assert verdict["level"] == max(levels, key=["pass", "doubtful", "fail"].index)
    assert json.dumps(report.as_dict(), allow_nan=False)
    assert report.reached is False  # after two epochs on 300 points


def test_a_report_s_numbers_are_the_study_s(report):
    results = open_results(report.folder / "studies" / "points")
    assert (results["status"] == "done").all()
    lines = report.tables["headline"].set_index("model")
    last = results["validation_loss"].sel(model="flow", dataset="8gaussians", epoch=2)
    assert lines.loc["flow", "ours"] == pytest.approx(float(last.mean()))
    kept = az.from_netcdf(str(report.folder / "posteriors" / "points.nc"))
    shown = kept["runs"]["last"].sel(model="flow", dataset="8gaussians").values.ravel()
    np.testing.assert_allclose(shown, last.values)


def test_a_folder_of_other_options_is_refused(report):
    with pytest.raises(OptionError, match="out holds a report of other settings: .* has runs=2"):
        reproduce_convergence(out=report.folder, progress=False, **{**SMALL, "runs": 3})


def test_no_datasets_are_not_the_default_ones(tmp_path):
    with pytest.raises(OptionError, match="datasets must name at least one of '8gaussians', .*; got none"):
        reproduce_convergence(out=tmp_path, datasets=[], models=["draw"])


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command_goes_on_and_prints(report, monkeypatch, capsys):
    monkeypatch.setitem(QUICK, "points", TINY)
    arguments = ["reproduce", "convergence", "--models", f"{AS_PUBLISHED}, flow", "--datasets", "8gaussians"]
    arguments += ["--runs", "2", "--processes", "1", "--mute", "--out", str(report.folder)]
    assert run([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in told["tables"]["headline"]] == [AS_PUBLISHED, "flow"]
    assert all(Path(path).is_file() for path in told["files"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "8gaussian"], "Did you mean '8gaussians'?"),
        (["--models", "vea"], "Did you mean 'vae'?"),
        (["--models", "draw"], "models must name one of points, which 8gaussians, checkerboard are; got 'draw'"),
        (["--runs", "0"], "runs must be a whole number of at least 1; got 0"),
        (["--epochs", "0"], "epochs must be a whole number of at least 1; got 0"),
        (["--processes", "0"], "processes must be a whole number of at least 1; got 0"),
        (["--out", __file__], "out must be a folder that files can be written to"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, tmp_path, capsys):
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "report")]
    assert message in refused(["reproduce", "convergence", *arguments, *out], capsys)
