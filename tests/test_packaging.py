"""The distributions: what is in them, and that what is installed from them works without the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command: str, cwd: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    [source], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


def test_the_wheel_holds_the_packages_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("guides", "ppl_models")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == modules
    assert {"guides/py.typed", "ppl_models/py.typed"} <= names


def test_the_source_distribution_can_be_tested(built):
    with tarfile.open(built[0]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"Makefile", "constraints.txt", "pyproject.toml", "README.md", "LICENSE", "CITATION.cff"} <= names
    assert {"CONTRIBUTING.md", "examples/picture.py"} <= names  # which the tests of the pages read
    assert {"tests/test_packaging.py", "docs/conf.py", "docs/_static/style.css", "benchmarks/__main__.py"} <= names
    assert not [name for name in names if "_build" in name or "__pycache__" in name]


PROGRAM = """
import torch
from pathlib import Path
import guides, ppl_models
from guides import HamiltonianGuide
from ppl_models import OffsetGaussian
from ppl_models.diagnostics import importance_nll
from ppl_models.training import fit

for package in (guides, ppl_models):
    assert Path(package.__file__).is_relative_to(Path("site").resolve()), package.__file__
gaussian, x = OffsetGaussian(2), torch.randn(10, 2)
guide = HamiltonianGuide(gaussian, num_steps=2)
fit(gaussian, guide, x, steps=3, seed=0, progress=False)
print(importance_nll(gaussian, guide, x, num_samples=50, seed=0))
"""


def test_what_is_installed_from_the_wheel_works(built, tmp_path):
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", "site",
        str(built[1]), cwd=tmp_path)  # fmt: skip
    installed = {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    assert run(sys.executable, "program.py", cwd=tmp_path, **installed).startswith("ImportanceNLL(")
    shown = run(str(tmp_path / "site" / "bin" / "ppl-models"), "--help", cwd=tmp_path, **installed)
    assert "demo" in shown
    [metadata] = (tmp_path / "site").glob("ppl_models-*.dist-info/METADATA")
    assert f"Version: {PROJECT['version']}\n" in metadata.read_text(encoding="utf-8")


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^([a-z-]+): (.+)$", citation, re.MULTILINE))
    assert fields["version"] == PROJECT["version"]
    assert fields["license"] == PROJECT["license"]
    assert fields["title"] == PROJECT["name"]
