"""``ppl-models data``: what it lists, what it fetches, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ppl_models.cli import run
from ppl_models.datasets import DATASETS, omniglot
from tests.test_cli import refused
from tests.test_datasets import same, write_npz

PARTS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ppl-models"


def test_the_list_shows_sizes_and_entropies(capsys):
    assert run(["data", "list"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["mnist"] == ["mnist", "50,000", "10,000", "10,000", "1×28×28", "to", "be", "fetched"]
    assert lines["rings"][4:6] == ["2", "2.623183"]
    assert lines["cos"][5] == "−∞"
    assert set(DATASETS) < set(lines)


def test_the_list_as_json(capsys, tmp_path):
    assert run(["data", "fetch", "omniglot", "--from", str(write_npz(tmp_path / "drawings.npz"))]) == 0
    capsys.readouterr()
    assert run(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(DATASETS)
    assert rows["digits"]["entropy"] is None
    assert rows["digits"]["event_shape"] == [1, 8, 8]
    assert [rows["digits"][part] for part in PARTS] == [1257, 180, 360]
    assert rows["moons"]["entropy"] == DATASETS["moons"].entropy
    assert float(rows["line"]["entropy"]) == DATASETS["line"].entropy
    # Of what is in the cache, 50 drawings; of what is not, as published.
    assert [rows["omniglot"][part] for part in PARTS] == [32, 8, 10]
    assert [rows["mnist"][part] for part in PARTS] == [50_000, 10_000, 10_000]
    assert {name: rows[name]["files"] for name in ("omniglot", "mnist", "moons")} == {
        "omniglot": "in the cache",
        "mnist": "to be fetched",
        "moons": "none needed",
    }


def test_the_list_counts_both_files_of_the_whole_set(tmp_path):
    files = [write_npz(tmp_path / "1.npz", count=30), write_npz(tmp_path / "2.npz", count=40)]
    assert DATASETS["omniglot"].kept(files) == (24, 6, 40)
    data = omniglot(files[1])
    assert DATASETS["omniglot"].kept(files[1:]) == tuple(len(getattr(data, part)) for part in PARTS)


@pytest.mark.parametrize(("damage", "told"), [("changed", "damaged, to be fetched"), ("gone", "to be fetched")])
def test_the_list_shows_what_has_become_of_the_cache(damage, told, capsys, tmp_path, cache):
    assert run(["data", "fetch", "omniglot", "--from", str(write_npz(tmp_path / "drawings.npz"))]) == 0
    kept = cache / "omniglot" / "omniglot.npz"
    kept.write_bytes(b"something else") if damage == "changed" else kept.unlink()
    capsys.readouterr()
    assert run(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["omniglot"]["files"] == told
    assert rows["omniglot"]["train"] == 15_424


@pytest.mark.parametrize("as_json", [False, True])
def test_fetch_says_what_it_kept(as_json, capsys, tmp_path, cache):
    source = write_npz(tmp_path / "drawings.npz")
    assert run(["data", "fetch", "omniglot", "--from", str(source), *["--json"] * as_json]) == 0
    shown, kept = capsys.readouterr().out, str(cache / "omniglot" / "omniglot.npz")
    if as_json:
        assert json.loads(shown) == {"name": "omniglot", "files": [kept]}
    else:
        assert shown.split() == ["Kept:", kept]
    assert same(omniglot(), omniglot(source))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch", "omniglo"], "got 'omniglo'. Did you mean 'omniglot'?"),
        (["fetch", "moons"], "'moons' needs no files."),
        (["fetch", "mnist", "--from", "nowhere"], "got 'nowhere', which is not a folder."),
        (["fetch", "omniglot", "--from", __file__], "must be an .npz file of plain arrays"),
        (["lst"], "Did you mean 'list'?"),
        (["fetch"], "Missing argument 'name'"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, capsys):
    assert message in refused(["data", *arguments], capsys)


def test_help(capsys):
    assert run(["data"]) == 0
    assert "fetch" in capsys.readouterr().out
