"""The command line: what it prints, what it refuses, and what an interrupt leaves behind."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from ppl_models.cli import run
from ppl_models.datasets.idx import IDX_FILES, write_idx

ROOT = Path(__file__).parents[1]
QUICK = ["demo", "--steps", "2", "--eval-images", "2", "--mute"]
FILES = ["posterior.nc", "reconstructions.png", "samples.png", "training.png"]
IMAGES, LABELS = IDX_FILES[0], IDX_FILES[1]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ppl_models.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    # What is started in the background, as these tests may be, would ignore interrupts.
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=default)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Make a folder of MNIST's four files, with few and small images."""
    folder = tmp_path / "idx"
    for name, count in zip(IDX_FILES, (18, 18, 6, 6), strict=True):
        values = torch.arange(count * 36).reshape(count, 6, 6) % 256 if "images" in name else torch.arange(count) % 10
        write_idx(folder / name, values)
    return folder


# ------------------------------------------------------------------------------------------------------ what it prints


def test_the_program_prints_a_table_and_where_the_files_are(tmp_path):
    process = start(*QUICK, cwd=tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors == ""
    lines = output.splitlines()
    assert sum(line.startswith(("VAE  ", "HVAE  ", "IWAE  ")) for line in lines) == 3
    assert "the first 2 of 360 test images" in " ".join(output.split())
    folder = Path("ppl-models-demo")
    assert names(tmp_path / folder) == FILES
    assert {line.strip() for line in lines[-4:]} == {str(folder / name) for name in FILES}


def test_json_is_one_object_and_progress_keeps_out_of_it(idx_folder, tmp_path, capsys):
    options = ["--data", "mnist", "--data-dir", str(idx_folder), "--out", str(tmp_path / "out"), "--seed", "5"]
    assert run([*QUICK[:-1], *options, "--json"]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert [row["model"] for row in told["rows"]] == ["VAE", "HVAE", "IWAE"]
    assert all(row["test_nll"] > 0 for row in told["rows"])
    assert (told["data"], told["num_train"], told["num_test"], told["steps"], told["seed"]) == ("mnist", 15, 6, 2, 5)
    assert sorted(told["files"]) == [str(tmp_path / "out" / name) for name in FILES]
    assert [f"training {name}" in shown.err for name in ("VAE", "HVAE", "IWAE")] == [True] * 3
    assert "2/2" in shown.err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["demo", "--help"]], ids=" ".join)
def test_help_goes_to_standard_output(arguments, capsys):
    assert run(arguments) == 0
    shown = capsys.readouterr()
    assert "Usage: ppl-models" in shown.out
    assert shown.err == ""


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ppl-models ")


# ----------------------------------------------------------------------------------------------------- what it refuses


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Check that the command line refuses ``arguments`` in one line, and return that line."""
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digit"], "got 'digit'. Did you mean 'digits'?"),
        (["--data", "[bold]"], "got '[bold]'."),
        (["--steps", "0"], "steps must be a whole number of at least 1; got 0."),
        (["--steps", "many"], "--steps"),
        (["--seed", "-1"], "seed must be a whole number, at least 0 and below 2**63; got -1."),
        (["--seeds", "1"], "No such option: --seeds"),
        (["--data-dir", "here"], "data_dir is only for data 'mnist'"),
        (["--data", "mnist", "--data-dir", "no-such-folder"], "got 'no-such-folder', which is not a folder."),
        (["--out", f"{__file__}"], "out must be a folder that files can be written to"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_bad_option_is_refused_in_one_line(arguments, message, capsys):
    assert message in refused(["demo", *arguments], capsys)


def test_a_bad_command_is_refused_in_one_line(capsys):
    assert "Did you mean 'demo'?" in refused(["dmo"], capsys)


def drop(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def relabel(path: Path) -> None:
    path.write_bytes(b"\x00\x00\x08\x02" + path.read_bytes()[4:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, f"lacks {IMAGES}"),
        (truncate, "is truncated: 18 x 6 x 6 images need 648 bytes after the header; got 647."),
        (relabel, "magic number must be 0x00000803 (images); got 0x00000802."),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_file_is_refused_in_one_line(damage, message, idx_folder, tmp_path, capsys):
    damage(idx_folder / IMAGES)
    out = tmp_path / "out"
    line = refused(["demo", "--data", "mnist", "--data-dir", str(idx_folder), "--out", str(out)], capsys)
    assert message in line
    assert not out.exists()


# ------------------------------------------------------------------------------------------------------ interruptions


def test_an_interrupt_while_training_leaves_nothing(tmp_path):
    process = start("demo", "--steps", "100000", "--out", "out", cwd=tmp_path)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "training VAE\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    # Either is 130 to a shell; Python ends by the signal itself where the interrupt struck code made from a string.
    assert process.returncode in {130, -signal.SIGINT}
    assert output == ""
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert names(tmp_path / "out") == []


def test_an_interrupt_that_became_another_error_is_still_one(tmp_path, monkeypatch, capsys):
    def make_a_class(self: Figure, path: Path) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("Error calling __set_name__ on 'Field' instance") from error

    monkeypatch.setattr(Figure, "savefig", make_a_class)
    assert run([*QUICK, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_while_writing_leaves_older_files_as_they_were(tmp_path, monkeypatch, capsys):
    def break_off(self: Figure, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    (tmp_path / "training.png").write_bytes(b"older")
    monkeypatch.setattr(Figure, "savefig", break_off)
    assert run([*QUICK, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert names(tmp_path) == ["training.png"]
    assert (tmp_path / "training.png").read_bytes() == b"older"


def test_a_full_disk_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    def fill(self: Figure, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Figure, "savefig", fill)
    assert "No space left on device" in refused([*QUICK, "--out", str(tmp_path)], capsys)
    assert names(tmp_path) == []
