"""Results of a study as they might be: made up, with runs that diverged, crashed or are missing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["made_up_results"]

MODELS, DATASETS = ("vae", "vae+iaf/iwae", "lvae"), ("8gaussians", "mnist")


def made_up_results(*, seeds: int = 6, epochs: int = 30, warmup: int = 4, healthy: bool = False) -> xr.Dataset:
    """Three models on two datasets; unless ``healthy``, lvae diverges or crashes at times, and vae skips steps."""
    rng = np.random.default_rng(0)
    shape = (len(MODELS), len(DATASETS), seeds)
    dims = ("model", "dataset", "seed")
    epoch = np.arange(1, epochs + 1)
    goal = np.array([[2.90, 100.0], [2.86, 96.0], [2.895, 99.8]])[..., None] + rng.normal(0, 0.01, size=shape)
    start = np.array([8.0, 500.0])[:, None, None]
    falling = goal[..., None] + start * np.exp(-epoch / 3) + rng.normal(0, 0.002, size=(*shape, epochs))
    data: dict[str, Any] = {name: ((*dims, "epoch"), falling.copy()) for name in ("train_loss", "validation_loss")}
    weights = np.minimum(1.0, epoch / (warmup + 1))
    data["kl_weight"] = ((*dims, "epoch"), np.broadcast_to(weights, falling.shape).copy())
    for name, offset in (("test_loss", 0.002), ("nll", -0.02)):
        data[name] = (dims, goal + offset)
        data[f"{name}_se"] = (dims, np.full(shape, 0.004))
    data["status"] = (dims, np.full(shape, "done", dtype="<U8"))
    data["message"] = (dims, np.full(shape, "", dtype="<U60"))
    data["seconds"] = (dims, np.full(shape, 12.5))
    data["skipped"] = (dims, np.zeros(shape))
    data["num_parameters"] = (dims[:2], np.array([[68620, 1162000], [73228, 1200912], [79164, 1464464]]))
    data["floor"] = ("dataset", np.array([2.831880, np.nan]))
    results = xr.Dataset(
        data,
        coords={
            "model": list(MODELS),
            "dataset": list(DATASETS),
            "seed": list(range(seeds)),
            "epoch": epoch,
            "guide": ("model", ["default", "iaf", "default"]),
            "objective": ("model", ["elbo", "iwae", "elbo"]),
        },
        attrs={
            "study": json.dumps(
                {"models": ["vae", "lvae"], "datasets": list(DATASETS), "seeds": list(range(seeds)), "epochs": epochs}
            ),
            "version": "0.1.0",
        },
    )
    if not healthy:
        for place, status, message, seen in (
            (("lvae", "8gaussians", 0), "diverged", "validation loss nan in epoch 9", 8),
            (("lvae", "8gaussians", 1), "diverged", "50 steps in a row were not finite", 0),
            (("lvae", "mnist", 0), "crashed", "MemoryError: <killed> & gone_50%", 3),
            (("lvae", "mnist", 1), "missing", "", 0),
        ):
            stop(results, place, status, message, seen)
        results["skipped"][0, 1, -2:] = [3.0, 1.0]  # vae on mnist
    return results


def stop(results: xr.Dataset, place: tuple[str, str, int], status: str, message: str, seen: int) -> None:
    """End a run after ``seen`` epochs."""
    at = dict(zip(("model", "dataset", "seed"), place, strict=True))
    for name in ("train_loss", "validation_loss", "kl_weight"):
        results[name].loc[{**at, "epoch": slice(seen + 1, None)}] = np.nan
    for name in ("test_loss", "test_loss_se", "nll", "nll_se", "skipped"):
        results[name].loc[at] = np.nan
    results["status"].loc[at] = status
    results["message"].loc[at] = message
