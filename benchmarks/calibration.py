"""Calibration: p-values of exact guides, the power against sds that are too small, and gaps against closed forms."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy.stats import kstest
from torch import nn

from benchmarks.report import Row
from benchmarks.verdict import pca
from guides import FullRankGuide, MeanFieldGuide
from ppl_models import OffsetGaussian
from ppl_models.diagnostics import Refit, calibration, inference_gaps

REPEATS, SIMULATIONS = 200, 1000

#: A p-value of 0.001 for the uniformity of 200 p-values: what chance alone would fall below once in a thousand runs.
UNIFORM = 0.001


def calibrated() -> Iterator[Row]:
    """P-values over repeats, exact guides and ones with sds 20 % too small; and guides fitted to each data set."""
    for name, stretch in (("exact", 1.0), ("sds 20 % too small", 0.8)):
        overall, one = [], []
        for seed in range(REPEATS):
            torch.manual_seed(seed)
            fitted = pca(stretch=stretch)()
            found = calibration(
                fitted.model, fitted.guide, *fitted.args, num_simulations=SIMULATIONS, seed=REPEATS + seed
            )
            overall.append(found.p_value)
            one.append(found.table.p_value["z[0]"])
        if stretch == 1:
            for which, values in (("overall", overall), ("z[0]", one)):
                yield Row(f"SBC, {name}: {which} p-values uniform, KS", kstest(values, "uniform").pvalue, least=UNIFORM)
            share = sum(p <= 0.01 for p in overall) / REPEATS
            yield Row(f"SBC, {name}: rejected at 1 %, share of {REPEATS}", share, most=0.035)
        else:
            share = sum(p <= 0.01 for p in overall) / REPEATS
            yield Row(f"SBC, {name}: rejected at 1 %, share of {REPEATS}", share, least=1.0)
    gaussian = OffsetGaussian(3, scale=1.5).requires_grad_(False)
    for steps, options in ((300, {"least": 0.01}), (10, {"most": 0.01})):
        how = Refit(steps=steps, lr=0.1)
        x = torch.zeros(20, 3)
        found = calibration(gaussian, MeanFieldGuide(gaussian), x, num_simulations=200, refit=how, seed=0)
        yield Row(f"VSBC, {found.how}, {steps} steps: p-value", found.p_value, **options)


def gaps() -> Iterator[Row]:
    """A linear-Gaussian VAE with known log p(x): the parts add up, and an exact family has no approximation part."""
    torch.manual_seed(0)
    fitted = pca(correlated=True)()
    (x,) = fitted.args
    weight = fitted.model.decoder.weight
    covariance = weight @ weight.T + 0.7**2 * torch.eye(len(weight))
    exact = torch.distributions.MultivariateNormal(torch.zeros(len(weight)), covariance).log_prob(x)
    families = {
        "mean-field": fitted.guide,
        "full-rank, encoder not trained": FullRankGuide(fitted.model, encoder=nn.Linear(6, 5)),
    }
    for name, guide in families.items():
        found = inference_gaps(fitted.model, guide, x, seed=0)
        total, error = found.total
        off = (total - (exact - found.elbo.mean)).abs()
        # Beside the errors 1e-6 nats for what an optimizer leaves.
        worst = (off / (error + 1e-6)).max().item()
        yield Row(f"gaps, {name}: parts less log p(x) - ELBO, worst of {len(x)} in errors", worst, most=4.5)
        approximation = found.summary.loc["approximation"]
        if name == "mean-field":
            precision = torch.eye(2) + weight.T @ weight / 0.7**2
            # KL of the best normal law with independent coordinates: the same for all data.
            best = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
            off_by = abs(approximation["mean"] + found.summary.loc["sampling", "mean"] - best)
            yield Row(
                "gaps, mean-field: approximation part off by, in errors", off_by / approximation.standard_error, most=4
            )
        else:
            yield Row("gaps, exact family: approximation part, nats", abs(approximation["mean"]), most=1e-4)
            yield Row(
                "gaps, exact family: amortisation part, nats",
                found.summary.loc["amortisation", "mean"],
                found.summary.loc["amortisation", "standard_error"],
            )


def calibration_and_gaps() -> Iterator[Row]:
    yield from calibrated()
    yield from gaps()
