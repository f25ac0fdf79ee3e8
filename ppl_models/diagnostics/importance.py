"""importance_nll: the negative log-likelihood by importance sampling from the guide, with its errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from guides.errors import whole_number
from ppl_models.diagnostics.judging import judging
from ppl_models.diagnostics.parts import parts_of
from ppl_models.diagnostics.psis import k_hat
from ppl_models.objectives import log_weights
from ppl_models.objectives.traces import plate_nesting
from ppl_models.training.batches import check_finite

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
    vectorize_particles: bool = True,
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
        max_batch: Upper limit of samples times data in one batched run; it bounds the memory. (A single sample of a
            model whose data are not independent needs them all.)
        vectorize_particles: Whether to draw samples in batched runs. Models that cannot be batched need ``False``.
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
    num_samples = whole_number("num_samples", num_samples, least=1)
    max_batch = whole_number("max_batch", max_batch, least=1)
    check_finite(args)

    options: dict[str, Any] = {"vectorize_particles": vectorize_particles}

    def draw(part: tuple[Any, ...], data: int) -> Tensor:
        """All samples for some of the data, as many at once as ``max_batch`` allows."""
        most = max(1, max_batch // data)
        sizes = [min(most, num_samples - start) for start in range(0, num_samples, most)]
        return torch.cat([log_weights(model, guide, *part, num_particles=size, **options).values for size in sizes])

    with judging(model, guide, seed):
        parts = parts_of(model, guide, args, most=max_batch, caller="importance_nll", summarise=True)
        if vectorize_particles:  # found once: by a run of its own, which costs as much as one more draw in each batch
            options["max_plate_nesting"] = plate_nesting(model, guide, parts.args[0], {})
        drawn = [draw(part, size) for part, size in zip(parts.args, parts.sizes, strict=True)]
        return ImportanceNLL(torch.cat(drawn, 1) if parts.independent else drawn[0])
