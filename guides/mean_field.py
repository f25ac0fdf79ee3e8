"""MeanFieldGuide: independent normals over the unconstrained latents."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guides.base import Guide, Proposal, Target
from guides.errors import DataError, OptionError
from guides.latent_space import LatentSpace, Model

__all__ = ["MeanFieldGuide"]


class MeanFieldGuide(Guide):
    r"""Approximate the posterior by independent normals over the unconstrained latents.

    .. math::
        \log q(u) = \sum_{j=1}^{D} \log N(u_j; \mu_j, \sigma_j^2)

    Without an encoder, :math:`\mu` (``loc``) and :math:`\log \sigma` (``log_scale``), each ``(D,)``, are parameters.
    With one, they are the two halves of its output, ``(B, 2 D)``, so that every datum has its own normal.

    Args:
        model: Any Pyro model.
        encoder: Module from the model's arguments to ``(B, 2 D)``: D locations, then D log-scales.
        init_scale: Initial :math:`\sigma` of a guide without encoder, in unconstrained units; 0.1 by default. The
            initial :math:`\mu` is zero.

    Raises:
        OptionError: If ``init_scale`` is not positive, or given together with an encoder.
        DataError: On setup, if the encoder's output is not ``(B, 2 D)``.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("rate", dist.Gamma(2.0, 1.0))
        >>> guide = MeanFieldGuide(model)
        >>> guide()["rate"] > 0
        tensor(True)
        >>> guide
        MeanFieldGuide(LatentSpace(dim=1, sites=[rate: () greaterthaneq(lower_bound=0.0)]))

    References:
        Diederik P. Kingma, Max Welling, Auto-Encoding Variational Bayes, 2014, https://arxiv.org/abs/1312.6114, eq. 10.
        Alp Kucukelbir et al., Automatic Differentiation Variational Inference, 2017, https://arxiv.org/abs/1603.00788,
        section 2.4.
    """

    loc: Tensor
    log_scale: Tensor

    def __init__(self, model: Model, *, encoder: nn.Module | None = None, init_scale: float | None = None) -> None:
        super().__init__(model, encoder=encoder)
        if init_scale is not None and encoder is not None:
            raise OptionError("init_scale and encoder must not be given together: the encoder sets the scales.")
        self._init_scale = 0.1 if init_scale is None else float(init_scale)
        if not 0 < self._init_scale < math.inf:
            raise OptionError(f"init_scale must be positive and finite; got {init_scale}. Write init_scale=0.1.")

    def build(self, space: LatentSpace) -> None:
        if self.encoder is None:
            like = {"dtype": space.dtype, "device": space.device}
            self.loc = nn.Parameter(torch.zeros(space.dim, **like))
            self.log_scale = nn.Parameter(torch.full((space.dim,), math.log(self._init_scale), **like))

    def check_context(self, context: Tensor | None, space: LatentSpace) -> None:
        if context is not None and context.shape[-1] != 2 * space.dim:
            sites = ", ".join(site.name for site in space.sites)
            raise DataError(
                f"encoder must return {2 * space.dim} numbers per datum, a location and a log-scale for each of the "
                f"{space.dim} latent dimensions ({sites}); got {context.shape[-1]}."
            )

    def factors(self, target: Target) -> dist.Normal:
        loc, log_scale = (self.loc, self.log_scale) if target.context is None else target.context.chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).expand(target.batch_shape + loc.shape[-1:])

    def propose(self, target: Target) -> Proposal:
        normal = self.factors(target)
        latent = normal.rsample()
        return Proposal(latent, normal.log_prob(latent).sum(-1))
