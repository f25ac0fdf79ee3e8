"""The project as a whole: imports, names, pins, and a README that is true."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import guides
import ppl_models

ROOT = Path(__file__).parents[1]
PACKAGES = (guides, ppl_models)
MODULES = [package.__name__ for package in PACKAGES] + [
    module.name for package in PACKAGES for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = ROOT / "README.md"


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python on ``arguments`` in a process of its own, which sees this checkout, installed or not."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def declared() -> list[Requirement]:
    """List the requirements that pyproject.toml writes down: to run, to develop, to document, to build."""
    project = PROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values(), PROJECT["build-system"]["requires"]]
    return [Requirement(line) for lines in lists for line in lines]


def pins() -> dict[str, Version]:
    """Read constraints.txt; a line that is not an exact pin is an error."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    matches = {line: re.fullmatch(r"([\w.-]+)==([\w.!]+)", line) for line in lines if not line.startswith("#")}
    assert all(matches.values()), f"not exact pins: {[line for line, match in matches.items() if not match]}"
    return {canonicalize_name(match[1]): Version(match[2]) for match in matches.values() if match}


def test_imports_follow_the_arrows():
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    result = run("-c", code)
    assert result.returncode == 0, result.stdout + result.stderr


def test_start_up_loads_torch_and_pyro_only():
    heavy = {"arviz", "jax", "matplotlib", "numpyro", "pandas", "pytorch_lightning", "rich", "sklearn", "typer"}
    result = run("-c", f"import ppl_models, guides, sys; print(*sorted({heavy} & set(sys.modules)))")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist(name):
    module = importlib.import_module(name)
    public = module.__all__
    assert sorted(set(public)) == sorted(public), "a name stands twice"
    assert [each for each in public if not hasattr(module, each)] == []


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_requirement_is_pinned(requirement):
    pin = pins().get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} has no line in constraints.txt"
    assert pin in requirement.specifier, f"{requirement.name} is pinned to {pin}, outside {requirement.specifier}"


def test_everything_required_is_pinned():
    # Not followed: what torch requires, for it pins the libraries of each accelerator itself.
    pinned, waiting, seen = pins(), [requirement.name for requirement in declared()], set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        if name != "torch":
            lines = map(Requirement, importlib.metadata.requires(name) or [])
            waiting += [line.name for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})]
    assert sorted(seen - set(pinned)) == []


def test_readme_python_runs(tmp_path):
    assert README.exists()
    kept, inside = [], False
    for line in README.read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        kept.append(line if inside and not fence else "")  # the line numbers of a traceback are README's
        inside = line == "```python" if fence else inside
    assert any(kept), "README shows no Python"
    script = tmp_path / "README.py"
    script.write_text("\n".join(kept), encoding="utf-8")
    result = run(str(script), cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_readme_make_targets_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    # A command is what begins a line, or a span of code.
    shown = re.findall(r"(?:^|`) *make ([a-z]+)", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(shown) - set(targets) == set()
