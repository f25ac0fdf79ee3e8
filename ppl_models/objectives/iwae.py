"""IWAE: the importance-weighted bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from guides.errors import ModelError
from ppl_models.objectives.base import Objective
from ppl_models.objectives.log_weights import LogWeights

__all__ = ["IWAE"]


class IWAE(Objective):
    r"""Take the log of the average weight, per datum: the importance-weighted bound.

    .. math::
        \mathrm{IWAE}_K = \sum_i E \log \frac1K \sum_{k=1}^{K} w_{ik} \le \sum_i \log p(x_i)

    The average is taken for each independent datum before anything is summed or scaled by N / B, so that the bound
    stays below the evidence for minibatches too.

    Args:
        num_particles: K.
        vectorize_particles: See :class:`~ppl_models.objectives.Objective`.
        max_plate_nesting: See :class:`~ppl_models.objectives.Objective`.

    Raises:
        ModelError: When evaluated with K > 1 on a minibatch that shares its latents: the exponential of a scaled log
            likelihood is biased upwards, and the result would not be a bound.

    Example:
        >>> IWAE(num_particles=16)
        IWAE(num_particles=16)

    References:
        Yuri Burda, Roger Grosse, Ruslan Salakhutdinov, Importance Weighted Autoencoders, 2016,
        https://arxiv.org/abs/1509.00519, eq. 8.
    """

    def __init__(
        self, *, num_particles: int = 16, vectorize_particles: bool = True, max_plate_nesting: int | None = None
    ) -> None:
        super().__init__(
            num_particles=num_particles, vectorize_particles=vectorize_particles, max_plate_nesting=max_plate_nesting
        )

    def log_weights(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> LogWeights:
        weights = super().log_weights(model, guide, *args, **kwargs)
        if weights.subsampled and self.num_particles > 1:
            raise ModelError(
                "IWAE needs all data where latents are shared; got a minibatch of the plate "
                f"{weights.subsampled[0]!r}, for which it is no bound. Give all data, or use ELBO."
            )
        return weights

    def bound(self, values: Tensor) -> Tensor:
        return values.logsumexp(0) - math.log(len(values))
