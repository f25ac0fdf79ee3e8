"""correct: a guide's answers put right by importance weights, where these can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from guides.errors import DataError, ModelError, positive, whole_number
from ppl_models.diagnostics.draws import Drawing, SiteShape
from ppl_models.diagnostics.judging import judging, seeded
from ppl_models.diagnostics.psis import MIN_DRAWS, smooth
from ppl_models.training.batches import check_finite

__all__ = ["CorrectedPosterior", "Expectation", "Resampled", "correct"]

#: From draws by site, ``(S, *batch, *event)`` each, to ``(S, *independent plates, *anything)``.
Function = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Expectation:
    """An expectation and its Monte Carlo standard error, of one shape.

    Args:
        mean: What was estimated.
        standard_error: How far off it may be, by the draws' chance alone.
    """

    mean: Tensor
    standard_error: Tensor


@dataclass(frozen=True)
class CorrectedPosterior:
    r"""Draws of a guide with the Pareto-smoothed weights :math:`w_s \propto p(x, z_s) / q(z_s)` that correct them.

    Its answers are refused where :math:`\hat k` is above :attr:`threshold`; what is known of the weights can always be
    looked at.

    Args:
        latents: The guide's draws by site, ``(S, *batch, *event)``.
        log_weights: Before smoothing, ``(S, *independent plates)``: data that are independent have their own.
        threshold: The largest :math:`\hat k` that is trusted.
    """

    latents: dict[str, Tensor] = field(repr=False)
    log_weights: Tensor = field(repr=False)
    threshold: float
    _shapes: Mapping[str, SiteShape] = field(repr=False)
    _independent: tuple[str, ...] = field(repr=False)

    @cached_property
    def _smoothed(self) -> tuple[Tensor, Tensor]:
        return smooth(self.log_weights)

    @property
    def weights(self) -> Tensor:
        """The smoothed weights, ``(S, *plates)``; they sum to 1 over the draws."""
        return self._smoothed[0].exp()

    @property
    def k_hat(self) -> Tensor:
        """The shape of the weights' tail, ``(*plates,)``; see :func:`ppl_models.diagnostics.k_hat`."""
        return self._smoothed[1]

    @property
    def effective_sample_size(self) -> Tensor:
        r""":math:`1 / \sum_s w_s^2`, ``(*plates,)``."""
        return 1 / self.weights.square().sum(0)

    def expectation(self, function: Function) -> Expectation:
        r"""Estimate the posterior expectation of a function of the latents.

        .. math::
            \hat\mu = \sum_s w_s f(z_s), \qquad \mathrm{se}^2 = \sum_s w_s^2 (f(z_s) - \hat\mu)^2

        Args:
            function: From the draws by site, ``(S, *batch, *event)`` each, to ``(S, *plates, *anything)``: the plates
                of independent data first, if there are any.

        Raises:
            ModelError: If :math:`\hat k` is above the threshold.
            DataError: If the function returns another shape.
        """
        self._check()
        values = function(dict(self.latents))
        shape = self.log_weights.shape
        if not isinstance(values, Tensor) or values.shape[: len(shape)] != shape:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise DataError(f"function must return a tensor of shape ({', '.join(map(str, shape))}, ...); got {got}.")
        return _weighted(values.to(self.weights), self.weights.reshape(shape + (1,) * (values.dim() - len(shape))))

    def posterior_mean(self) -> dict[str, Expectation]:
        r"""Estimate the mean of every site, ``(*batch, *event)``.

        Raises:
            ModelError: If :math:`\hat k` is above the threshold.
        """
        self._check()
        return {name: _weighted(values, self._aligned(self.weights, name)) for name, values in self.latents.items()}

    def resample(self, num_samples: int, *, seed: int | None = None) -> Resampled:
        r"""Draw anew from the draws, with replacement, with the weights as probabilities.

        Args:
            num_samples: How many.
            seed: Fixes the choice; the global generator is left as it was.

        Raises:
            OptionError: If ``num_samples`` is less than 1.
            ModelError: If :math:`\hat k` is above the threshold.
        """
        num_samples = whole_number("num_samples", num_samples, least=1)
        self._check()
        with seeded(seed):
            weights = self.weights.flatten(1).T if self.weights.dim() > 1 else self.weights[None]
            chosen = torch.multinomial(weights, num_samples, replacement=True).T
        chosen = chosen.reshape(num_samples, *self.log_weights.shape[1:])
        latents = {}
        for name, values in self.latents.items():
            index = self._aligned(chosen, name).expand(num_samples, *values.shape[1:])
            latents[name] = values.gather(0, index)
        return Resampled(latents, self)

    def _check(self) -> None:
        bad = (self.k_hat > self.threshold) | (self.k_hat == math.inf)
        if not bad.any():
            return
        worst, where = self.k_hat.max(), ""
        if bad.dim():
            at = [int(i) for i in torch.unravel_index(self.k_hat.argmax(), self.k_hat.shape)]
            where = f" at datum {', '.join(map(str, at))}, the worst of {int(bad.sum())} among {bad.numel()}"
        raise ModelError(
            f"k-hat must be at most {self.threshold:.2f} for the guide's answers to be corrected; got "
            f"{worst.item():.2f}{where}. Below 0.7 more draws help (num_samples=); above it, train longer, take a "
            "richer guide, or write threshold=math.inf to see what comes out."
        )

    def _aligned(self, values: Tensor, name: str) -> Tensor:
        """Bring ``(S, *independent plates)`` to the dimensions of a site's draws."""
        shape, size = self._shapes[name], [len(values)] + [1] * (self.latents[name].dim() - 1)
        positions = {plate: self.latents[name].dim() - shape.event_dim + dim for dim, plate in shape.plates.items()}
        for plate, length in zip(self._independent, values.shape[1:], strict=True):
            size[positions[plate]] = length
        return values.reshape(size)

    def __repr__(self) -> str:
        return (
            f"CorrectedPosterior(sites={list(self.latents)}, num_samples={len(self.log_weights)}, "
            f"k_hat={self.k_hat.max().item():.2f}, threshold={self.threshold:.2f})"
        )


@dataclass(frozen=True)
class Resampled:
    """Draws that weigh the same, chosen among the weighted ones.

    Args:
        latents: By site, ``(R, *batch, *event)``; some draws stand in it several times.
        source: What they were chosen from.
    """

    latents: dict[str, Tensor] = field(repr=False)
    source: CorrectedPosterior

    def expectation(self, function: Function) -> Expectation:
        r"""Average a function over the draws.

        Its standard error is that of :meth:`CorrectedPosterior.expectation`, and the chance of the choice beside it:
        :math:`\mathrm{se}^2 + \mathrm{Var}(f) / R`.

        Args:
            function: As there.

        Raises:
            DataError: If the function returns another shape.
        """
        weighted = self.source.expectation(function)
        values = function(dict(self.latents)).to(weighted.mean)
        choice = values.var(0, correction=0) / len(values)
        return Expectation(values.mean(0), (weighted.standard_error.square() + choice).sqrt())


@torch.no_grad()
def correct(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 4000,
    threshold: float | None = None,
    max_batch: int = 50_000,
    vectorize_particles: bool = True,
    seed: int | None = None,
) -> CorrectedPosterior:
    r"""Draw from a guide and weigh the draws, so that its answers become those of the model.

    The weights are Pareto-smoothed; where their tail is too heavy (:math:`\hat k` above the threshold) answers are
    refused, for no number of draws would make them good. The model and guide are evaluated in evaluation mode.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide of it.
        *args: Arguments of both.
        num_samples: S, at least 25.
        threshold: The largest :math:`\hat k` that is trusted; :math:`\min(1 - 1 / \log_{10} S, 0.7)` by default.
        max_batch: Upper limit of draws times data in one batched run; it bounds the memory.
        vectorize_particles: Whether to draw in batched runs. Models that cannot be batched need ``False``.
        seed: Fixes the draws; the global generator is left as it was.

    Raises:
        OptionError: If a number breaks its rule.
        DataError: If data are not finite or subsampled, draws too few, or weights NaN or plus infinite.

    Example:
        >>> import torch
        >>> from guides import MeanFieldGuide
        >>> from ppl_models import OffsetGaussian
        >>> gaussian = OffsetGaussian(1)
        >>> x = torch.tensor([[0.3], [0.5], [1.2]])
        >>> answers = correct(gaussian, MeanFieldGuide(gaussian, init_scale=1.0), x, seed=0)
        >>> mean = answers.expectation(lambda draws: draws["z"])
        >>> bool((mean.mean - gaussian.exact_posterior(x).mean).abs() < 4 * mean.standard_error)
        True

    References:
        Aki Vehtari et al., Pareto Smoothed Importance Sampling, 2024, https://arxiv.org/abs/1507.02646: algorithm 1,
        sections 3.2.3-3.2.4 for the thresholds. The standard error is the usual one of self-normalised importance
        sampling; Art B. Owen, Monte Carlo theory, methods and examples, 2013, https://artowen.su.domains/mc/, eq. 9.8.
    """
    num_samples = whole_number("num_samples", num_samples, least=MIN_DRAWS)
    if threshold is None:
        threshold = min(1 - 1 / math.log10(num_samples), 0.7)
    elif threshold != math.inf:
        threshold = positive("threshold", threshold, instead="Write threshold=0.7, or math.inf to refuse nothing.")
    max_batch = whole_number("max_batch", max_batch, least=1)
    check_finite(args)
    with judging(model, guide, seed):
        drawing = Drawing(
            model, guide, args, max_batch=max_batch, vectorize_particles=vectorize_particles, caller="correct"
        )
        drawn = drawing.posterior(num_samples)
    found = CorrectedPosterior(drawn.latents, drawn.log_weights, threshold, drawing.shapes, drawn.independent)
    _ = found.k_hat  # weights that say nothing are refused now
    return found


def _weighted(values: Tensor, weights: Tensor) -> Expectation:
    mean = (weights * values).sum(0)
    return Expectation(mean, (weights * (values - mean)).square().sum(0).sqrt())
