"""IWAE: the importance-weighted bound."""

from __future__ import annotations

from ppl_models.objectives.kl_weights import KLWeights
from ppl_models.objectives.vr_iwae import ImportanceWeighted

__all__ = ["IWAE"]


class IWAE(ImportanceWeighted):
    r"""Take the log of the average weight, per datum: the importance-weighted bound.

    .. math::
        \mathrm{IWAE}_K = \sum_i E \log \frac1K \sum_{k=1}^{K} w_{ik} \le \sum_i \log p(x_i)

    The average is taken for each independent datum before anything is summed or scaled by N / B, so that the bound
    stays below the evidence for minibatches too.

    Args:
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
        >>> IWAE(num_particles=16)
        IWAE(num_particles=16)

    References:
        Yuri Burda, Roger Grosse, Ruslan Salakhutdinov, Importance Weighted Autoencoders, 2016,
        https://arxiv.org/abs/1509.00519, eq. 8.
        George Tucker, Dieterich Lawson, Shixiang Gu, Chris J. Maddison, Doubly Reparameterized Gradient Estimators for
        Monte Carlo Objectives, 2019, https://arxiv.org/abs/1810.04152, eq. 8.
        Andriy Mnih, Danilo J. Rezende, Variational Inference for Monte Carlo Objectives, 2016,
        https://arxiv.org/abs/1602.06725, eq. 10 (baselines of sites that cannot be reparametrised).
    """

    alpha = 0.0

    def __init__(
        self,
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
