"""Moments and quantiles of draws, and how far those of a guide are from others, in units of exact draws' errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_models.diagnostics.findings import FEW_DRAWS, MANY_DRAWS, Finding, Threshold, finding

__all__ = ["QUANTILES", "Differences", "Summary", "corrected"]

QUANTILES = (0.05, 0.5, 0.95)

_SOURCE = f"error of {MANY_DRAWS} exact draws (Gelman et al. 2013) and of {FEW_DRAWS} (MacKay 2003)"


@dataclass(frozen=True)
class Summary:
    """Means, standard deviations and quantiles of D numbers, with their standard errors.

    Args:
        mean: Shape ``(D,)``, and so all the others.
        mean_error: Of ``mean``.
        sd: Standard deviations.
        sd_error: Of ``sd``.
        quantiles: By :data:`QUANTILES`, ``(3, D)``.
        quantile_errors: Of ``quantiles``.
    """

    mean: Tensor
    mean_error: Tensor
    sd: Tensor
    sd_error: Tensor
    quantiles: Tensor
    quantile_errors: Tensor

    @classmethod
    def of(cls, chains: Tensor) -> Summary:
        """Summarise chains ``(C, S, D)``, by ArviZ's Monte Carlo standard errors."""
        import arviz as az
        import numpy as np

        values = chains.detach().double().cpu()
        columns = [np.ascontiguousarray(column) for column in values.movedim(-1, 0).numpy()]

        def errors(method: str, prob: float | None = None) -> Tensor:
            options = {} if prob is None else {"prob": prob}
            with np.errstate(all="ignore"):  # of chains that stand still
                return torch.tensor([float(az.mcse(each, method=method, **options)) for each in columns])

        flat = values.flatten(0, 1)
        return cls(
            flat.mean(0),
            errors("mean").double(),
            flat.std(0),
            errors("sd").double(),
            torch.quantile(flat, torch.tensor(QUANTILES, dtype=flat.dtype), dim=0),
            torch.stack([errors("quantile", p) for p in QUANTILES]).double(),
        )


@dataclass(frozen=True)
class Differences:
    """How far the moments of a guide are off, in standard deviations of what they are held against.

    Args:
        mean: Differences of means, ``(D,)``.
        mean_error: Of ``mean``.
        log_sd: Logs of ratios of standard deviations, ``(D,)``.
        log_sd_error: Of ``log_sd``.
        quantiles: Differences of quantiles, ``(3, D)``.
        quantile_errors: Of ``quantiles``.
    """

    mean: Tensor
    mean_error: Tensor
    log_sd: Tensor
    log_sd_error: Tensor
    quantiles: Tensor
    quantile_errors: Tensor

    @classmethod
    def between(cls, guide: Summary, reference: Summary) -> Differences:
        """Hold a guide's moments against those of other draws."""
        sd = reference.sd
        return cls(
            (guide.mean - reference.mean) / sd,
            torch.hypot(guide.mean_error, reference.mean_error) / sd,
            (guide.sd / sd).log(),
            torch.hypot(guide.sd_error / guide.sd, reference.sd_error / sd),
            (guide.quantiles - reference.quantiles) / sd,
            torch.hypot(guide.quantile_errors, reference.quantile_errors) / sd,
        )

    def findings(
        self, against: str, advice: Mapping[str, str], label: Callable[[int], str], *, most: bool
    ) -> list[Finding]:
        r"""Judge them.

        The errors that n exact draws would leave, in standard deviations: :math:`1 / \sqrt n` of a mean,
        :math:`1 / \sqrt{2 n}` of a log standard deviation, and :math:`\sqrt{p (1 - p) / n} / \phi(\Phi^{-1}(p))` of a
        quantile, the last two those of normal draws.

        Args:
            against: What they are held against.
            advice: What to try, for ``"mean"``, ``"sd"`` and ``"quantiles"``.
            label: From a coordinate to its name.
            most: Whether only most of them together can fail.
        """
        dim = len(self.mean)
        yardsticks = torch.tensor([quantile_yardstick(p) for p in QUANTILES], dtype=torch.float64)[:, None]
        # Each quantile in units of its own yardstick; the finding is in those of the median.
        scale = yardsticks[1] / yardsticks
        return [
            finding(
                f"means {against}",
                self.mean.abs(),
                self.mean_error,
                _threshold(1.0),
                advice["mean"],
                label=label,
                most=most,
            ),
            finding(
                f"log sds {against}",
                self.log_sd.abs(),
                self.log_sd_error,
                _threshold(math.sqrt(0.5)),
                advice["sd"],
                label=label,
                most=most,
            ),
            finding(
                f"quantiles {against}",
                (scale * self.quantiles).abs(),
                scale * self.quantile_errors,
                _threshold(float(yardsticks[1])),
                advice["quantiles"],
                label=lambda i: f"{QUANTILES[i // dim]:.0%} of {label(i % dim)}",
                most=most,
            ),
        ]


def corrected(draws: Tensor, weights: Tensor) -> Differences:
    r"""Hold a guide's draws against themselves, weighted.

    Each difference, of means for one, :math:`\sum_s (1 / S - w_s) x_s`, is a sum over draws, to first order (the delta
    method), and the squares of its terms add to its variance. The chance that both sides share cancels: a guide whose
    weights are all equal has no difference and no error.

    Args:
        draws: Shape ``(S, D)``.
        weights: Smoothed importance weights that sum to 1, ``(S, D)`` or ``(S, 1)``.
    """
    num = len(draws)
    plain_mean, plain_variance = draws.mean(0), draws.var(0, correction=0)
    mean = (weights * draws).sum(0)
    variance = (weights * (draws - mean).square()).sum(0)
    plain_sd, sd = plain_variance.sqrt(), variance.sqrt()
    # What each draw adds to the log sds.
    plain_spread = ((draws - plain_mean).square() / plain_variance - 1) / (2 * num)
    spread = weights * ((draws - mean).square() / variance - 1) / 2

    def error(terms: Tensor, ratio: Tensor) -> Tensor:
        """Of a ratio to ``sd`` whose numerator has these terms."""
        return (terms / sd - ratio * spread).square().sum(0).sqrt()

    mean_difference = (plain_mean - mean) / sd
    ordered, order = draws.sort(0)
    cumulative = weights.expand_as(draws).gather(0, order).cumsum(0)
    quantiles, errors = [], []
    for p in QUANTILES:
        plain = ordered[max(0, math.ceil(p * num) - 1)]
        exact = ordered.gather(0, (cumulative < p).sum(0).clamp(max=num - 1)[None])[0]
        difference = (plain - exact) / sd
        terms = plain_sd * (p - (draws <= plain).to(draws)) / num - sd * weights * (p - (draws <= exact).to(draws))
        quantiles.append(difference)
        errors.append(error(terms / _density(p), difference))
    return Differences(
        mean_difference,
        error((draws - plain_mean) / num - weights * (draws - mean), mean_difference),
        (plain_sd / sd).log(),
        (plain_spread - spread).square().sum(0).sqrt(),
        torch.stack(quantiles),
        torch.stack(errors),
    )


def quantile_yardstick(p: float) -> float:
    """The error of a normal law's quantile, in standard deviations, times the root of the number of draws."""
    return math.sqrt(p * (1 - p)) / _density(p)


def _density(p: float) -> float:
    """The standard normal density at its own quantile."""
    from scipy.stats import norm

    return float(norm.pdf(norm.ppf(p)))


def _threshold(error: float) -> Threshold:
    return Threshold(error / math.sqrt(MANY_DRAWS), error / math.sqrt(FEW_DRAWS), _SOURCE)
