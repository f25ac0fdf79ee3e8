"""PlanarGuide: draws of a base bent along one direction at a time."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guides.base import Guide
from guides.chained import ChainedGuide
from guides.errors import whole_number
from guides.latent_space import LatentSpace, Model
from guides.target import Proposal, Target

__all__ = ["PlanarGuide"]


class PlanarGuide(ChainedGuide):
    r"""Transform the draws of a base guide by K planar layers, each with parameters of its own.

    .. math::
        z_k = z_{k-1} + \hat u_k \tanh(w_k^\top z_{k-1} + b_k), \qquad
        \log q = \log q_0 - \sum_{k=1}^{K} \log \big| 1 + \hat u_k^\top w_k \, \tanh'(w_k^\top z_{k-1} + b_k) \big|

    where :math:`\hat u = u + (\mathrm{softplus}(w^\top u) - 1 - w^\top u)\, w / |w|^2`, so that
    :math:`w^\top \hat u > -1` and every layer is a bijection. With an encoder, u, w and b are affine functions of its
    output, so that every datum has its own layers.

    Args:
        model: Any Pyro model.
        encoder: Encoder of an amortised mean-field base; see :class:`~guides.MeanFieldGuide`. It may return more
            numbers than the base reads: the layers read all.
        base: Any guide of the same model; a mean-field guide by default.
        hide: Names of latents that other guides of a :class:`~guides.GuideList` draw.
        expose: Names of the only latents that this guide draws.
        num_layers: K, at least 1.

    Raises:
        OptionError: If ``num_layers`` is less than 1.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> guide = PlanarGuide(model, num_layers=8).setup()
        >>> guide.layers.shape  # u, w and b of each
        torch.Size([8, 5])

    References:
        Danilo J. Rezende, Shakir Mohamed, Variational Inference with Normalizing Flows, 2015,
        https://arxiv.org/abs/1505.05770, eqs. 10-13 and appendix A.1. The appendix writes m(x) = -1 + log(1 + e^x) for
        the new value of :math:`w^\top u`; the correction along w therefore has a plus sign.
    """

    uses_context = True
    layers: Tensor

    def __init__(
        self,
        model: Model,
        *,
        encoder: nn.Module | None = None,
        base: Guide | None = None,
        hide: Collection[str] | None = None,
        expose: Collection[str] | None = None,
        num_layers: int = 8,
    ) -> None:
        super().__init__(model, base=base, encoder=encoder, hide=hide, expose=expose)
        self.num_layers = whole_number(
            "num_layers", num_layers, least=1, instead="Without layers the guide equals its base: use the base guide."
        )

    def build(self, space: LatentSpace) -> None:
        like = {"dtype": space.dtype, "device": space.device}
        u, w, b = (torch.randn(self.num_layers, size, **like) for size in (space.dim, space.dim, 1))
        w = w / space.dim**0.5
        # Where softplus(w . u) = 1 a layer is the identity: each starts a little beside it.
        u = 0.01 * u + math.log(math.e - 1) * w / w.square().sum(-1, keepdim=True)
        layers = torch.cat([u, w, 0.1 * b], -1)
        if self.context_width is None:
            self.layers = nn.Parameter(layers)
        else:
            self.to_layers = nn.Linear(self.context_width, layers.numel(), **like)
            self.to_layers.weight.data *= 0.01
            self.to_layers.bias.data = layers.flatten()

    @property
    def noise_dim(self) -> int:
        return self.base.noise_dim

    def propose(self, target: Target, noise: Tensor) -> Proposal:
        start = self.base.propose(target, noise)
        dim = start.latent.shape[-1]
        layers = self.layers.flatten() if target.context is None else self.to_layers(target.context)
        u, w, b = layers.unflatten(-1, (self.num_layers, -1)).split((dim, dim, 1), -1)
        latent, log_q = start.latent, start.log_q
        for k in range(self.num_layers):
            latent, log_det = planar(latent, u[..., k, :], w[..., k, :], b[..., k, 0])
            log_q = log_q - log_det
        return Proposal(latent, log_q)

    def describe(self) -> str:
        return f"num_layers={self.num_layers}, {super().describe()}"


def planar(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""Bend vectors along one direction.

    Args:
        z: Vectors, ``(*, D)``.
        u: Free direction of the bend, broadcastable to ``z``; :math:`\hat u` is made from it.
        w: Direction along which it varies, not zero, broadcastable to ``z``.
        b: Its offset, broadcastable to ``(*)``.

    Returns:
        :math:`z + \hat u \tanh(w^\top z + b)`, ``(*, D)``, and the log-determinant of the map, ``(*)``.

    Example:
        >>> import torch
        >>> z, log_det = planar(torch.zeros(2), torch.zeros(2), torch.ones(2), torch.tensor(0.0))
        >>> z, round(log_det.exp().item(), 4)  # w . u_hat = softplus(0) - 1
        (tensor([0., 0.]), 0.6931)
    """
    free = (w * u).sum(-1, keepdim=True)
    stretch = F.softplus(free)  # 1 + w . u_hat
    bend = u + (stretch - 1 - free) * w / w.square().sum(-1, keepdim=True)
    h = torch.tanh((w * z).sum(-1, keepdim=True) + b[..., None])
    # 1 + w . u_hat (1 - h^2), without the difference of almost equal numbers when the stretch is small.
    return z + bend * h, torch.log(h.square() + stretch * (1 - h.square()))[..., 0]
