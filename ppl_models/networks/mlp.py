"""Fully connected encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from guides.errors import DataError, OptionError

__all__ = ["MLPDecoder", "MLPEncoder"]


def _mlp(widths: Sequence[int], output: int) -> nn.Sequential:
    if min([*widths, output]) < 1:
        raise OptionError(f"layer widths must be at least 1; got {[*widths, output]}.")
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], output))


class MLPEncoder(nn.Module):
    """Map data ``(B, *event)`` to ``(B, output_dim)`` through ReLU layers.

    Args:
        event_shape: Shape of one datum.
        output_dim: Width of the output; ``2 L`` for a mean-field guide over L latent dimensions.
        hidden: Widths of the hidden layers.

    Raises:
        OptionError: If a width is less than 1.
        DataError: When called with data of another shape.

    Example:
        >>> import torch
        >>> MLPEncoder((1, 8, 8), output_dim=4, hidden=(16,))(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 4])
    """

    def __init__(self, event_shape: Sequence[int], *, output_dim: int, hidden: Sequence[int] = (200, 200)) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.layers = _mlp([self.event_shape.numel(), *hidden], output_dim)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.event_shape:
            raise DataError(f"x must have shape (B, {', '.join(map(str, self.event_shape))}); got {tuple(x.shape)}.")
        output: Tensor = self.layers(x.flatten(1))
        return output


class MLPDecoder(nn.Module):
    """Map latents ``(*, latent_dim)`` to ``(*, *event_shape)`` through ReLU layers.

    Args:
        latent_dim: Width of the input.
        event_shape: Shape of the output for one datum.
        hidden: Widths of the hidden layers.

    Raises:
        OptionError: If a width is less than 1.

    Example:
        >>> import torch
        >>> MLPDecoder(2, event_shape=(1, 8, 8), hidden=(16,))(torch.zeros(3, 5, 2)).shape
        torch.Size([3, 5, 1, 8, 8])
    """

    def __init__(self, latent_dim: int, *, event_shape: Sequence[int], hidden: Sequence[int] = (200, 200)) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.layers = _mlp([latent_dim, *hidden], self.event_shape.numel())

    def forward(self, z: Tensor) -> Tensor:
        output: Tensor = self.layers(z)
        return output.unflatten(-1, self.event_shape)
