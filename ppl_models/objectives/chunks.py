"""What chunks need: noise drawn again, and gradients that are found before they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Gradients", "RandomState", "leaves_of", "slices", "with_gradient", "with_gradient_of"]


@dataclass(frozen=True)
class RandomState:
    """The state of torch's generators, to draw the same noise again."""

    cpu: Tensor
    devices: tuple[Tensor, ...]

    @classmethod
    def capture(cls) -> RandomState:
        """Take it as it is now."""
        used = torch.cuda.is_available() and torch.cuda.is_initialized()
        return cls(torch.random.get_rng_state(), tuple(torch.cuda.get_rng_state_all()) if used else ())

    def restore(self) -> None:
        """Go back to it."""
        torch.random.set_rng_state(self.cpu)
        if self.devices:
            torch.cuda.set_rng_state_all(list(self.devices))


def slices(size: int, chunk_size: int) -> list[slice]:
    """Cut a number of members into chunks; the last may be smaller."""
    return [slice(start, min(start + chunk_size, size)) for start in range(0, size, chunk_size)]


class Gradients:
    """Gradients by parameter, added up part by part so that the graph of each can go.

    Example:
        >>> import torch
        >>> x, gradients = torch.tensor(2.0, requires_grad=True), Gradients()
        >>> gradients.add(x.square())
        >>> gradients.add(3 * x)
        >>> gradients.put_into(torch.tensor(5.0)).backward()
        >>> x.grad
        tensor(7.)
    """

    def __init__(self) -> None:
        self._of: dict[Tensor, Tensor] = {}

    def add(self, output: Tensor) -> None:
        """Add the gradient of a number by all parameters that it depends on."""
        leaves = leaves_of(output)
        for leaf, gradient in zip(leaves, torch.autograd.grad(output, leaves) if leaves else (), strict=True):
            self._of[leaf] = gradient if leaf not in self._of else self._of[leaf] + gradient

    def put_into(self, value: Tensor) -> Tensor:
        """Give a number this gradient, as an ordinary output of autograd."""
        return with_gradient(value, list(self._of), list(self._of.values())) if self._of else value


def leaves_of(output: Tensor) -> list[Tensor]:
    """The parameters that an output depends on: where its graph ends."""
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    stack = [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found[id(leaf)] = leaf
        stack += [before for before, _ in node.next_functions]
    return list(found.values())


def with_gradient(value: Tensor, leaves: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Give a number the gradient that was found for it, as an ordinary output of autograd.

    Example:
        >>> import torch
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> with_gradient(torch.tensor(5.0), [x], [torch.tensor(3.0)]).backward()
        >>> x.grad
        tensor(3.)
    """
    loss: Tensor = _WithGradient.apply(value, tuple(gradients), *leaves)
    return loss


def with_gradient_of(other: Tensor, value: Tensor) -> Tensor:
    """Give a number the gradient of another, whatever the other's value is.

    Example:
        >>> import torch
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> loss = with_gradient_of(3 * x, torch.tensor(5.0))
        >>> loss.backward()
        >>> loss.item(), x.grad
        (5.0, tensor(3.))
    """
    loss: Tensor = _WithGradientOf.apply(other, value)
    return loss


class _WithGradientOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, other: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return outputs[0], None


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(outputs[0] * gradient for gradient in ctx.gradients)
