"""Flow: layers one after the other, on one scale or, for images, on several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guides.errors import OptionError
from ppl_models.networks.flow_layers import ActNorm, FlowLayer

__all__ = ["Flow"]


class Flow(nn.Module):
    r"""Map data to vectors of the same dimension, one to one.

    Between two levels images are squeezed, every 2 x 2 pixels of a channel becoming four channels, and the second half
    of the channels goes to the result as it is.

    Args:
        levels: The layers of each level.
        event_shape: The shape of one datum: ``(D,)``, with one level, or ``(C, H, W)``.

    Raises:
        OptionError: If the data cannot be squeezed as often.

    Example:
        >>> from ppl_models.networks.flow_layers import Reverse
        >>> z, log_det = Flow([[Reverse()]], event_shape=(2,))(torch.tensor([[1.0, 2.0]]))
        >>> z
        tensor([[2., 1.]])

    References:
        Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio, Density Estimation Using Real NVP, 2017,
        https://arxiv.org/abs/1605.08803, section 3.6.
    """

    def __init__(self, levels: Sequence[Sequence[FlowLayer]], *, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.ModuleList(level) for level in levels)
        self.event_shape = torch.Size(event_shape)
        #: The shape of what each level works on.
        self.shapes = [self.event_shape]
        for _ in levels[1:]:
            if len(self.event_shape) != 3 or self.shapes[-1][1] % 2 or self.shapes[-1][2] % 2:
                raise OptionError(
                    f"data must be images of even sides for a further level; got shape {tuple(self.shapes[-1])}."
                )
            channels, height, width = self.shapes[-1]
            self.shapes.append(torch.Size([2 * channels, height // 2, width // 2]))

    @property
    def dim(self) -> int:
        """The dimension of the data, and of the vectors."""
        return self.event_shape.numel()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data ``(*, *event_shape)`` to vectors ``(*, dim)``, with the log-determinant ``(*)``."""
        return self._map(x, start=False)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Let every :class:`ActNorm` give the data mean 0 and variance 1."""
        self._map(x, start=True)

    def _map(self, x: Tensor, *, start: bool) -> tuple[Tensor, Tensor]:
        event_dim, parts = len(self.event_shape), []
        log_det = x.new_zeros(x.shape[: x.dim() - event_dim])
        for i, level in enumerate(self.levels):
            if i:
                x, other = F.pixel_unshuffle(x, 2).chunk(2, -3)
                parts.append(other.flatten(-3))
            assert isinstance(level, nn.ModuleList), "made so"
            for layer in level:
                if start and isinstance(layer, ActNorm):
                    layer.start(x)
                x, change = layer(x)
                log_det = log_det + change
        return torch.cat([*parts, x.flatten(-event_dim)], -1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Map vectors ``(*, dim)`` to data."""
        sizes = [shape.numel() for shape in (*self.shapes[1:], self.shapes[-1])]
        *others, last = z.split(sizes, -1)
        x = last.unflatten(-1, self.shapes[-1])
        for i in reversed(range(len(self.levels))):
            for layer in reversed(self.levels[i]):  # type: ignore[call-overload]
                x = layer.inverse(x)
            if i:
                other = others[i - 1].unflatten(-1, self.shapes[i])
                x = F.pixel_shuffle(torch.cat([x, other], -3), 2)
        return x
