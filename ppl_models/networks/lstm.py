"""One step of an LSTM on rows with any batch dimensions."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["LSTMStep"]


class LSTMStep(nn.LSTMCell):
    """Advance an LSTM by one step, for inputs ``(*, input_size)``.

    Example:
        >>> import torch
        >>> step = LSTMStep(3, 4)
        >>> hidden, cell = step(torch.zeros(7, 5, 3), (torch.zeros(5, 4), torch.zeros(5, 4)))
        >>> hidden.shape
        torch.Size([7, 5, 4])
    """

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the new hidden and cell state, each ``(*, hidden_size)``; the old ones may have fewer rows."""
        batch = x.shape[:-1]
        hidden, cell = (part.expand(*batch, part.shape[-1]).reshape(-1, part.shape[-1]) for part in state)
        hidden, cell = super().forward(x.reshape(-1, x.shape[-1]), (hidden, cell))
        return hidden.reshape(*batch, -1), cell.reshape(*batch, -1)
