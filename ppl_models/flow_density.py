"""FlowDensity: data as an invertible function of normal noise, with the density that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.nn import DenseNN, PyroModule
from torch import Tensor

from guides.errors import DataError, choose, whole_number
from ppl_models.networks.dense_block import DenseBlock
from ppl_models.networks.flow import Flow
from ppl_models.networks.flow_layers import ActNorm, AffineCoupling, ChannelMix, FlowLayer, Reverse, SplineCoupling
from ppl_models.rows import num_rows

__all__ = ["FlowDensity"]


class FlowDensity(PyroModule):
    r"""Give each datum the density that an invertible network makes of a normal law.

    .. math::
        \log p(x) = \log N\big(f(x); 0, I\big) + \log |\det \partial f / \partial x|

    Made by :meth:`points` or :meth:`images`. Called with data ``(B, *event_shape)`` the model scores them; called with
    ``None`` and ``num=B`` it generates. The site ``x`` stands in the plate ``"data"``.

    Points have no latents: the guide is one that draws nothing, ``lambda x: None``, and every bound is the density.

    Images have grey levels, and a density is one of real numbers. Their sites ``dequantisation``, u, and
    ``augmentation``, e, say where in its level each pixel lies, and give the flow further channels to work in:

    .. math::
        v = \frac{(K - 1) x + u}{K}, \qquad
        \log p(x, u, e) = \log p_f(v, e) - D \log K, \qquad u \in [0, 1]^D

    The model measures u and e by the laws U(0, 1) and N(0, 1), so that the site x carries
    :math:`\log p(x, u, e) - \log N(e; 0, I)`. A guide says how they are drawn: :class:`guides.UniformDequantisation`
    from these laws; any guide with an encoder is a learned, or variational, dequantisation. What the flow puts outside
    of :math:`[0, 1]^D` belongs to no image, so that the probabilities of all images sum to a little less than 1; a
    generated one is cut back to the nearest level.

    A departure from the published flow of images, whose augmentation is U(0, 1): here e is normal. The flow's density
    is positive everywhere, so that what it puts outside of a cube would belong to no e, and the bound would be lower by
    that; outside of a normal law's support there is nothing.

    The layers' shifts and scales are set by data before training, once: ``fit`` and ``train`` :meth:`start` a model
    that is not :attr:`started` with their first batch. For other ways of training call it with some data.

    Args:
        flow: The invertible network; of images on twice their channels.
        levels: K, the number of grey levels 0, 1 / (K - 1), ..., 1; ``None`` for points.

    Raises:
        OptionError: If ``levels`` is less than 2.
        DataError: When called with data of another shape.

    Example:
        >>> flow = FlowDensity.points(2, hidden=(8,))
        >>> flow(None, num=3).shape
        torch.Size([3, 2])
        >>> flow.log_density(torch.zeros(5, 2)).shape
        torch.Size([5])

    References:
        Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio, Density Estimation Using Real NVP, 2017,
        https://arxiv.org/abs/1605.08803. Jonathan Ho et al., Flow++, 2019, https://arxiv.org/abs/1902.00275, section
        3.1 (dequantisation). Chin-Wei Huang, Laurent Dinh, Aaron Courville, Augmented Normalizing Flows, 2020,
        https://arxiv.org/abs/2002.07101, section 3.
    """

    #: Whether the layers were set by data; in the state dict, so that what is read from a file is not set again.
    started: Tensor

    def __init__(self, flow: Flow, *, levels: int | None = None) -> None:
        super().__init__()
        self.flow = flow
        self.register_buffer("started", torch.tensor(False))
        self.levels = None if levels is None else whole_number("levels", levels, least=2)
        channels, *sides = flow.event_shape
        self.event_shape = tuple(flow.event_shape) if levels is None else (channels // 2, *sides)

    @classmethod
    def points(
        cls,
        dim: int = 2,
        *,
        couplings: str = "affine",
        num_couplings: int = 4,
        hidden: Sequence[int] = (200, 100),
        bins: int = 8,
        bound: float | None = None,
    ) -> FlowDensity:
        """Make a flow of vectors: couplings, each with an :class:`~ppl_models.networks.ActNorm`, in turns of order.

        Args:
            dim: The number of coordinates, at least 2.
            couplings: ``"affine"`` or ``"spline"``.
            num_couplings: How many of them.
            hidden: Widths of the hidden layers of each coupling's network.
            bins: The number of pieces of a spline.
            bound: The largest log-scale of an affine coupling, 4 by default, for points in clusters need steep maps;
                where a spline ends, 5 by default.

        Raises:
            OptionError: If a number is too small, or the name unknown.
        """
        dim, split = whole_number("dim", dim, least=2), whole_number("dim", dim, least=2) // 2
        num_couplings, rest = whole_number("num_couplings", num_couplings, least=1), dim - split
        hidden = [whole_number("hidden", width, least=1) for width in hidden]
        bins = whole_number("bins", bins, least=2)
        choose("couplings", couplings, ["affine", "spline"])
        layers: list[FlowLayer] = []
        for k in range(num_couplings):
            layers += [Reverse()] if k else []
            if couplings == "affine":
                network = DenseNN(split, hidden, param_dims=[2 * rest])
                layers.append(AffineCoupling(network, split=split, event_dim=1, bound=4.0 if bound is None else bound))
            else:
                network = DenseNN(split, hidden, param_dims=[rest * bins, rest * bins, rest * (bins - 1)])
                ends = 5.0 if bound is None else bound
                layers.append(SplineCoupling(network, split=split, bins=bins, bound=ends))
            layers.append(ActNorm(dim, event_dim=1))
        return cls(Flow([layers], event_shape=(dim,)))

    @classmethod
    def images(
        cls,
        event_shape: Sequence[int] = (1, 28, 28),
        *,
        levels: int = 2,
        num_scales: int = 3,
        num_couplings: int = 4,
        hidden: int = 64,
        growth: int = 16,
        depth: int = 8,
        bound: float = 2.0,
    ) -> FlowDensity:
        """Make a flow of images: on each scale couplings, each with an ActNorm and an invertible 1 x 1 convolution.

        Args:
            event_shape: ``(C, H, W)``; H and W can be halved ``num_scales - 1`` times.
            levels: K, the number of grey levels; 2 for binary images.
            num_scales: The number of scales.
            num_couplings: The number of couplings on each.
            hidden: See :class:`~ppl_models.networks.DenseBlock`.
            growth: See :class:`~ppl_models.networks.DenseBlock`.
            depth: See :class:`~ppl_models.networks.DenseBlock`.
            bound: The largest log-scale of a coupling.

        Raises:
            OptionError: If a number is too small, or the images cannot be halved as often.
        """
        channels, height, width = (whole_number("event_shape", size, least=1) for size in event_shape)
        scales = []
        for i in range(whole_number("num_scales", num_scales, least=1)):
            own = 2 * channels * 2**i
            layers: list[FlowLayer] = []
            for _ in range(whole_number("num_couplings", num_couplings, least=1)):
                network = DenseBlock(own // 2, own, hidden=hidden, growth=growth, depth=depth)
                layers.append(AffineCoupling(network, split=own // 2, event_dim=3, bound=bound))
                layers += [ActNorm(own, event_dim=3), ChannelMix(own)]
            scales.append(layers)
        return cls(Flow(scales, event_shape=(2 * channels, height, width)), levels=levels)

    def start(self, x: Tensor) -> FlowDensity:
        """Set every ActNorm by data, so that each channel has mean 0 and variance 1; again at each call.

        Args:
            x: At least two data ``(B, *event_shape)``; a few hundred of points, a few dozen images.

        Returns:
            The model itself.

        Raises:
            DataError: If there are fewer, or they have another shape.
        """
        if num_rows(x, None, self.event_shape) < 2:
            raise DataError(
                "a flow must be started by at least 2 data, which have a variance; got 1. Write model.start(x) with "
                "more of them before it is trained."
            )
        self.flow.start(x if self.levels is None else self.continuous(x, torch.rand_like(x), torch.randn_like(x)))
        self.started.fill_(True)
        return self

    def continuous(self, x: Tensor, dequantisation: Tensor, augmentation: Tensor) -> Tensor:
        """Put what the flow sees of images together: ``(*, 2 C, H, W)``."""
        assert self.levels is not None, "points are continuous"
        v = ((self.levels - 1) * x + dequantisation) / self.levels
        return torch.cat([v.expand(augmentation.shape), augmentation], -3)

    def log_density(self, x: Tensor) -> Tensor:
        """Score what the flow works on, ``(*, *flow.event_shape)``: log density ``(*)``."""
        z, log_det = self.flow(x)
        return dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_det

    def forward(self, x: Tensor | None = None, *, num: int | None = None) -> Tensor:
        """Score data ``(B, *event_shape)``, or generate ``num`` of them; return the value of ``x``."""
        size, noise = num_rows(x, num, self.event_shape), None
        with pyro.plate("data", size):
            if self.levels is not None and x is not None:
                zeros = next(self.flow.parameters()).new_zeros(self.event_shape)
                u = pyro.sample("dequantisation", dist.Uniform(zeros, 1.0).to_event(3))
                e = pyro.sample("augmentation", dist.Normal(zeros, 1.0).to_event(3))
                noise = (u, e)
            value: Tensor = pyro.sample("x", _FlowLaw(self, noise), obs=x)
        return value


class _FlowLaw(TorchDistribution):
    """The law of data under a flow; of images, given the noise that makes them real numbers."""

    arg_constraints: ClassVar = {}
    has_rsample = False

    def __init__(self, model: FlowDensity, noise: tuple[Tensor, Tensor] | None, batch_shape: Any = None) -> None:
        self.model, self.noise = model, noise
        if batch_shape is None:
            batch_shape = torch.Size() if noise is None else noise[0].shape[: -len(model.event_shape)]
        super().__init__(torch.Size(batch_shape), torch.Size(model.event_shape), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> _FlowLaw:
        shape = torch.Size(batch_shape)
        noise = None if self.noise is None else tuple(part.expand(shape + self.event_shape) for part in self.noise)
        return _FlowLaw(self.model, noise, shape)  # type: ignore[arg-type]

    def log_prob(self, value: Tensor) -> Tensor:
        levels = self.model.levels
        if levels is None or self.noise is None:
            density = self.model.log_density(value)
            return density.expand(torch.broadcast_shapes(density.shape, self.batch_shape))
        u, e = self.noise
        joint = self.model.log_density(self.model.continuous(value, u, e)) - self.event_shape.numel() * math.log(levels)
        return joint - dist.Normal(0.0, 1.0).log_prob(e).sum((-3, -2, -1))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        flow, levels = self.model.flow, self.model.levels
        like = next(flow.parameters())
        shape = [*sample_shape, *self.batch_shape, flow.dim]
        drawn = flow.inverse(torch.randn(shape, dtype=like.dtype, device=like.device))
        if levels is None:
            return drawn
        level = (drawn[..., : self.event_shape[0], :, :] * levels).floor()
        return level.clamp(0, levels - 1) / (levels - 1)
