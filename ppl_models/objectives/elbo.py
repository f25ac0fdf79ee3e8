"""ELBO: the mean log-weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppl_models.objectives.base import Objective, weighted
from ppl_models.objectives.log_weights import Score

__all__ = ["ELBO"]


class ELBO(Objective):
    r"""Average the log-weights: the evidence lower bound.

    .. math::
        \mathrm{ELBO} = E_q[\log p(x, z) - \log q] \le \log p(x)

    Args:
        num_particles: Number of draws that estimate the expectation.
        vectorize_particles: See :class:`~ppl_models.objectives.Objective`.
        max_plate_nesting: See :class:`~ppl_models.objectives.Objective`.
        gradient: ``"reparam"``, or ``"stl"`` (sticking the landing), which leaves out the score term, whose mean is
            zero: the gradient then has no variance at the exact posterior.
        chunk_size: See :class:`~ppl_models.objectives.Objective`.
        kl: See :class:`~ppl_models.objectives.Objective`.

    Raises:
        OptionError: If a number is out of range or an option unknown.
        ModelError: When evaluated with ``"stl"`` and a guide that cannot score its draws again.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from guides import MeanFieldGuide
        >>> def model(x):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> loss = ELBO(num_particles=10)(model, MeanFieldGuide(model))
        >>> loss(torch.tensor(1.0)).shape
        torch.Size([])

    References:
        Diederik P. Kingma, Max Welling, Auto-Encoding Variational Bayes, 2014, https://arxiv.org/abs/1312.6114, eq. 2.
        Geoffrey Roeder, Yuhuai Wu, David Duvenaud, Sticking the Landing, 2017, https://arxiv.org/abs/1703.09194, eq. 8.
        Andriy Mnih, Danilo J. Rezende, Variational Inference for Monte Carlo Objectives, 2016,
        https://arxiv.org/abs/1602.06725, section 2.4 (leave-one-out baselines).
    """

    gradients = ("reparam", "stl")

    def bound(self, values: Tensor) -> Tensor:
        return values.mean(0)

    def shares(self, values: Tensor) -> Tensor:
        return torch.full_like(values, 1 / len(values))

    def signal(
        self, score: Score, values: Tensor, depths: tuple[int, ...], chosen: Mapping[str, Tensor] | None
    ) -> Tensor:
        # The bound is linear: what a site has no influence on can be left out.
        size, reward = len(values), weighted(score.rewards, chosen)
        others = (reward.sum(0) - reward) / (size - 1) if size > 1 else 0.0
        return (reward - others) / size
