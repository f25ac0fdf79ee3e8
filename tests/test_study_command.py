"""``ppl-models study``: tables, pictures and the report of a study, and what is said of wrong input."""

from __future__ import annotations

import json
import math

import pytest
from PIL import Image

from ppl_models.cli import run
from ppl_models.study import compare_models, format_table, metrics_table, parameters_table, runs_table, save_results
from ppl_models.study.cells import cells_of
from ppl_models.study.records import CONFIGURATION, Record, write_json, write_record
from ppl_models.study.results import FORMAT
from tests.study_results import made_up_results
from tests.test_cli import refused

METRICS = ["min", "max", "last", "first", "exceeds"]


@pytest.fixture(scope="module")
def results():
    return made_up_results()


@pytest.fixture(scope="module")
def kept(results, tmp_path_factory):
    return str(save_results(results, tmp_path_factory.mktemp("study") / "study.nc"))


@pytest.mark.parametrize("format", ["markdown", "csv", "latex"])
def test_tables_in_every_format(format, kept, results, capsys):
    assert run(["study", "table", kept, "--format", format]) == 0
    assert capsys.readouterr().out == format_table(metrics_table(results, metrics=METRICS), format)


def test_every_table(kept, results, capsys):
    for options, table in (
        (["--threshold", "3"], metrics_table(results, metrics=[*METRICS, "time_to_threshold"], threshold=3.0)),
        (["--metric", "first", "--after-warmup"], metrics_table(results, metrics=["first"], after_warmup=True)),
        (
            ["--table", "test", "--floor", "mnist=80"],
            metrics_table(results, metrics=["test_loss", "nll"], floors={"mnist": 80.0}),
        ),
        (["--table", "comparisons"], compare_models(results)),
        (["--table", "comparisons", "--metric", "last"], compare_models(results, metric="last")),
        (
            ["--table", "comparisons", "--metric", "last", "--after-warmup"],
            compare_models(results, metric="last", after_warmup=True),
        ),
        (
            ["--table", "test", "--metric", "time_to_threshold", "--threshold", "3"],
            metrics_table(results, metrics=["time_to_threshold"], threshold=3.0),
        ),
        (["--table", "runs"], runs_table(results)),
        (["--table", "parameters"], parameters_table(results)),
    ):
        assert run(["study", "table", kept, *options]) == 0
        assert capsys.readouterr().out == format_table(table)


def test_tables_as_json_have_every_number(kept, results, capsys):
    assert run(["study", "table", kept, "--metric", "last", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    table = metrics_table(results, metrics=["last"])
    for row, numbers in zip(rows, table.to_dict("records"), strict=True):
        assert list(row) == list(numbers)
        for name, value in numbers.items():
            if isinstance(value, float) and math.isnan(value):
                assert row[name] is None
            else:
                assert row[name] == ("inf" if value == math.inf else value)


def test_a_table_may_go_to_a_file(kept, results, capsys, tmp_path):
    out = tmp_path / "tables" / "runs.csv"
    assert run(["study", "table", kept, "--table", "runs", "--format", "csv", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Written: {out}\n"
    assert out.read_text() == format_table(runs_table(results), "csv")


def test_pictures(kept, capsys, tmp_path):
    assert run(["study", "plot", kept, "--out", str(tmp_path / "all.png")]) == 0
    assert run(["study", "plot", kept, "--dataset", "mnist", "--out", str(tmp_path / "one.png")]) == 0
    with Image.open(tmp_path / "all.png") as every, Image.open(tmp_path / "one.png") as one:
        assert every.width == 2 * one.width
        assert every.height == one.height
    capsys.readouterr()
    assert run(["study", "plot", kept, "--metric", "last", "--json"]) == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert file == kept.replace("study.nc", "last.png")
    times = ["--metric", "time_to_threshold", "--threshold", "3", "--dataset", "8gaussians"]
    assert run(["study", "plot", kept, *times, "--out", str(tmp_path / "times.png")]) == 0
    assert run(["study", "plot", kept, "--metric", "nll", "--out", str(tmp_path / "bars.svg")]) == 0
    assert "<svg" in (tmp_path / "bars.svg").read_text()


def test_a_folder_may_be_of_a_study_that_is_under_way(tmp_path, capsys):
    study = {"models": ["vae"], "guides": ["default"], "objectives": ["elbo"], "datasets": {"moons": None}}
    study |= {"seeds": [3, 4], "epochs": 2, "num_importance": 0}
    content = {"ppl_models": "study", "format": FORMAT, "version": "1", "study": study}
    content |= {"num_parameters": {"vae": {"moons": 7}}, "floors": {"moons": 2.5}}
    write_json(tmp_path / CONFIGURATION, content)
    losses = {"train_loss": [4.0, 3.0], "validation_loss": [4.0, 3.5], "kl_weight": [0.5, 1.0]}
    write_record(tmp_path, cells_of(study)[0], Record(status="done", test_loss=3.25, **losses))
    assert run(["study", "table", str(tmp_path), "--metric", "last", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert {name: row[name] for name in ("mean", "gap", "n", "n_used", "n_missing")} == {
        "mean": 3.5,
        "gap": 1.0,
        "n": 2,
        "n_used": 1,
        "n_missing": 1,
    }
    assert run(["study", "report", str(tmp_path)]) == 0
    assert "vae has the least mean test loss: 3.250 nats, over 1 of 2 runs" in (tmp_path / "report.html").read_text()


def test_the_report(kept, capsys):
    assert run(["study", "report", kept, "--threshold", "3", "--floor", "mnist=80"]) == 0
    file = kept.replace("study.nc", "report.html")
    assert capsys.readouterr().out == f"Written: {file}\n"
    with open(file, encoding="utf-8") as page:
        text = page.read()
    assert "80.000 nats" in text
    assert "time_to_threshold</td>" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table", "nowhere"], "nowhere must be the folder of a study or a netCDF file of its results"),
        (["table", "."], ". must be the folder of a study"),
        (["table", __file__], "must be a netCDF file of a study's results"),
        (["table", "KEPT", "--table", "metric"], "--table must be one of 'metrics', 'test'"),
        (["table", "KEPT", "--format", "html"], "--format must be one of 'markdown', 'csv', 'latex'"),
        (["table", "KEPT", "--metric", "lats"], "Did you mean 'last'"),
        (["table", "KEPT", "--metric", "time_to_threshold"], "needs threshold"),
        (["table", "KEPT", "--floor", "mnist"], "--floor must be DATASET=NATS, such as mnist=80.5; got 'mnist'"),
        (["table", "KEPT", "--floor", "mnits=3"], "Did you mean 'mnist'"),
        (
            ["table", "KEPT", "--table", "runs", "--metric", "nonsense"],
            "--metric must be given with another table than runs; got 'nonsense'. Leave it out.",
        ),
        (
            ["table", "KEPT", "--table", "parameters", "--threshold", "3"],
            "--threshold must not be given with --table parameters, where it changes nothing. Leave it out.",
        ),
        (
            ["table", "KEPT", "--table", "test", "--threshold", "3"],
            "--threshold must not be given with --table test of test_loss, nll, where it changes nothing. Leave it "
            "out, or choose time_to_threshold by --metric.",
        ),
        (
            ["table", "KEPT", "--table", "comparisons", "--after-warmup"],
            "--after-warmup must not be given with --table comparisons of test_loss, where it changes nothing.",
        ),
        (
            ["table", "KEPT", "--table", "comparisons", "--metric", "last", "--floor", "mnist=80"],
            "--floor must not be given with --table comparisons of last, where it changes nothing. Leave it out.",
        ),
        (
            ["table", "KEPT", "--metric", "exceeds", "--floor", "mnist=80"],
            "Leave it out, or choose test_loss or nll or min or last by --metric.",
        ),
        (["table", "KEPT", "--json", "--format", "csv"], "--format must not be given with --json; got 'csv'."),
        (["plot", "KEPT", "--after-warmup"], "--after-warmup must not be given with curves of losses"),
        (["plot", "KEPT", "--threshold", "3"], "--threshold must not be given with curves of losses"),
        (["plot", "KEPT", "--metric", "nll", "--after-warmup"], "--after-warmup must not be given with bars of nll"),
        (["plot", "KEPT", "--metric", "first", "--floor", "mnist=8"], "--floor must not be given with bars of first"),
        (["plot", "KEPT", "--metric", "nll", "--floor", "mnits=8"], "Did you mean 'mnist'"),
        (
            ["plot", "KEPT", "--dataset", "mnist", "--floor", "8gaussians=3"],
            "a dataset of --floor must be one of 'mnist'; got '8gaussians'",
        ),
        (["plot", "KEPT", "--dataset", "mnits"], "--dataset must be one of '8gaussians', 'mnist'"),
        (["plot", "KEPT", "--out", "picture.bmp"], "the suffix of --out must be one of '.png', '.svg', '.pdf'"),
        (["plot", "KEPT", "--metric", "lats"], "Did you mean 'last'"),
        (["report", "KEPT", "--metric", "time_to_threshold"], "metric must be one of"),
        (["tabel", "KEPT"], "Did you mean 'table'?"),
        (["table"], "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, kept, capsys):
    assert message in refused(["study", *(kept if each == "KEPT" else each for each in arguments)], capsys)


def test_help(capsys):
    assert run(["study"]) == 0
    assert "report" in capsys.readouterr().out
