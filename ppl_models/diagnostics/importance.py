"""importance_nll: the negative log-likelihood by importance sampling from the guide, with its errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyro
import torch
from torch import Tensor

from guides.errors import DataError, OptionError
from ppl_models.diagnostics.psis import k_hat
from ppl_models.objectives import log_weights
from ppl_models.training.batches import num_rows, take_rows
from ppl_models.training.fit import check_finite, evaluating

__all__ = ["ImportanceNLL", "importance_nll"]


@dataclass(frozen=True)
class ImportanceNLL:
    r"""An importance-sampling estimate of the negative log-likelihood.

    Args:
        log_weights: Shape ``(S, *plates)``: S samples, and the independent data if there are any.
    """

    log_weights: Tensor = field(repr=False)

    @property
    def num_samples(self) -> int:
        """S."""
        return len(self.log_weights)

    @cached_property
    def log_evidence(self) -> Tensor:
        """Per datum, the log of the average weight ``(*plates,)``: in expectation a lower bound on log p(x)."""
        return self.log_weights.logsumexp(0) - math.log(self.num_samples)

    @cached_property
    def monte_carlo_error(self) -> Tensor:
        r"""Per datum, the standard error of :attr:`log_evidence` over the draws, by the delta method.

        :math:`\mathrm{sd}(w) / (\sqrt S \, \bar w)`. Not to be trusted where :attr:`k_hat` is above 0.7.
        """
        relative = (self.log_weights - self.log_evidence).exp()
        return relative.std(0) / math.sqrt(self.num_samples)

    @cached_property
    def k_hat(self) -> Tensor:
        """Per datum, the shape of the weights' tail; see :func:`ppl_models.diagnostics.k_hat`."""
        return k_hat(self.log_weights)

    @property
    def nll(self) -> float:
        """The mean over data of minus :attr:`log_evidence`, in nats: in expectation an upper bound."""
        return -self.log_evidence.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of :attr:`nll`: over the data (the draws' noise included), or of one datum over the draws."""
        if self.log_evidence.numel() == 1:
            return self.monte_carlo_error.item()
        return self.log_evidence.std().item() / math.sqrt(self.log_evidence.numel())

    @property
    def draw_error(self) -> float:
        """The part of :attr:`standard_error` that more draws would remove."""
        return self.monte_carlo_error.square().sum().sqrt().item() / self.log_evidence.numel()

    def __repr__(self) -> str:
        return (
            f"ImportanceNLL({self.nll:.2f} +- {self.standard_error:.2f} nats, data={self.log_evidence.numel()}, "
            f"num_samples={self.num_samples})"
        )


@torch.no_grad()
def importance_nll(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    max_batch: int = 50_000,
    seed: int | None = None,
) -> ImportanceNLL:
    r"""Estimate :math:`-\log p(x)` per datum by importance sampling from the guide.

    .. math::
        -\log \frac1S \sum_{s=1}^{S} \frac{p(x, z_s)}{q(z_s)}

    The same estimator for every guide: bounds with different numbers of samples are not comparable. The model and
    guide are evaluated in evaluation mode.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide of it.
        *args: Arguments of both, tensors of N rows for models with independent data.
        num_samples: S.
        max_batch: Upper limit of samples times data in one batched run; it bounds the memory.
        seed: Fixes the draws; the global generator is left as it was.

    Raises:
        OptionError: If a number is less than 1.
        DataError: If data are not finite.

    Example:
        >>> import torch
        >>> from ppl_models import OffsetGaussian
        >>> from guides import MeanFieldGuide
        >>> gaussian = OffsetGaussian(1)
        >>> x = torch.tensor([[0.3], [0.5]])
        >>> estimate = importance_nll(gaussian, MeanFieldGuide(gaussian, init_scale=1.0), x, seed=0)
        >>> abs(estimate.nll + gaussian.log_evidence(x).item()) < 4 * estimate.standard_error
        True

    References:
        Yuri Burda, Roger Grosse, Ruslan Salakhutdinov, Importance Weighted Autoencoders, 2016,
        https://arxiv.org/abs/1509.00519, section 5.
    """
    for name, value in (("num_samples", num_samples), ("max_batch", max_batch)):
        if value < 1:
            raise OptionError(f"{name} must be at least 1; got {value}.")
    check_finite(args)
    with torch.random.fork_rng(enabled=seed is not None), evaluating(model, guide), pyro.validation_enabled(False):
        if seed is not None:
            torch.manual_seed(seed)
        first = log_weights(model, guide, *args)
        if first.subsampled or first.scale != 1:
            raise DataError("importance_nll needs all data; got a model that subsamples them. Give it all, in parts.")
        independent = first.values.dim() == 2 and first.values.shape[1] == _rows_or_zero(args)
        if not independent:
            chunks = _split(num_samples, max_batch)
            return ImportanceNLL(torch.cat([_draw(model, guide, args, size) for size in chunks]))
        columns = []
        for rows in torch.arange(first.values.shape[1]).split(max_batch):
            part = take_rows(args, slice(int(rows[0]), int(rows[-1]) + 1))
            chunks = _split(num_samples, max(1, max_batch // len(rows)))
            columns.append(torch.cat([_draw(model, guide, part, size) for size in chunks]))
        return ImportanceNLL(torch.cat(columns, 1))


def _draw(model: Callable[..., Any], guide: Callable[..., Any], args: Any, num_samples: int) -> Tensor:
    return log_weights(model, guide, *args, num_particles=num_samples).values


def _split(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]


def _rows_or_zero(args: tuple[Any, ...]) -> int:
    try:
        return num_rows(args)
    except DataError:
        return 0
