"""Fully connected encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from guides.errors import DataError, OptionError, choose

__all__ = ["ACTIVATIONS", "MLPDecoder", "MLPEncoder"]

#: What follows a hidden layer, by name.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def _mlp(widths: Sequence[int], output: int, activation: str, init: str) -> nn.Sequential:
    if min([*widths, output]) < 1:
        raise OptionError(f"layer widths must be at least 1; got {[*widths, output]}.")
    follows = ACTIVATIONS[choose("activation", activation, ACTIVATIONS)]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), follows()]
    layers.append(nn.Linear(widths[-1], output))
    if choose("init", init, ["default", "xavier_normal"]) == "xavier_normal":
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class MLPEncoder(nn.Module):
    """Map data ``(B, *event)`` to ``(B, output_dim)`` through fully connected layers.

    Args:
        event_shape: Shape of one datum.
        output_dim: Width of the output; ``2 L`` for a mean-field guide over L latent dimensions.
        hidden: Widths of the hidden layers.
        activation: ``"relu"``, ``"tanh"``, ``"elu"``, ``"silu"`` or ``"softplus"``, after each of them.
        init: ``"default"``, torch's own, or ``"xavier_normal"`` weights with biases zero.

    Raises:
        OptionError: If a width is less than 1, or a name unknown.
        DataError: When called with data of another shape.

    Example:
        >>> import torch
        >>> MLPEncoder((1, 8, 8), output_dim=4, hidden=(16,))(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        output_dim: int,
        hidden: Sequence[int] = (200, 200),
        activation: str = "relu",
        init: str = "default",
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.layers = _mlp([self.event_shape.numel(), *hidden], output_dim, activation, init)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.event_shape:
            raise DataError(f"x must have shape (B, {', '.join(map(str, self.event_shape))}); got {tuple(x.shape)}.")
        output: Tensor = self.layers(x.flatten(1))
        return output


class MLPDecoder(nn.Module):
    """Map latents ``(*, latent_dim)`` to ``(*, *event_shape)`` through fully connected layers.

    Args:
        latent_dim: Width of the input.
        event_shape: Shape of the output for one datum.
        hidden: Widths of the hidden layers.
        activation: ``"relu"``, ``"tanh"``, ``"elu"``, ``"silu"`` or ``"softplus"``, after each of them.
        init: ``"default"``, torch's own, or ``"xavier_normal"`` weights with biases zero.

    Raises:
        OptionError: If a width is less than 1, or a name unknown.

    Example:
        >>> import torch
        >>> MLPDecoder(2, event_shape=(1, 8, 8), hidden=(16,))(torch.zeros(3, 5, 2)).shape
        torch.Size([3, 5, 1, 8, 8])
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        event_shape: Sequence[int],
        hidden: Sequence[int] = (200, 200),
        activation: str = "relu",
        init: str = "default",
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.layers = _mlp([latent_dim, *hidden], self.event_shape.numel(), activation, init)

    def forward(self, z: Tensor) -> Tensor:
        output: Tensor = self.layers(z)
        return output.unflatten(-1, self.event_shape)
