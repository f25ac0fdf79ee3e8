"""VRIWAE: the bounds between the ELBO and the importance-weighted one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from guides.errors import ModelError, OptionError
from ppl_models.objectives.base import Objective
from ppl_models.objectives.kl_weights import KLWeights
from ppl_models.objectives.log_weights import LogWeights

__all__ = ["VRIWAE", "ImportanceWeighted"]


class ImportanceWeighted(Objective):
    r"""Base of the bounds that are made of powers of the weights, :math:`w^{1 - \alpha}`, averaged per datum."""

    gradients = ("reparam", "dreg")
    alpha: float

    def check(self, weights: LogWeights) -> None:
        if weights.subsampled and self.num_particles > 1:
            raise ModelError(
                f"{type(self).__name__} needs all data where latents are shared or plates are loops; got a minibatch "
                f"of the plate {weights.subsampled[0]!r}, for which it is no bound. Give all data, or use ELBO."
            )

    def bound(self, values: Tensor) -> Tensor:
        if self.alpha == 1:
            return values.mean(0)
        power = 1 - self.alpha
        return ((power * values).logsumexp(0) - math.log(len(values))) / power

    def shares(self, values: Tensor) -> Tensor:
        return torch.softmax((1 - self.alpha) * values, 0)

    def path_weights(self, shares: Tensor) -> Tensor:
        return self.alpha + (1 - self.alpha) * shares


class VRIWAE(ImportanceWeighted):
    r"""Take the log of the average of powers of the weights, per datum: the VR-IWAE bound.

    .. math::
        \mathrm{VR\text{-}IWAE}_{K, \alpha} = \sum_i \frac{1}{1 - \alpha}
        E \log \frac1K \sum_{k=1}^{K} w_{ik}^{1 - \alpha} \le \sum_i \log p(x_i)

    It is the importance-weighted bound at :math:`\alpha = 0` and the ELBO at :math:`\alpha = 1`, and falls in between.

    Args:
        alpha: :math:`\alpha`, from 0 to 1.
        num_particles: K.
        vectorize_particles: See :class:`~ppl_models.objectives.Objective`.
        max_plate_nesting: See :class:`~ppl_models.objectives.Objective`.
        gradient: ``"reparam"``, or ``"dreg"`` (doubly reparametrised), which leaves out the score term of the guide's
            gradient without a bias; its signal does not drown as K grows.
        chunk_size: See :class:`~ppl_models.objectives.Objective`.
        kl: See :class:`~ppl_models.objectives.Objective`.

    Raises:
        OptionError: If a number is out of range or an option unknown.
        ModelError: When evaluated with K > 1 on a minibatch that shares its latents, or that a plate draws which is a
            loop: the exponential of a scaled log likelihood is biased upwards, and the result would not be a bound; or
            with ``"dreg"`` and a guide that
            cannot score its draws again.

    Example:
        >>> VRIWAE(0.5, num_particles=16)
        VRIWAE(num_particles=16, alpha=0.5)

    References:
        Kamélia Daudel, Joe Benton, Yuyang Shi, Arnaud Doucet, Alpha-divergence Variational Inference Meets Importance
        Weighted Auto-Encoders, 2023, https://arxiv.org/abs/2210.06226, eqs. 5 and 12.
    """

    def __init__(
        self,
        alpha: float,
        *,
        num_particles: int = 16,
        vectorize_particles: bool = True,
        max_plate_nesting: int | None = None,
        gradient: str = "reparam",
        chunk_size: int | None = None,
        kl: KLWeights | None = None,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
            gradient=gradient,
            chunk_size=chunk_size,
            kl=kl,
        )
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise OptionError(
                f"alpha must be between 0 and 1; got {alpha!r}. At 0 the bound is the importance-weighted one, at "
                "1 the ELBO; outside it is none."
            )
        self.alpha = float(alpha)

    def options(self) -> dict[str, Any]:
        return {"alpha": self.alpha}
