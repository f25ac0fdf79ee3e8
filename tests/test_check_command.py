"""ppl-models check: verdicts as exit codes, and one line for each folder that has none."""

from __future__ import annotations

import json
import shutil

import arviz as az
import pytest
import torch

from guides import MeanFieldGuide
from ppl_models import OffsetGaussian
from ppl_models.cli import run
from ppl_models.training import save

CODE = """
import torch
from guides import MeanFieldGuide
from ppl_models import OffsetGaussian

def make():
    print("made")
    gaussian = OffsetGaussian(2).double().requires_grad_(False)
    return gaussian, MeanFieldGuide(gaussian)
"""
FAST = ["--num-samples", "1000"]


def write(folder, stretch):
    """A run whose guide is the posterior, its sds stretched."""
    folder.mkdir()
    model = OffsetGaussian(2).requires_grad_(False)
    x = torch.randn(2) + torch.randn(10, 2)
    guide = MeanFieldGuide(model).setup(x)
    posterior = model.exact_posterior(x)
    guide.loc.data, guide.log_scale.data = posterior.mean, (stretch * posterior.stddev).log()
    save(folder / "fit.pt", model, guide)
    torch.save((x,), folder / "data.pt")
    (folder / "run.py").write_text(CODE)
    draws = posterior.sample((4, 500))
    az.from_dict(posterior={"z": draws.numpy()}).to_netcdf(str(folder / "reference.nc"), engine="h5netcdf")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("runs") / "right", 1.0)


@pytest.fixture
def broken(folder, tmp_path):
    """A copy, to break."""
    return shutil.copytree(folder, tmp_path / "run")


def test_the_exit_code_is_the_verdict(folder, tmp_path, capsys):
    reference = ["--reference", str(folder / "reference.nc")]
    assert run(["check", str(folder), *reference, *FAST]) == 0
    assert "Verdict: pass" in capsys.readouterr().out
    assert run(["check", str(folder), "--num-samples", "50"]) == 1
    assert "Verdict: doubtful" in capsys.readouterr().out
    wrong = write(tmp_path / "wrong", 2.0)
    assert run(["check", str(wrong), *FAST, "--json"]) == 2
    told = json.loads(capsys.readouterr().out)  # what run.py prints is not in it
    assert told["level"] == "fail"


def test_code_and_data_may_come_from_elsewhere(broken, tmp_path, capsys):
    shutil.move(broken / "run.py", tmp_path / "other.py")
    shutil.move(broken / "data.pt", tmp_path / "other.pt")
    options = ["--make", f"{tmp_path / 'other.py'}:make", "--data", str(tmp_path / "other.pt")]
    assert run(["check", str(broken), *options, "--num-samples", "50"]) == 1
    torch.save(torch.load(tmp_path / "other.pt")[0] + 9, tmp_path / "far.pt")
    assert run(["check", str(broken), *options, "--held-out", str(tmp_path / "far.pt"), *FAST]) == 2
    assert "held-out density" in capsys.readouterr().out


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


BREAKS = {
    "no such folder": (shutil.rmtree, "must be the folder of a run"),
    "no fit": (lambda f: (f / "fit.pt").unlink(), "must hold a fit: fit.pt, best.ckpt or last.ckpt; it has none"),
    "cut fit": (lambda f: cut(f / "fit.pt"), "damaged or cut short"),
    "no model": (lambda f: (f / "run.py").unlink(), "has no model in it: run.py must define make()"),
    "no make": (lambda f: (f / "run.py").write_text("x = 1"), "must define the function make()"),
    "an error in run.py": (lambda f: (f / "run.py").write_text("1 / 0"), "ZeroDivisionError: division by zero"),
    "an exit in run.py": (lambda f: (f / "run.py").write_text("raise SystemExit(0)"), "SystemExit: 0"),
    "not a pair": (
        lambda f: (f / "run.py").write_text("def make(): return 1"),
        "make() must return a model and a guide",
    ),
    "another model": (
        lambda f: (f / "run.py").write_text(CODE.replace("OffsetGaussian(2)", "OffsetGaussian(3)")),
        "must have the parameters that the file has",
    ),
    "no data": (lambda f: (f / "data.pt").unlink(), "must hold data.pt, or --data must name the file"),
    "cut data": (lambda f: cut(f / "data.pt"), "damaged or cut short"),
    "data of another kind": (lambda f: torch.save({"x": 1}, f / "data.pt"), "must hold a tensor or a tuple"),
    "data of another shape": (lambda f: torch.save(torch.zeros(3, 5), f / "data.pt"), "data must have dimension 2"),
    "cut held-out data": (lambda f: (f / "held_out.pt").write_bytes(b"1"), "damaged or cut short"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_folder_without_a_verdict_gets_one_line_and_code_3(name, broken, capsys):
    damage, message = BREAKS[name]
    damage(broken)
    assert run(["check", str(broken), *FAST]) == 3
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reference", "hmc.nc"], "--reference must be nuts, none or a netCDF file that exists"),
        (["--make", "make"], "--make must be FILE.py:FUNCTION or MODULE:FUNCTION"),
        (["--make", "no_such_module:make"], "No module named 'no_such_module'"),
        (["--data", "gone.pt"], "the file of the data must exist; got 'gone.pt'"),
        (["--num-samples", "3"], "num_samples must be a whole number of at least 25"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_wrong_options_have_code_3_for_0_to_2_are_verdicts(options, message, folder, capsys):
    assert run(["check", str(folder), *options]) == 3
    assert message in capsys.readouterr().err


def test_a_reference_that_is_no_netcdf_is_refused(broken, capsys):
    cut(broken / "reference.nc")
    (broken / "text.nc").write_text("text")
    assert run(["check", str(broken), "--reference", str(broken / "text.nc")]) == 3
    assert "must be a netCDF file of ArviZ" in capsys.readouterr().err
