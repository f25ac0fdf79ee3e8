"""DRAWGuide: the posterior of a drawing, in which a recurrent network looks at the image and at what is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from guides.errors import whole_number
from guides.latent_space import LatentSpace
from guides.sequential import SequentialGuide, Steps

if TYPE_CHECKING:
    from ppl_models import DRAW

__all__ = ["DRAWGuide"]


class DRAWGuide(SequentialGuide):
    r"""Draw the latents of a :class:`~ppl_models.DRAW` step by step, each given the datum and the canvas so far.

    .. math::
        r_t = \mathrm{read}(x, c_{t-1}, h_{t-1}), \qquad e_t = \mathrm{LSTM}([r_t, h_{t-1}], e_{t-1}), \qquad
        q(z_t \mid z_{<t}, x) = N\big(\mu(e_t), \sigma(e_t)^2\big)

    where :math:`c` and :math:`h` are the model's canvas and state at the latents drawn. What is read of x, and of what
    the canvas lacks of it, is the whole or, with the model's attention, a patch that a head of the guide places.

    Args:
        model: A :class:`~ppl_models.DRAW`.
        hidden_dim: The width of the LSTM; the model's by default.

    Raises:
        OptionError: If ``hidden_dim`` is less than 1.
        TypeError: If the model is none that draws.

    Example:
        >>> from ppl_models import DRAW
        >>> draw = DRAW((1, 28, 28))
        >>> guide = DRAWGuide(draw).setup(draw(None, num=2))
        >>> sum(p.numel() for part in (draw, guide) for p in part.parameters())
        3262304
        >>> draw.canvases(guide(draw(None, num=2))).shape
        torch.Size([10, 2, 1, 28, 28])

    References:
        Karol Gregor et al., DRAW: A Recurrent Neural Network For Image Generation, 2015,
        https://arxiv.org/abs/1502.04623, eqs. 1-6 and 21-27. Departures: see :class:`~ppl_models.DRAW`.
    """

    def __init__(self, model: DRAW, *, hidden_dim: int | None = None) -> None:
        if not hasattr(model, "canvases"):
            raise TypeError(
                f"model must be a DRAW; got {type(model).__name__}. For other models write MeanFieldGuide(model, "
                "encoder=...)."
            )
        # The steps look at the datum itself.
        super().__init__(model, encoder=nn.Flatten())
        self.hidden_dim = whole_number("hidden_dim", model.hidden_dim if hidden_dim is None else hidden_dim, least=1)
        self.event_shape = model.event_shape
        seen = torch.Size(model.event_shape).numel()
        self.read_head: nn.Linear | None = None
        if model.bank is not None:
            seen = model.event_shape[0] * model.bank.patch_size**2
            self.read_head = nn.Linear(model.hidden_dim, model.bank.num_parameters)
        seen *= 2 if model.error_image else 1
        self.network = model.new_step(seen + model.hidden_dim, self.hidden_dim)
        self.posterior = nn.Linear(self.hidden_dim, 2 * model.latent_dim)

    @property
    def model(self) -> DRAW:
        drawing: DRAW = super().model  # type: ignore[assignment]
        return drawing

    @property
    def parts(self) -> list[nn.Module]:
        own = [self.network, self.posterior, self.model]
        return own if self.read_head is None else [*own, self.read_head]

    def context_dim(self, space: LatentSpace) -> int:
        return torch.Size(self.event_shape).numel()

    def steps(self, context: Tensor) -> Steps:
        x = context.unflatten(-1, self.event_shape)
        drawing = self.model.start(context.shape[:-1])
        empty = context.new_zeros(*context.shape[:-1], self.hidden_dim)
        state = (empty, empty)
        for t in range(self.model.num_steps):
            seen = self._read(self.model.views(x, drawing.canvas), drawing.hidden)
            state = self.network(torch.cat([seen, drawing.hidden], -1), state)
            loc, log_scale = self.posterior(state[0]).chunk(2, -1)
            z = yield loc, log_scale
            if t + 1 < self.model.num_steps:
                drawing = self.model.step(z, drawing)

    def _read(self, views: list[Tensor], hidden: Tensor) -> Tensor:
        """What a step sees, ``(*, seen)``."""
        if self.read_head is not None:
            assert self.model.bank is not None, "a head places patches"
            parameters = self.read_head(hidden)
            views = [self.model.bank.read(view, parameters) for view in views]
        return torch.cat([view.flatten(-len(self.event_shape)) for view in views], -1)
