"""The tables of the seeds study, done again: what was published, what came out, and why they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppl_models.reproductions.convergence.contenders import AS_PUBLISHED, own_name
from ppl_models.reproductions.convergence.published import published_row
from ppl_models.reproductions.convergence.reasons import why
from ppl_models.study import convergence_metrics, metrics_table
from ppl_models.study.run_metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from torch import Tensor

__all__ = ["compared", "goals", "headline", "one_gaussian"]

#: How near the published mean the last loss of the VAE with the published mistakes was to come, in nats.
MOST_APART = 0.05

#: How many standard errors of the test set a loss may be below the entropy.
MOST_ERRORS = 5.0


def one_gaussian(train: Tensor, test: Tensor) -> float:
    """Fit one normal law to points, and return its mean negative log density on others.

    Args:
        train: Points ``(N, D)``.
        test: Others ``(M, D)``.

    Example:
        >>> import torch
        >>> points = torch.tensor([[1.0], [-1.0]])
        >>> round(one_gaussian(points, points), 3)  # log √(2πe)
        1.419
    """
    import torch

    mean, covariance = train.double().mean(0), train.double().T.cov(correction=0).reshape(2 * train.shape[1:])
    law = torch.distributions.MultivariateNormal(mean, covariance)
    return -float(law.log_prob(test.double()).mean())


def headline(results: xr.Dataset, baselines: Mapping[str, float]) -> pd.DataFrame:
    """Show the last validation loss of each model beside the published one, and how far it is above the floor.

    Args:
        results: Of one of the studies.
        baselines: By dataset, the loss of one normal law.
    """
    import pandas as pd

    ours = metrics_table(results, metrics=["last"]).set_index(["dataset", "model"])
    rows = []
    for (dataset, model), row in ours.iterrows():
        shown = published_row(dataset, own_name(model))
        rows.append(
            {
                "dataset": dataset,
                "model": model,
                "floor": row["floor"],
                "one Gaussian": baselines.get(dataset, math.nan),
                "published": shown.metrics["last"][0] if shown else math.nan,
                "published runs": f"{shown.used} of 10" if shown else "",
                "published diverged": f"{shown.diverged} of 10" if shown else "",
                "ours": row["mean"],
                "low": row["low"],
                "high": row["high"],
                "runs": f"{row['n_used']} of {row['n']}",
                "diverged": f"{row['n_diverged']} of {row['n']}",
                "gap": row["gap"],
            }
        )
    return pd.DataFrame(rows)


def compared(results: xr.Dataset) -> pd.DataFrame:
    """Put every published metric beside ours by the same arithmetic and by the right one, with the reason.

    Args:
        results: Of one of the studies.
    """
    import pandas as pd

    whole, warm = (
        metrics_table(results, metrics=METRICS, after_warmup=after).set_index(["dataset", "model", "metric"])
        for after in (False, True)
    )
    rows = []
    for dataset in results["dataset"].values.tolist():
        for model in results["model"].values.tolist():
            losses = results["validation_loss"].sel(dataset=dataset, model=model).transpose("seed", "epoch").values
            same = convergence_metrics(losses, mode="published")
            shown = published_row(dataset, own_name(model))
            for metric in METRICS:
                mean, sd = shown.metrics[metric] if shown else (math.nan, math.nan)
                right = whole.loc[dataset, model, metric]
                rows.append(
                    {
                        "dataset": dataset,
                        "model": model,
                        "metric": metric,
                        "published": mean,
                        "published sd": sd,
                        "ours, as published": same[metric]["mean"],
                        "sd, as published": same[metric]["std"],
                        "ours": right["mean"],
                        "low": right["low"],
                        "high": right["high"],
                        "diverged": int(right["n_diverged"]),
                        "ours, after warm-up": warm.loc[dataset, model, metric]["mean"],
                        "why they differ": why(dataset, model, metric),
                    }
                )
    return pd.DataFrame(rows)


def goals(rows: Sequence[Mapping[str, Any]], results: Sequence[xr.Dataset]) -> list[dict[str, Any]]:
    """Hold what came out against what was to come out, on the data whose entropy is known.

    Args:
        rows: Of :func:`headline`.
        results: Of all studies.
    """
    told = []
    for row in rows:
        name = f"{row['model']} on {row['dataset']}"
        if row["model"] == AS_PUBLISHED and math.isfinite(row["floor"]):
            told.append(
                _goal(f"{name}: published last loss less ours", abs(row["published"] - row["ours"]), MOST_APART)
            )
        elif math.isfinite(row["one Gaussian"]):
            told.append(_goal(f"{name}: last loss less one Gaussian's", row["ours"] - row["one Gaussian"], 0.0))
    for each in results:
        errors = ((each["floor"] - each["test_loss"]) / each["test_loss_se"]).max()
        if math.isfinite(errors):
            told.append(
                _goal("test losses below the entropy, in standard errors: the worst", float(errors), MOST_ERRORS)
            )
    return told


def _goal(number: str, value: float, most: float) -> dict[str, Any]:
    # Where all runs diverged the value is NaN, which is not reached.
    return {"number": number, "value": value, "most": most, "reached": value <= most}
