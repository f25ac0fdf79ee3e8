"""ELBO: the mean log-weight."""

from __future__ import annotations

from torch import Tensor

from ppl_models.objectives.base import Objective

__all__ = ["ELBO"]


class ELBO(Objective):
    r"""Average the log-weights: the evidence lower bound.

    .. math::
        \mathrm{ELBO} = E_q[\log p(x, z) - \log q] \le \log p(x)

    Args:
        num_particles: Number of draws that estimate the expectation.
        vectorize_particles: See :class:`~ppl_models.objectives.Objective`.
        max_plate_nesting: See :class:`~ppl_models.objectives.Objective`.

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
    """

    def bound(self, values: Tensor) -> Tensor:
        return values.mean(0)
