"""The pages: every public name has a place, every command exists, every page is listed."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import guides
import ppl_models
from benchmarks.report import COLUMNS, Row, keep
from ppl_models.reproductions import ReportFolder

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
TEXTS = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
LESSONS = [
    name
    for name in TEXTS
    if name.startswith(("gallery/", "migrating/", "tutorials/")) and not name.endswith("index.md")
]


def test_every_public_package_has_an_api_page():
    # Of each of these the build sees that every name in __all__ is on the page (docs/conf.py).
    documented = set(re.findall(r"^\.\. automodule:: (\S+)$", "\n".join(TEXTS.values()), re.MULTILINE))
    packages = {f"ppl_models.{module.name}" for module in pkgutil.iter_modules(ppl_models.__path__) if module.ispkg}
    assert packages | {guides.__name__, ppl_models.__name__} <= documented


def parts_of_the_benchmarks() -> set[str]:
    tree = ast.parse((ROOT / "benchmarks" / "__main__.py").read_text(encoding="utf-8"))
    [parts] = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "PARTS"
    ]
    assert isinstance(parts, ast.Dict)
    return {ast.literal_eval(key) for key in parts.keys if key is not None}


def test_every_benchmark_is_explained():
    explained = re.findall(r"^\| `([\w-]+)` \|", TEXTS["numbers.md"], re.MULTILINE)
    assert sorted(explained) == sorted(parts_of_the_benchmarks())


@pytest.mark.parametrize("page", TEXTS)
def test_commands_exist(page):
    text = TEXTS[page]
    shown = re.findall(r"python -m benchmarks ([\w-]+)", text)
    assert set(shown) <= parts_of_the_benchmarks()
    for file, pattern in re.findall(r"make test ARGS='(tests/\S+) -k (\S+)'", text):
        names = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert [name for name in names if pattern in name], f"no test in {file} is called {pattern}"
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"(?:^|`) *make ([a-z]+)", text, re.MULTILINE)) <= set(targets)


def test_links_that_lead_nowhere_are_found(tmp_path, monkeypatch):
    # The build of the pages warns of each, and a warning fails it.
    monkeypatch.syspath_prepend(DOCS / "_extensions")
    links = importlib.import_module("links")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "page.html").write_text('<a href="../index.html#there"></a> <a href="../index.html#not"></a>')
    (tmp_path / "index.html").write_text(
        '<p id="there"><a href="#there"></a> <a href="sub/page.html"></a> <a href="https://example.org/x"></a>'
        '<a href="#top"></a> <a href="#gone"></a> <a href="sub/none.html"></a> <img src="none.png">'
    )
    assert links.broken(tmp_path) == [
        "index.html: #gone",
        "index.html: sub/none.html",
        "index.html: none.png",
        "sub/page.html: ../index.html#not",
    ]


def test_what_was_measured_is_shown(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_extensions")
    measured = importlib.import_module("measured")
    assert [*measured.benchmarks(tmp_path), *measured.reports(tmp_path)] == []
    keep("volume", [Row("gap", 1.25, error=0.5, most=1.0)], tmp_path / "results" / "numbers")
    [(title, rows)] = measured.benchmarks(tmp_path)
    assert title.startswith("volume, 20")
    assert rows == [list(COLUMNS), ["gap", "1.25 +- 0.5", "<= 1", "NO"]]
    folder = ReportFolder(tmp_path / "ppl-models-example", name="example", settings={})
    folder.table("headline", pd.DataFrame({"method": ["IAF"], "gap": [0.123456]}), caption="")
    assert [*measured.reports(tmp_path)] == []  # a report that is not done
    folder.index("Example")
    [(title, rows)] = measured.reports(tmp_path)
    assert title == "reproduce example: headline"
    assert rows == [["method", "gap"], ["IAF", "0.1235"]]
    assert measured.table(rows).astext().split() == ["method", "gap", "IAF", "0.1235"]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md"])
def test_links_between_files_lead_to_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"\]\((?!https?:)([^)#\s]+)\)", text) + re.findall(r"`python (\S+\.py)`", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def cells(page: str) -> list[str]:
    found = re.findall(r"^```\{code-cell\}\n(.*?)^```$", TEXTS[page], re.MULTILINE | re.DOTALL)
    assert len(found) == TEXTS[page].count("{code-cell}"), "a cell that is not closed"
    return found


@pytest.mark.parametrize("page", LESSONS)
def test_lessons_run_and_hold_themselves_to_what_they_say(page):
    assert TEXTS[page].startswith("---\nfile_format: mystnb")
    # What is said of an output in the text is asserted in a cell, seen or unseen: a page that is no longer true fails.
    assert not [line for cell in cells(page) for line in cell.splitlines() if len(line) > 88], "wider than the column"
    asserted = [node for cell in cells(page) for node in ast.walk(parsed(cell)) if isinstance(node, ast.Assert)]
    assert asserted


def parsed(cell: str) -> ast.Module:
    return ast.parse("\n".join(line for line in cell.splitlines() if not line.startswith(":tags:")))


@pytest.mark.slow
def test_the_guide_that_a_page_writes_keeps_the_whole_contract(tmp_path):
    page = TEXTS["tutorials/own-guide.md"]
    [written] = [cell for cell in re.findall(r"```{code-cell}\n(.*?)```", page, re.DOTALL) if "(Guide):" in cell]
    [joined] = re.findall(r"```python\n(BASES.*?)```", page, re.DOTALL)
    tests = tmp_path / "tests"
    shutil.copytree(ROOT / "tests" / "contract", tests / "contract")
    for name in ("__init__.py", "conftest.py"):
        shutil.copy(ROOT / "tests" / name, tests)
    (tests / "contract" / "own.py").write_text(written)
    registry = tests / "contract" / "registry.py"
    text, found = re.subn(r"^BASES.*?\}\n", lambda _: joined, registry.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert found == 1
    registry.write_text(
        text.replace("from guides import (", "from .own import SinhArcsinhGuide\nfrom guides import (", 1)
    )
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        *settings,
        "-k",
        "sinh_arcsinh",
        "tests/contract/test_guides.py",
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert int(re.findall(r"(\d+) passed", run.stdout)[0]) > 100
