"""Study: every engine gives the same numbers, whatever ended it a study goes on, and what fails is told."""

from __future__ import annotations

import itertools
import json
import operator
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from pyro import poutine
from torch import nn
from torch.distributions import Normal

from guides.errors import DataError, OptionError
from ppl_models.cli import run
from ppl_models.datasets import TOY_DENSITIES, ImageData, ToyData
from ppl_models.objectives import log_weights
from ppl_models.study import (
    PAIRS,
    Pair,
    Study,
    Training,
    build_pair,
    count_parameters,
    results,
    runs_table,
    study_summary,
)
from ppl_models.study.engines import BACKENDS, CrashedError, start_engine
from ppl_models.study.job import Job, kl_weight, kl_weights, run_job
from ppl_models.study.lock import locked
from ppl_models.study.records import read_record, record_path

FAST = {"num_train": 300, "num_validation": 50, "num_test": 60, "num_importance": 5, "batch_size": 100}
SMALL = {"models": ["vae", "spline_flow"], "datasets": ["moons"], "seeds": [3, 1], "epochs": 2, **FAST}


def same(one: xr.Dataset, other: xr.Dataset) -> bool:
    """Bit for bit, but for the time that it took."""
    return one.drop_vars("seconds").identical(other.drop_vars("seconds"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small study, done in this process."""
    folder = tmp_path_factory.mktemp("studies") / "small"
    Study(**SMALL).run(folder, backend="threading", progress=False)
    return folder


# Engines.


def test_processes_give_the_numbers_of_this_one(folder, tmp_path):
    found = Study(**SMALL).run(tmp_path, jobs=2, backend="loky", progress=False)
    assert (found["status"] == "done").all()
    assert same(found, results(folder))


def test_a_ray_of_two_workers_gives_them_too(folder, tmp_path):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        found = Study(**SMALL).run(tmp_path, jobs=2, backend="ray", progress=False)
        assert ray.is_initialized()  # it was not the study's to stop
        engine = start_engine("ray", 2)
        with pytest.raises(ZeroDivisionError):
            engine.result(engine.submit((operator.truediv, (1, 0))))
        with pytest.raises(CrashedError, match="its process ended: WorkerCrashedError") as crash:
            engine.result(engine.submit((os._exit, (3,))))
        assert isinstance(crash.value.__cause__, ray.exceptions.WorkerCrashedError)
        handle = engine.submit((time.sleep, (600,)))
        engine.close()
        with pytest.raises(ray.exceptions.RayError):
            ray.get(handle, timeout=60)
    finally:
        ray.shutdown()
    assert same(found, results(folder))


def test_what_ray_says_of_memory_is_told(monkeypatch):
    import ray

    def out_of_memory(_):
        raise ray.exceptions.OutOfMemoryError("the node ran low")

    engine = object.__new__(BACKENDS["ray"])  # of a Ray that need not be started
    engine._ray, engine._running = ray, ["run"]
    monkeypatch.setattr(ray, "get", out_of_memory)
    with pytest.raises(CrashedError, match="Ray ended its process because memory ran out"):
        engine.result("run")
    assert engine._running == []


def test_the_process_is_left_as_it_was(folder):
    assert torch.get_default_dtype() == torch.float64


# Results.


def test_results_have_the_layout_that_is_written_down(folder):
    found = results(folder)
    assert dict(found.sizes) == {"model": 2, "dataset": 1, "seed": 2, "epoch": 2}
    assert found["seed"].values.tolist() == [3, 1]
    assert found["epoch"].values.tolist() == [1, 2]
    for name in ("train_loss", "validation_loss", "kl_weight"):
        assert found[name].dims == ("model", "dataset", "seed", "epoch")
        assert found[name].dtype == float
    for name in ("test_loss", "test_loss_se", "nll", "nll_se", "status", "message", "seconds", "skipped"):
        assert found[name].dims == ("model", "dataset", "seed")
    assert found["num_parameters"].sel(dataset="moons").values.tolist() == [68_620, 91_308]
    assert found["floor"].item() == TOY_DENSITIES["moons"].entropy
    assert found.attrs["num_importance"] == 5
    assert json.loads(found.attrs["study"])["seeds"] == [3, 1]
    # A flow has no latents: its bound is the density, and its validation loss that of independent points.
    flow = found.sel(model="spline_flow")
    assert (flow["nll"] == flow["test_loss"]).all()
    assert (flow["nll"] > flow["floor"] - 4 * flow["nll_se"]).all()
    assert found.sel(model="vae")["nll"].values[0, 0] != found.sel(model="vae")["nll"].values[0, 1]


def test_labels_tell_contenders_apart_and_their_coordinates_what_they_are(tmp_path):
    study = Study(["vae"], ["moons"], seeds=[0], epochs=10, guides=["default", "iaf"], objectives=["elbo", "iwae"])
    assert list(study.num_parameters) == ["vae", "vae/iwae", "vae+iaf", "vae+iaf/iwae"]
    assert len({cell.name for cell in study.cells}) == 4
    study._claim(tmp_path)
    found = results(tmp_path)  # of a study that has not begun
    assert (found["status"] == "missing").all()
    assert found["validation_loss"].isnull().all()
    chosen = found.sel(model="vae+iaf/iwae")
    assert (chosen["guide"].item(), chosen["objective"].item()) == ("iaf", "iwae")


def test_the_weight_of_the_kl_terms_is_that_of_the_published_study():
    assert [kl_weight(4, epoch) for epoch in range(1, 7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert kl_weight(0, 1) == 1.0
    assert kl_weights(1) is None
    weights = kl_weights(4)
    for epoch in range(1, 7):
        weights.set_progress(step=0, epoch=epoch - 1)  # training counts from 0
        assert weights.beta.item() == pytest.approx(kl_weight(4, epoch))


@pytest.mark.parametrize(
    ("given", "expected", "epochs"),
    [
        ({}, PAIRS["vae"].training["points"], 0),
        ({"free_bits": 0.0, "lr": 0.1}, replace(PAIRS["vae"].training["points"], free_bits=0.0, lr=0.1), 0),
        ({"max_grad_norm": 7.0, "warmup": 3}, replace(PAIRS["vae"].training["points"], max_grad_norm=7.0), 3),
        # A guide with the published floor takes free bits for good.
        ({"published": True}, replace(PAIRS["vae"].training["points"], free_bits=0.0), 0),
        ({"models": ["lvae"]}, PAIRS["lvae"].training["points"], 1),
        ({"models": ["lvae"], "warmup": 0}, PAIRS["lvae"].training["points"], 0),
        ({"models": ["flow"], "warmup": 5}, PAIRS["flow"].training["points"], 0),
    ],
)
def test_a_model_is_trained_by_its_own_options_where_none_are_given(given, expected, epochs):
    study = Study(**{"models": ["vae"], "datasets": ["moons"], "seeds": [0], "epochs": 10} | given)
    assert Job(study.cells[0], study.configuration).training((2,)) == (expected, epochs)


def test_free_bits_are_in_what_is_trained_and_not_in_what_is_judged(tmp_path):
    assert kl_weights(0, 2.0).free_bits == 2.0
    options = FAST | {"models": ["vae"], "datasets": ["moons"], "seeds": [0], "epochs": 3}
    found = {
        free: Study(**options, free_bits=free).run(tmp_path / str(free), backend="threading", progress=False)
        for free in (0.0, 1e6)
    }
    assert (found[0.0]["validation_loss"] != found[1e6]["validation_loss"]).all()
    # Without a price the latents are used for good.
    assert (found[1e6]["validation_loss"][..., -1] > found[0.0]["validation_loss"][..., -1]).all()
    with pytest.raises(OptionError, match="free_bits must be finite and not negative; got -1"):
        Study(**options, free_bits=-1)


def test_gradients_are_limited(tmp_path):
    options = FAST | {"models": ["spline_flow"], "datasets": ["moons"], "seeds": [0], "epochs": 2}
    tight, loose = (
        Study(**options, max_grad_norm=limit).run(tmp_path / str(limit), backend="threading", progress=False)
        for limit in (1e-12, 1e6)
    )
    # Adam is free of scale, but not where gradients are as small as its epsilon.
    fall = [(each["train_loss"][..., 0] - each["train_loss"][..., 1]).item() for each in (tight, loose)]
    assert fall[0] < fall[1]


def test_another_objective_and_guide_are_judged_by_the_elbo(tmp_path):
    options = FAST | {"models": ["vae"], "datasets": ["moons"], "seeds": [0, 1], "epochs": 2, "lr": 1e-30}
    elbo, iwae = (
        Study(**options, objectives=[name]).run(tmp_path / name, backend="threading", progress=False)
        for name in ("elbo", "iwae")
    )
    # At the same weights, of which the training changes nothing.
    assert (elbo["validation_loss"].values == iwae["validation_loss"].values).all()
    assert (elbo["train_loss"].values > iwae["train_loss"].values).all()
    assert (elbo["kl_weight"] == 1).all()
    # A seed decides the initial weights; the noise of a validation is the same for all.
    assert (elbo["validation_loss"].sel(seed=0) != elbo["validation_loss"].sel(seed=1)).all()
    moved = Study(**options, guides=["hamiltonian"], warmup=2).run(
        tmp_path / "moved", backend="threading", progress=False
    )
    assert (moved["status"] == "done").all()
    assert moved["kl_weight"].values.ravel().tolist() == [0.5, 1.0] * 2


# Going on.

PROGRAM = """
import json, sys
from ppl_models.study import Study
if __name__ == "__main__":
    Study(**json.loads(sys.argv[1])).run(sys.argv[2], jobs=2, resume=True, progress=False)
"""


def start(options, folder):
    """A study in a program of its own."""
    return subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(options), str(folder)])


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def workers_of(folder):
    """The processes of the runs that are under way."""
    found = set()
    for path in folder.glob("work/*/progress.json"):
        with suppress(FileNotFoundError):  # its run has ended in between
            found.add(json.loads(path.read_text())[2])
    return found


def test_a_killed_study_goes_on_and_loses_no_finished_run(tmp_path):
    options = SMALL | {"models": ["spline_flow"], "seeds": list(range(12))}
    whole = Study(**options).run(tmp_path / "whole", backend="threading", progress=False)
    killed = tmp_path / "killed"
    program = start(options, killed)
    workers: set[int] = set()
    wait_until(lambda: workers.update(workers_of(killed)) or (workers and list(killed.glob("runs/*.json"))))
    program.send_signal(signal.SIGKILL)
    program.wait()
    try:
        wait_until(lambda: not any(map(alive, workers)))  # nobody goes on with what nobody waits for
    finally:
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in killed.glob("runs/*.json")}
    assert 0 < len(before) < 12
    assert json.loads((killed / ".lock").read_text())["pid"] == program.pid  # left over, and recognised
    for left in (".7-0123abcd.study.json", "runs/.7-0123abcd.vae.default.elbo.moons.0.json"):
        (killed / left).touch()  # as of a record of which half was written
    found = Study(**options).run(killed, backend="threading", resume=True, progress=False)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [path.name for path in killed.rglob(".*")] == [".lock"]
    assert same(found, whole)


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    study = Study(**FAST, models=["vae"], datasets=["moons"], seeds=[0], epochs=4, lr=1e-3)
    whole = study.run(tmp_path / "whole", backend="threading", progress=False)
    study._claim(tmp_path)

    def stop(epoch, loss):
        if epoch == 2:
            raise RuntimeError("stop")

    # The first two epochs of the same run, as an interrupted study leaves them.
    (cell,) = study.cells
    work = tmp_path / "work" / cell.name
    record = run_job(Job(cell, study.configuration), work, stop)
    assert (record.status, record.message) == ("crashed", "RuntimeError: stop")
    assert record.validation_loss == whole["validation_loss"].values.ravel().tolist()[:2]
    assert record.kl_weight == [1.0, 1.0]
    found = study.run(tmp_path, backend="threading", resume=True, progress=False)
    assert same(found, whole)
    assert not work.exists()


def test_two_studies_do_not_write_to_one_folder(tmp_path):
    study = Study(**SMALL)
    with (
        locked(tmp_path),
        pytest.raises(OptionError, match=rf"is being written by a study of process {os.getpid()} on"),
    ):
        study.run(tmp_path)
    assert not (tmp_path / "study.json").exists()
    # One of another machine may be alive.
    (tmp_path / ".lock").write_text(json.dumps({"pid": 1, "host": "another"}))
    with pytest.raises(OptionError, match=r"by a study of process 1 on another. If that has ended, remove .*lock"):
        study.run(tmp_path)


# What fails.


def elsewhere():
    """Whether this is the process of a run, and the runs are to fail."""
    return os.environ.get("STUDY_TEST_PARENT", str(os.getpid())) != str(os.getpid())


def flow(shape):
    return PAIRS["flow"].make["points"](shape)


def killed(shape):
    if elsewhere():
        os.kill(os.getpid(), signal.SIGKILL)
    return flow(shape)


def broken(shape):
    return 1 / 0 if elsewhere() else flow(shape)


def hungry(shape):
    if elsewhere():
        torch.empty(2**60)
    return flow(shape)


def killed_late(shape):
    """Killed in the second of two epochs, of three batches each."""
    flow_of_points, guide = flow(shape)
    steps = itertools.count(1)

    def count(*_):
        if torch.is_grad_enabled() and next(steps) == 5 and elsewhere():
            os.kill(os.getpid(), signal.SIGKILL)

    flow_of_points.register_forward_pre_hook(count)
    return flow_of_points, guide


class Unreadable:
    """Makes a flow, but only where it was made itself."""

    def __call__(self, shape):
        return flow(shape)

    def __reduce__(self):
        return int, ("no number",)


def own(make):
    return Pair(make={"points": make}, training={"points": Training(lr=1e-3)}, has_latents={"points": False})


def test_runs_that_crash_are_told_and_the_others_go_on(tmp_path, monkeypatch):
    models = {each.__name__: own(each) for each in (killed, broken, flow, hungry, killed_late)}
    study = Study(models | {"unreadable": own(Unreadable())}, ["moons"], seeds=[0], epochs=2, **FAST)
    monkeypatch.setenv("STUDY_TEST_PARENT", str(os.getpid()))
    found = study.run(tmp_path, progress=False).squeeze()
    assert found["status"].sel(model="flow").item() == "done"
    for model, message in {
        "killed": "its process was killed by SIGKILL, as the system does when memory runs out",
        "broken": "ZeroDivisionError: division by zero",
        "hungry": "RuntimeError: .*allocate memory",
        "killed_late": "its process was killed by SIGKILL",
        "unreadable": "A task has failed to un-serialize: ValueError: invalid literal for int.. .* 'no number'",
    }.items():
        assert found["status"].sel(model=model).item() == "crashed"
        assert re.search(message, found["message"].sel(model=model).item())
    # What a killed run had done is kept, and where a task could not be read.
    assert found["validation_loss"].sel(model=["flow", "killed_late"]).count("epoch").values.tolist() == [2, 1]
    for name in ("train_loss", "validation_loss"):
        first = found[name].sel(epoch=1)
        assert first.sel(model="killed_late") == first.sel(model="flow")
    records = {cell.contender.model: read_record(tmp_path, cell) for cell in study.cells}
    assert "return _ForkingPickler.loads" in records["unreadable"].details
    assert "TerminatedWorkerError" in records["killed"].details
    # Nothing is left to do, but what is asked for.
    monkeypatch.delenv("STUDY_TEST_PARENT")
    again = study.run(tmp_path, resume=True, backend="threading", progress=False)
    assert (again["status"] == "crashed").sum() == 5
    # An engine that does not start leaves what there is.
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match="backend='ray' needs Ray, which is not installed"):
        study.run(tmp_path, resume=True, retry="crashed", backend="ray", progress=False)
    assert results(tmp_path).identical(again)
    mended = study.run(tmp_path, resume=True, retry="crashed", backend="threading", progress=False)
    assert (mended["status"] == "done").all()


def test_a_run_that_diverges_is_told_with_the_epochs_before(tmp_path):
    options = SMALL | {"models": ["vae"], "seeds": [0], "num_train": 3000, "lr": 1e30}
    found = Study(**options).run(tmp_path, backend="threading", progress=False).squeeze()
    assert found["status"].item() == "diverged"
    assert "non-finite" in found["message"].item()


def test_steps_that_were_skipped_are_told(tmp_path):
    train = torch.randn(300, 2)
    train[0] = 1e30  # in one batch of each epoch
    data = ToyData(density=TOY_DENSITIES["moons"], train=train, validation=train[1:51], test=train[51:])
    options = {"seeds": [0], "epochs": 2, "num_importance": 0, "batch_size": 100}
    study = Study(["vae"], {"own": data}, **options)
    found = study.run(tmp_path, backend="threading", progress=False)
    assert (found["status"].item(), found["skipped"].item()) == ("done", 2)
    assert "1 of 1 runs skipped steps that were not finite, up to 2 in one" in study_summary(found)[1].text
    assert runs_table(found)["skipped"].tolist() == [2]
    # Of a study that was written before they were counted, it is not known.
    path = record_path(tmp_path, study.cells[0])
    record = json.loads(path.read_text())
    assert record.pop("skipped") == 2
    path.write_text(json.dumps(record))
    assert results(tmp_path)["skipped"].isnull().all()
    assert len(study_summary(found.drop_vars("skipped"))) == len(study_summary(found)) - 1


@contextmanager
def files_of_at_most(size):
    """No file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_ends_the_study_and_leaves_what_was_written(tmp_path):
    study = Study(**SMALL | {"seeds": [3]})
    study._claim(tmp_path)
    before = (tmp_path / "study.json").read_bytes()
    # The lock may be written, a checkpoint may not; then nothing.
    for size, name, backend in (
        (1000, r"last\.ckpt|best\.ckpt", "threading"),
        (1000, r"last\.ckpt|best\.ckpt", "loky"),
        (0, r"\.lock", "threading"),
    ):
        with files_of_at_most(size), pytest.raises(OSError, match=name):
            study.run(tmp_path, backend=backend, resume=True, progress=False)
    assert (tmp_path / "study.json").read_bytes() == before
    assert not list(tmp_path.glob("runs/*"))
    assert (study.run(tmp_path, backend="threading", resume=True, progress=False)["status"] == "done").all()


# Bad input.

GREY = torch.rand(4, 1, 7, 7)


def images(train=GREY):
    labels = torch.zeros(4, dtype=torch.int64)
    binary = (GREY > 0.5).to(GREY)
    named = {f"{part}_labels": labels for part in ("train", "validation", "test")}
    return ImageData(name="own", train=train, validation=binary, test=binary, grey_levels=2, **named)


REFUSED = {
    "an unknown model": ({"models": ["leave"]}, "model must be one of .* got 'leave'. Did you mean 'lvae'"),
    "an unknown dataset": ({"datasets": ["mons"]}, "Did you mean 'moons'"),
    "an unknown guide": ({"guides": ["hamilton"]}, "Did you mean 'hamiltonian'"),
    "an unknown objective": ({"objectives": ["iwea"]}, "Did you mean 'iwae'"),
    "an unknown schedule": ({"schedule": "cosin"}, "Did you mean 'cosine'"),
    "a name in place of a list": ({"models": "vae"}, r"models must be a list of names; got 'vae'. Write \['vae'\]"),
    "nothing in place of a list": ({"models": None}, r"models must be a list of names; got None\.$"),
    "a number in place of seeds": ({"seeds": 3}, r"Write range\(3\)"),
    "seeds that occur twice": ({"seeds": [1, 2, 1]}, "seeds must differ from each other; got 1 more than once"),
    "a seed out of range": ({"seeds": [2**64]}, r"below 2\*\*63; got 18446744073709551616"),
    "a name that is no file's": ({"models": {"a/b": PAIRS["vae"]}}, "a name must be of letters, .* got 'a/b'"),
    "no seeds": ({"seeds": []}, "seeds must name at least one"),
    "no epochs": ({"epochs": 0}, "epochs must be a whole number of at least 1; got 0"),
    "a model of images": (
        {"models": ["draw"]},
        r"model 'draw' must be given images; got points. The dataset is 'moons'",
    ),
    "a guide without latents": ({"models": ["flow"], "guides": ["iaf"]}, "which has no latents; got 'iaf'"),
    "no mistakes to put back": (
        {"models": ["flow"], "published": True},
        "published must be given with 'vae' and 'lvae' and its own guide only",
    ),
    "sizes of own data": ({"datasets": {"own": images()}, "num_train": 3}, "num_train must not be given with data of"),
    "images of a wrong size": (
        {
            "datasets": {"own": images()},
            "models": ["flow"],
            **dict.fromkeys(("num_train", "num_validation", "num_test")),
        },
        r"data must be images of even sides .* The dataset is 'own', of shape \(1, 7, 7\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_studied_is_refused_before_anything_runs(name):
    options, message = REFUSED[name]
    with pytest.raises(OptionError, match=message):
        Study(**(SMALL | options))


def test_more_images_than_there_are_are_refused_and_the_folder_stays_free(tmp_path):
    study = Study(["vae"], ["digits"], seeds=[0], epochs=1, num_test=10_000)
    with pytest.raises(OptionError, match=r"num_test must be at most \d+, the images that 'digits' has .* got 10000"):
        study.run(tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == []


def test_numbers_may_be_numpys(tmp_path):
    numbers = {name: value for name, value in (SMALL | {"data_seed": 7, "warmup": 1}).items() if type(value) is int}
    given = {name: np.int64(value) for name, value in numbers.items()} | {"seeds": np.arange(2)}
    given |= dict.fromkeys(("lr", "free_bits", "max_grad_norm"), np.float32(0.5))
    study = Study(**SMALL | given)
    study._claim(tmp_path)
    assert json.loads(results(tmp_path).attrs["study"]) == study.configuration
    assert {name: study.configuration[name] for name in numbers} == numbers


def test_labels_are_no_images():
    with pytest.raises(DataError, match=r"train must have shape \(N, 1, H, W\); got \(4,\)"):
        images(train=torch.arange(4))
    with pytest.raises(TypeError, match=r"datasets\['own'\] must be ToyData or ImageData, .* got Tensor"):
        Study(["vae"], {"own": torch.arange(4)}, seeds=[0], epochs=1)
    with pytest.raises(TypeError, match=r"models\['own'\] must be a Pair; got Linear"):
        Study({"own": nn.Linear(1, 1)}, ["moons"], seeds=[0], epochs=1)


def test_a_folder_of_something_else_is_refused(folder, tmp_path):
    with pytest.raises(OptionError, match=r"holds a study already. Write resume=True"):
        Study(**SMALL).run(folder)
    with pytest.raises(OptionError, match=r"holds another study: seeds is \[3, 1\] there; got \[3, 2\]"):
        Study(**SMALL | {"seeds": [3, 2]}).run(folder, resume=True)
    with pytest.raises(DataError, match=r"must be the folder of a study; it has no study.json"):
        results(tmp_path)
    whole = json.loads((folder / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(whole | {"version": "0.0.9"}))
    with pytest.raises(OptionError, match=r"holds a study of ppl-models 0.0.9; this is"):
        Study(**SMALL).run(tmp_path, resume=True)
    (tmp_path / "study.json").write_text(json.dumps(whole | {"format": 99}))
    with pytest.raises(DataError, match="must have format 1; got 99"):
        results(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(DataError, match=r"study.json must be a whole JSON file of a study; it is damaged\.$"):
        results(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({"ppl_models": "study"}))
    with pytest.raises(DataError, match="must have format 1; got None"):
        results(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({"ppl_models": "study", "format": 1, "version": "1"}))
    with pytest.raises(DataError, match="study.json must be a study's, whole; it lacks study, num_parameters, floors"):
        results(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="folder must be the name of a folder"):
        Study(**SMALL).run(tmp_path / "file")
    with pytest.raises(OptionError, match="Did you mean 'loky'"):
        Study(**SMALL).run(tmp_path / "new", backend="locky")


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("study", {"seeds": 3}),
        ("study", {"seeds": []}),
        ("study", {"models": ["vae", "flaw"]}),
        ("study", {"epochs": None}),
        ("study", {"num_importance": "2"}),
        ("num_parameters", {"vae": 12}),
        ("floors", {"moons": "none"}),
    ],
)
def test_a_study_that_was_changed_by_hand_is_refused(part, changed, folder, tmp_path):
    path = Path(shutil.copytree(folder, tmp_path / "changed"), "study.json")
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {part: whole[part] | changed}))
    with pytest.raises(DataError, match="study.json must be as it was written; it was changed, or is damaged"):
        results(tmp_path / "changed")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"status": "finished"}, "must be the record of a run; it is damaged. Remove it to redo it"),
        ({"nll": None}, "must be the record of a run; it is damaged"),
        ({"train_loss": [1.0, 2.0, 3.0]}, "must have 2 epochs at most; train_loss has 3. Remove it to redo it"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_damaged_record_is_named(changed, message, folder, tmp_path):
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"), "runs", "vae.default.elbo.moons.3.json")
    damaged.write_text(json.dumps(json.loads(damaged.read_text()) | changed))
    with pytest.raises(DataError, match=f"{damaged.name} {message}"):
        results(tmp_path / "damaged")


def test_a_folder_with_other_files_is_left_as_it_is(folder, tmp_path):
    mine = {"work/thesis.tex": "years", "lock": "my notes"}
    (tmp_path / "work").mkdir()
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match="has no study.json, but lock, work. Write another"):
        Study(**SMALL).run(tmp_path, backend="threading", progress=False)
    assert {name: (tmp_path / name).read_text() for name in mine} == mine
    # Records without their configuration may be of other options.
    shutil.copytree(folder / "runs", tmp_path / "records" / "runs")
    with pytest.raises(OptionError, match="has no study.json, but runs"):
        Study(**SMALL | {"epochs": 3}).run(tmp_path / "records", resume=True, backend="threading", progress=False)


def test_a_study_whose_data_cannot_be_had_has_not_begun(tmp_path, monkeypatch):
    def missing(*_):
        raise DataError("no such images")

    monkeypatch.setattr("ppl_models.study.study.load_data", missing)
    with pytest.raises(DataError, match="no such images"):
        Study(**SMALL | {"models": ["vae"], "datasets": ["mnist"]}).run(tmp_path, progress=False)
    Study(**SMALL | {"models": ["vae"], "seeds": [1]}).run(tmp_path, backend="threading", progress=False)


def test_a_study_whose_engine_does_not_start_has_not_begun(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    study = Study(**SMALL | {"models": ["vae"], "seeds": [1]})
    with pytest.raises(OptionError, match="needs Ray"):
        study.run(tmp_path, backend="ray", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert (study.run(tmp_path, backend="threading", progress=False)["status"] == "done").all()


def test_own_data_are_known_by_their_values(tmp_path):
    def study(shift):
        parts = dict(zip(("train", "validation", "test"), torch.randn(3, 40, 2) + shift, strict=True))
        data = ToyData(density=TOY_DENSITIES["moons"], **parts)
        return Study(["vae"], {"own": data}, seeds=[0], epochs=1, num_importance=0)

    torch.manual_seed(0)
    found = study(0.0).run(tmp_path, backend="threading", progress=False)
    assert found["status"].item() == "done"
    assert found["nll"].isnull().all()
    torch.manual_seed(0)
    study(0.0).run(tmp_path, resume=True, progress=False)
    torch.manual_seed(0)
    with pytest.raises(OptionError, match="holds another study: datasets is"):
        study(0.1).run(tmp_path, resume=True)


# The published mistakes.


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("shape", [(2,), (1, 28, 28)])
def test_the_published_mistakes_are_walls(shape, published):
    # What they come to in a training, 5.82 and 6.91, is printed by ``python -m benchmarks seeds``.
    torch.manual_seed(0)
    model, guide = build_pair("vae", shape, published=published)
    with torch.no_grad():
        for parameter in (*model.parameters(), *guide.parameters()):
            parameter.mul_(2.0).sub_(0.2)
    x = torch.rand(50, *shape)
    guide_trace = poutine.trace(guide).get_trace(x)
    scale = guide_trace.nodes["z"]["fn"].base_dist.scale
    assert bool((scale >= 1).all()) == published
    if shape == (2,):
        law = poutine.trace(poutine.replay(model, guide_trace)).get_trace(x).nodes["x"]["fn"].base_dist
        numbers = torch.cat([law.loc, law.scale])
        assert bool(((numbers > 0) & (numbers < 1)).all()) == published


def published_ladder(shape):
    """The published ladder, away from its start, with what its guide draws for some data."""
    torch.manual_seed(1)
    model, guide = (part.double() for part in build_pair("lvae", shape, published=True))
    with torch.no_grad():
        for parameter in (*model.parameters(), *guide.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=parameter.dtype))
    x = torch.rand(6, *shape, dtype=torch.float64).round()
    guide_trace = poutine.trace(guide).get_trace(x)
    return model, guide, x, guide_trace, poutine.trace(poutine.replay(model, guide_trace)).get_trace(x)


LADDERS = {(2,): 79_164, (1, 28, 28): 1_464_464}


@pytest.mark.parametrize("shape", LADDERS)
def test_the_published_ladder_has_no_variance_below_one_but_of_two_laws_merged(shape):
    model, guide, x, _, of_model = published_ladder(shape)
    assert count_parameters(model, guide) == LADDERS[shape]
    for name in ("z_3", "z_2", "passed_2", "z_1", "passed_1"):
        assert (of_model.nodes[name]["fn"].variance >= 1).all()
    numbers = guide.encoder(x).split([2 * size for size in guide.latent_dims], -1)
    assert all((level.chunk(2, -1)[1] > 0).all() for level in numbers)
    if shape == (2,):
        law = of_model.nodes["x"]["fn"].base_dist
        numbers = torch.cat([law.loc, law.scale])
        assert ((numbers > 0) & (numbers < 1)).all()
    assert model(None, num=3).shape == (3, *shape)


@pytest.mark.parametrize("shape", LADDERS)
def test_the_published_ladder_has_the_published_loss(shape):
    # In words: what flows down is the prior's draw; the merged latents, which nothing reads, have their KL.
    model, guide, x, of_guide, of_model = published_ladder(shape)
    ladder, value = model.ladder, {name: site["value"] for name, site in of_guide.nodes.items() if "value" in site}

    def law(mean, log_variance):
        return Normal(mean, (0.5 * log_variance).exp())

    bottom = [level.chunk(2, -1) for level in guide.encoder(x).split([2 * size for size in guide.latent_dims], -1)]
    top = value["z_3"]
    kl = (law(*bottom[2]).log_prob(top) - Normal(0.0, 1.0).log_prob(top)).sum(-1)
    passed = top
    for level in (1, 0):
        z, (mean, log_variance), (_, other, log_other) = (
            value[f"z_{level + 1}"],
            bottom[level],
            guide.rungs[level](passed),
        )
        precision = (-log_variance).exp() + (-log_other).exp()
        middle = ((-log_variance).exp() * mean + (-log_other).exp() * other) / precision
        kl += (Normal(middle, precision.rsqrt()).log_prob(z) - law(*ladder.prior(level, passed)).log_prob(z)).sum(-1)
        passed = value[f"passed_{level + 1}"]
    expected = ladder.decode(passed).log_prob(x) - kl
    of_guide.compute_log_prob()
    of_model.compute_log_prob()
    torch.testing.assert_close(of_model.log_prob_sum() - of_guide.log_prob_sum(), expected.sum(), rtol=1e-9, atol=1e-9)


def test_in_the_published_ladder_only_the_top_knows_of_the_datum():
    model, guide, x, *_ = published_ladder((2,))
    log_weights(model, guide, x).terms["reconstruction"].sum().backward()
    # Of the encoder's heads only the highest, and nothing of what is merged with the others.
    reached = [rung.mean.weight.grad is not None and bool(rung.mean.weight.grad.any()) for rung in guide.encoder.rungs]
    assert reached == [False, False, True]
    assert all(p.grad is None or not p.grad.any() for p in guide.rungs.parameters())


# The command line.


def test_params_prints_the_published_table(capsys):
    assert run(["params", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    images = {"flow": 3_634_680, "lvae": 1_464_464, "vae": 1_162_000, "draw": 3_262_304, "draw3": 3_262_304}
    images |= {"draw2": 2_459_488, "draw4": 2_459_488}
    assert {name: row["mnist"] for name, row in told.items() if "mnist" in row} == images
    points = {name: row["8gaussians"] for name, row in told.items() if "8gaussians" in row}
    assert points == {"vae": 68_620, "lvae": 79_164, "flow": 82_824, "spline_flow": 91_308}
    assert run(["params"]) == 0
    assert "1,464,464" in capsys.readouterr().out


COMMAND = ["train", "-m", "vae", "-m", "spline_flow", "-d", "moons", "-e", "2", "-n", "2", "--backend", "threading"]
COMMAND += ["--num-train", "300", "--num-validation", "50", "--num-test", "60", "--num-importance", "5"]
COMMAND += ["--batch-size", "100"]


def test_train_runs_a_study_and_goes_on_with_it(tmp_path, capsys):
    command = [*COMMAND, "--out", str(tmp_path)]
    assert run(command) == 0
    shown = capsys.readouterr()
    assert "2.3939" in shown.out
    assert "4/4" in shown.err  # the bar of all runs
    assert run(command) == 2
    assert "holds a study already" in capsys.readouterr().err
    assert run([*command, "--resume", "--mute"]) == 0
    assert capsys.readouterr().err == ""
    assert run([*command, "--resume", "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    told = json.loads(shown.out)["runs"]
    names = [(model, seed) for model in ("vae", "spline_flow") for seed in (0, 1)]
    assert [(each["model"], each["seed"]) for each in told] == names
    assert all(len(each["validation_loss"]) == 2 and each["skipped"] == 0 for each in told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-m", "vea", "-d", "moons"], "Did you mean 'vae'?"),
        (["-m", "vae", "-d", "8gausians"], "Did you mean '8gaussians'?"),
        (["-m", "vae", "-d", "moons", "--guide", "hamltonian"], "Did you mean 'hamiltonian'?"),
        (["-m", "vae", "-d", "moons", "-n", "0"], "-n must be a whole number of at least 1; got 0"),
        (["-m", "vae", "-d", "moons", "--retry", "crashed"], "--retry needs --resume"),
        (["-m", "vae"], "Missing option"),
    ],
)
def test_wrong_options_are_one_line_and_code_2(options, message, capsys):
    assert run(["train", *options]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_runs_that_fail_are_told_with_code_1(tmp_path, capsys):
    command = [*COMMAND, "--out", str(tmp_path), "--lr", "1e30", "--mute"]
    command[command.index("300")] = "3000"
    assert run(command) == 1
    assert "vae on moons, seed 0: diverged:" in capsys.readouterr().out
    assert Path(tmp_path, "study.json").exists()
