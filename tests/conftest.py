"""What every test stands on: float64, a fixed seed, one thread, an untouched parameter store."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pyro
import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """One thread per process, for there is a process per core; figures without a display; skips as told."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the programs that tests start
    os.environ["MPLBACKEND"] = "Agg"
    if os.environ.get("PPL_MODELS_NO_SKIPS", "0") != "0":
        config.pluginmanager.register(SkipsAreFailures(), "skips-are-failures")


class SkipsAreFailures:
    """Turn every skipped test or module into a failed one; an expected failure stays what it is."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        fail_if_skipped(report)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        fail_if_skipped(report)
        return report


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Fail ``report`` if it says skipped, keeping its reason."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason} (PPL_MODELS_NO_SKIPS is set, so a skip is a failure)"


@pytest.fixture(scope="module", autouse=True)
def _float64() -> Iterator[None]:
    """Give each test module float64, and the fixtures it shares a seed; doctests keep torch's own default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def _independent() -> Iterator[None]:
    """Seed each test by itself, and see that it leaves Pyro's global parameter store empty."""
    pyro.set_rng_seed(0)
    yield
    left = sorted(pyro.get_param_store().keys())
    pyro.clear_param_store()
    assert not left, f"parameters left in Pyro's global store: {left}"
