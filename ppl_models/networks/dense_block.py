"""DenseBlock: the convolutional network of an image flow's couplings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guides.errors import whole_number

__all__ = ["DenseBlock"]


class _DenseLayer(nn.Module):
    """Append features to an image's channels."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, growth, 3, padding=1), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], 1)


class DenseBlock(nn.Module):
    r"""Map images ``(*, in_channels, H, W)`` to ``(*, out_channels, H, W)``; zero at the start.

    A 1 x 1 convolution to the hidden channels, a residual block of densely connected layers that ends in a gate,
    :math:`h + a + b \, \mathrm{sigmoid}(c)`, and a 1 x 1 convolution whose weights and biases are zero at first.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        hidden: Channels inside.
        growth: Channels that each dense layer appends.
        depth: The number of dense layers.

    Raises:
        OptionError: If a number is less than 1.

    Example:
        >>> sum(p.numel() for p in DenseBlock(1, 2).parameters())
        302594

    References:
        Gao Huang et al., Densely Connected Convolutional Networks, 2017, https://arxiv.org/abs/1608.06993; in
        couplings after Jonathan Ho et al., Flow++, 2019, https://arxiv.org/abs/1902.00275.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, hidden: int = 64, growth: int = 16, depth: int = 8
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "hidden": hidden}
        for name, size in (sizes | {"growth": growth, "depth": depth}).items():
            whole_number(name, size, least=1)
        self.enter = nn.Conv2d(in_channels, hidden, 1)
        self.dense = nn.Sequential(*[_DenseLayer(hidden + i * growth, growth) for i in range(depth)])
        self.gate = nn.Conv2d(hidden + depth * growth, 3 * hidden, 1)
        self.leave = nn.Conv2d(hidden, out_channels, 1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None, "asked for by default"
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x.reshape(-1, *x.shape[-3:]))
        shift, size, gate = self.gate(self.dense(hidden)).chunk(3, 1)
        output: Tensor = self.leave(hidden + shift + size * gate.sigmoid())
        return output.reshape(*x.shape[:-3], *output.shape[1:])
