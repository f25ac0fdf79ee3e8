"""Invertible layers of a flow, each with its log-determinant."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from pyro.distributions.transforms import GeneralizedChannelPermute
from pyro.distributions.transforms.generalized_channel_permute import ConditionedGeneralizedChannelPermute
from torch import Tensor, nn

from guides.errors import OptionError, positive, whole_number
from ppl_models.networks.spline import rational_quadratic

__all__ = ["ActNorm", "AffineCoupling", "ChannelMix", "FlowLayer", "Reverse", "SplineCoupling"]


class FlowLayer(nn.Module, ABC):
    """A bijection of vectors ``(*, D)`` or images ``(*, C, H, W)``, from the data's side to the base's.

    Layers keep nothing from one call to the next, and their course does not depend on values, so that models that hold
    them can be copied and compiled. (Pyro's coupling modules remember their last scales, and take images as vectors.)
    """

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image of x, and its log-determinant there, ``(*)`` or a number for all."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Return what is mapped to y."""


class ActNorm(FlowLayer):
    r"""Shift and scale each channel: :math:`y = (x - m) e^{-L}`.

    Args:
        channels: The number of channels, or of coordinates of vectors.
        event_dim: 1 for vectors, 3 for images.

    Example:
        >>> layer = ActNorm(2, event_dim=1)
        >>> layer.start(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
        >>> layer(torch.tensor([2.0, 20.0]))[0].detach()
        tensor([0., 0.])

    References:
        Diederik P. Kingma, Prafulla Dhariwal, Glow, 2018, https://arxiv.org/abs/1807.03039, section 3.1.
    """

    def __init__(self, channels: int, *, event_dim: int) -> None:
        super().__init__()
        shape = [whole_number("channels", channels, least=1)] + [1] * (event_dim - 1)
        self.loc, self.log_scale = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
        self.event_dim = event_dim

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Let each channel of the data given have mean 0 and variance 1."""
        rows = x.movedim(-self.event_dim, -1).flatten(0, -2)
        self.loc.copy_(rows.mean(0).view_as(self.loc))
        self.log_scale.copy_((rows.std(0) + 1e-6).log().view_as(self.log_scale))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        copies = x.shape[-self.event_dim :].numel() / self.log_scale.numel()
        return (x - self.loc) * (-self.log_scale).exp(), -copies * self.log_scale.sum()

    def inverse(self, y: Tensor) -> Tensor:
        return y * self.log_scale.exp() + self.loc


class AffineCoupling(FlowLayer):
    r"""Scale and shift the second half of the channels by numbers that depend on the first.

    .. math::
        y_2 = e^{s(x_1)} x_2 + t(x_1), \qquad s = b \tanh(s' / b)

    Args:
        network: Module from the first ``split`` channels to twice as many as the others: all s', then all t.
        split: The number of channels in the first part.
        event_dim: 1 for vectors, 3 for images.
        bound: b, the largest that :math:`|s|` can be.

    Raises:
        OptionError: If ``bound`` is not positive.

    References:
        Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio, Density Estimation Using Real NVP, 2017,
        https://arxiv.org/abs/1605.08803, eq. 8. The bound is ours: without it scales overflow.
    """

    def __init__(self, network: nn.Module, *, split: int, event_dim: int, bound: float = 2.0) -> None:
        super().__init__()
        self.network, self.split, self.event_dim = network, split, event_dim
        self.bound = positive("bound", bound)

    def _maps(self, first: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.network(first).chunk(2, -self.event_dim)
        return self.bound * (log_scale / self.bound).tanh(), shift

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.shape[-self.event_dim]
        first, second = x.split([self.split, channels - self.split], -self.event_dim)
        return first, second

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self._parts(x)
        log_scale, shift = self._maps(first)
        moved = second * log_scale.exp() + shift
        return torch.cat([first, moved], -self.event_dim), log_scale.flatten(-self.event_dim).sum(-1)

    def inverse(self, y: Tensor) -> Tensor:
        first, moved = self._parts(y)
        log_scale, shift = self._maps(first)
        return torch.cat([first, (moved - shift) * (-log_scale).exp()], -self.event_dim)


class SplineCoupling(FlowLayer):
    """Map each coordinate of the second part of a vector by a monotone spline that depends on the first part.

    The splines have rational quadratic pieces between ``-bound`` and ``bound``; outside they are the identity.

    Args:
        network: Module from the first ``split`` coordinates to ``(w, h, d)``: for each of the n others, ``bins``
            widths, ``bins`` heights and ``bins - 1`` slopes, of any sign.
        split: The number of coordinates in the first part.
        bins: The number of pieces, from 2 to 500.
        bound: Where the splines end.

    Raises:
        OptionError: If a number is out of range.

    References:
        Conor Durkan et al., Neural Spline Flows, 2019, https://arxiv.org/abs/1906.04032, section 3.1.
    """

    def __init__(self, network: nn.Module, *, split: int, bins: int = 8, bound: float = 5.0) -> None:
        super().__init__()
        self.network, self.split = network, split
        self.bins, self.bound = whole_number("bins", bins, least=2), positive("bound", bound)
        if bins > 500:  # each piece has at least a thousandth of the whole
            raise OptionError(f"bins must be at most 500; got {bins}.")

    def _map(self, x: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        first, second = x[..., : self.split], x[..., self.split :]
        numbers = [part.unflatten(-1, (second.shape[-1], -1)) for part in self.network(first)]
        moved, log_slopes = rational_quadratic(second, *numbers, bound=self.bound, inverse=inverse)
        return torch.cat([first, moved], -1), log_slopes.sum(-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(x, inverse=False)

    def inverse(self, y: Tensor) -> Tensor:
        return self._map(y, inverse=True)[0]


class Reverse(FlowLayer):
    """Reverse the order of the coordinates of vectors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flip(-1), x.new_zeros(())

    def inverse(self, y: Tensor) -> Tensor:
        return y.flip(-1)


class ChannelMix(FlowLayer):
    """Multiply the channels at each pixel by one matrix, an invertible 1 x 1 convolution; Pyro's, in its LU form.

    Args:
        channels: The number of channels; the matrix starts as a random rotation.

    Raises:
        OptionError: If there is no channel.

    References:
        Diederik P. Kingma, Prafulla Dhariwal, Glow, 2018, https://arxiv.org/abs/1807.03039, section 3.2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if whole_number("channels", channels, least=1) < 2:
            raise OptionError("channels must be at least 2; got 1: there is nothing to mix.")
        self.matrix = GeneralizedChannelPermute(channels)

    @property
    def _map(self) -> ConditionedGeneralizedChannelPermute:
        # A new one for each call: the module would keep its last images.
        return ConditionedGeneralizedChannelPermute(self.matrix.permutation, self.matrix.LU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self._map(x)
        return y, self._map.log_abs_det_jacobian(x, y)

    def inverse(self, y: Tensor) -> Tensor:
        x: Tensor = self._map.inv(y)
        return x
