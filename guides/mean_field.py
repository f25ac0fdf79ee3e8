"""MeanFieldGuide: independent normals over the unconstrained latents."""

from __future__ import annotations

from collections.abc import Collection

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guides.base import Guide
from guides.errors import OptionError, positive
from guides.latent_space import LatentSpace, Model
from guides.target import Proposal, Target, log_standard_normal

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
        hide: Names of latents that other guides of a :class:`~guides.GuideList` draw.
        expose: Names of the only latents that this guide draws.
        init_scale: Initial :math:`\sigma` of a guide without encoder; 0.1 by default, and 1 where the posterior was
            whitened on setup. The initial :math:`\mu` is zero.

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

    def __init__(
        self,
        model: Model,
        *,
        encoder: nn.Module | None = None,
        hide: Collection[str] | None = None,
        expose: Collection[str] | None = None,
        init_scale: float | None = None,
    ) -> None:
        super().__init__(model, encoder=encoder, hide=hide, expose=expose)
        if init_scale is not None and encoder is not None:
            raise OptionError("init_scale and encoder must not be given together: the encoder sets the scales.")
        self.init_scale = (
            None if init_scale is None else positive("init_scale", init_scale, instead="Write init_scale=0.1.")
        )

    def build(self, space: LatentSpace) -> None:
        if self.encoder is None:
            like = {"dtype": space.dtype, "device": space.device}
            self.loc = nn.Parameter(torch.zeros(space.dim, **like))
            scale = torch.full((space.dim,), self.init_scale or self.whitening.unit, **like)
            self.log_scale = nn.Parameter(scale.log())

    def context_dim(self, space: LatentSpace) -> int:
        return 2 * space.dim

    @property
    def noise_dim(self) -> int:
        return self.space.dim

    def _read(self, target: Target) -> tuple[Tensor, Tensor]:
        if target.context is None:
            return self.loc, self.log_scale
        loc, log_scale = target.context[:, : 2 * self.space.dim].chunk(2, dim=-1)
        return loc, log_scale

    def factors(self, target: Target) -> dist.Normal:
        loc, log_scale = self._read(target)
        shape = target.batch_shape + loc.shape[-1:]
        return dist.Normal(loc.expand(shape), log_scale.exp().expand(shape))

    def propose(self, target: Target, noise: Tensor) -> Proposal:
        loc, log_scale = self._read(target)
        return Proposal(loc + log_scale.exp() * noise, log_standard_normal(noise) - log_scale.sum(-1))
