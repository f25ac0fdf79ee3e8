"""DRAW: an image painted in several steps, each from a latent vector of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from guides.errors import DataError, OptionError, choose, whole_number
from ppl_models.likelihoods import Likelihood
from ppl_models.networks.filter_bank import FilterBank
from ppl_models.networks.lstm import LSTMStep
from ppl_models.rows import num_rows

__all__ = ["DRAW", "Drawing"]


class Drawing(NamedTuple):
    """How far a drawing is.

    Args:
        hidden: The decoder's hidden state, ``(*, hidden_dim)``.
        cell: Its cell state, of the same shape.
        canvas: What is drawn, ``(*, *event_shape)``.
    """

    hidden: Tensor
    cell: Tensor
    canvas: Tensor


class DRAW(PyroModule):
    r"""Generate each image in T steps, in which a recurrent network writes to a canvas.

    .. math::
        z_t \sim N(0, I), \qquad h_t = \mathrm{LSTM}(z_t, h_{t-1}), \qquad c_t = c_{t-1} + \mathrm{write}(h_t), \qquad
        x \mid z_{1:T} \sim p(\cdot \mid \mathrm{observation}(c_T))

    Sites ``z_1``, ..., ``z_T`` and ``x``, all in the plate ``"data"``. Called with data ``(B, *event_shape)`` the model
    scores them; called with ``None`` and ``num=B`` it generates, from a fresh :math:`z_t` at every step.
    :class:`guides.DRAWGuide` is made for it; any guide with an encoder fits it.

    The four published variants are the combinations of ``error_image`` and ``accumulate``: ``draw`` (both), ``draw2``
    (no error image), ``draw3`` (an overwritten canvas), ``draw4`` (neither).

    Args:
        event_shape: The shape of one datum; of images ``(C, H, W)`` with attention.
        latent_dim: The size of each :math:`z_t`.
        hidden_dim: The width of the LSTM.
        num_steps: T.
        attention: ``"none"``: each step sees and writes whole images. ``"filterbank"``: it reads and writes patches
            through a :class:`~ppl_models.networks.FilterBank`, placed for each image by heads of their own.
        patch_size: The side of a patch; 12 by default. With attention only.
        error_image: Whether the guide sees, beside x, what the canvas lacks of it.
        accumulate: Whether steps add to the canvas, or overwrite it.
        observation: Whether a linear layer stands between canvas and likelihood, as in the study.
        likelihood: A name; see :class:`~ppl_models.VAE`.
        levels: The number of grey levels, for likelihoods of them.

    Raises:
        OptionError: If a number is less than 1, a name unknown, or one option is not for another.
        DataError: When called with data of another shape.

    Example:
        >>> draw = DRAW((1, 8, 8), latent_dim=2, hidden_dim=16, num_steps=3)
        >>> draw(None, num=5).shape, draw.canvases(num=5).shape
        (torch.Size([5, 1, 8, 8]), torch.Size([3, 5, 1, 8, 8]))

    References:
        Karol Gregor et al., DRAW: A Recurrent Neural Network For Image Generation, 2015,
        https://arxiv.org/abs/1502.04623, eqs. 3-8 and 17-29. Departures, the study's: the observation layer, and the
        variants. The error image is x less the mean of the data given the canvas; the study took the canvas's sigmoid,
        which is not what the likelihood sees.
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (1, 28, 28),
        *,
        latent_dim: int = 32,
        hidden_dim: int = 256,
        num_steps: int = 10,
        attention: str = "none",
        patch_size: int | None = None,
        error_image: bool = True,
        accumulate: bool = True,
        observation: bool = True,
        likelihood: str = "bernoulli",
        levels: int | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(whole_number("event_shape", size, least=1) for size in event_shape)
        self.latent_dim = whole_number("latent_dim", latent_dim, least=1)
        self.hidden_dim = whole_number("hidden_dim", hidden_dim, least=1)
        self.num_steps = whole_number("num_steps", num_steps, least=1)
        self.attention = choose("attention", attention, ["none", "filterbank"])
        self.error_image, self.accumulate = error_image, accumulate
        self.likelihood = Likelihood(likelihood, levels=levels)
        if not observation and likelihood != "bernoulli":
            raise OptionError(
                f"observation must be True with likelihood={likelihood!r}, of more numbers than the canvas has."
            )
        if patch_size is not None and attention == "none":
            raise OptionError("patch_size must be given with attention='filterbank' only; got attention='none'.")
        size = torch.Size(self.event_shape).numel()
        #: Reads and writes patches; ``None`` without attention.
        self.bank = None
        written = size
        if attention == "filterbank":
            if len(self.event_shape) != 3:
                raise OptionError(f"event_shape must be (C, H, W) with attention; got {self.event_shape}.")
            self.bank = FilterBank(self.event_shape[1:], patch_size=12 if patch_size is None else patch_size)
            written = self.event_shape[0] * self.bank.patch_size**2
        self.decoder = self.new_step(self.latent_dim, self.hidden_dim)
        self.write = nn.Linear(self.hidden_dim, written)
        self.write_head = None if self.bank is None else nn.Linear(self.hidden_dim, self.bank.num_parameters)
        self.output_shape = self.likelihood.output_shape(self.event_shape)
        self.observation = nn.Linear(size, self.output_shape.numel()) if observation else None

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the latents, in the order of the steps."""
        return tuple(f"z_{t + 1}" for t in range(self.num_steps))

    def new_step(self, input_dim: int, hidden_dim: int) -> LSTMStep:
        """Make another recurrent network of the kind that draws."""
        return LSTMStep(input_dim, hidden_dim)

    def start(self, batch_shape: Sequence[int]) -> Drawing:
        """Give empty drawings."""
        hidden = self.write.weight.new_zeros(*batch_shape, self.hidden_dim)
        return Drawing(hidden, hidden, self.write.weight.new_zeros(*batch_shape, *self.event_shape))

    def step(self, z: Tensor, drawing: Drawing) -> Drawing:
        """Draw one step on, at latents ``(*, latent_dim)``; the drawing may have fewer batch dimensions."""
        hidden, cell = self.decoder(z, (drawing.hidden, drawing.cell))
        stroke = self.write(hidden)
        if self.bank is None or self.write_head is None:
            stroke = stroke.unflatten(-1, self.event_shape)
        else:
            patch = stroke.unflatten(-1, (self.event_shape[0], self.bank.patch_size, self.bank.patch_size))
            stroke = self.bank.write(patch, self.write_head(hidden))
        return Drawing(hidden, cell, drawing.canvas + stroke if self.accumulate else stroke)

    def decode(self, canvas: Tensor) -> TorchDistribution:
        """Give the distribution of data at canvases ``(*, *event_shape)``."""
        output = canvas
        if self.observation is not None:
            output = self.observation(canvas.flatten(-len(self.event_shape))).unflatten(-1, self.output_shape)
        return self.likelihood(output, canvas.dim() - len(self.event_shape))

    def views(self, x: Tensor, canvas: Tensor) -> list[Tensor]:
        """What a step of the guide may look at: x, and what the canvas lacks of it, ``(*, *event_shape)`` each."""
        x = x.expand(canvas.shape)
        return [x, x - self.decode(canvas).mean] if self.error_image else [x]

    def forward(self, x: Tensor | None = None, *, num: int | None = None) -> Tensor:
        """Score data ``(B, *event_shape)``, or generate ``num`` of them; return the value of ``x``."""
        size = num_rows(x, num, self.event_shape)
        prior = dist.Normal(self.write.weight.new_zeros(self.latent_dim), 1.0).to_event(1)
        with pyro.plate("data", size):
            drawing = self.start([size])
            for site in self.sites:
                drawing = self.step(pyro.sample(site, prior), drawing)
            value: Tensor = pyro.sample("x", self.decode(drawing.canvas), obs=x)
        return value

    def canvases(self, latents: Mapping[str, Tensor] | None = None, *, num: int | None = None) -> Tensor:
        """Show the drawings after each step, as the mean of the data if it were the last: ``(T, *, *event_shape)``.

        Args:
            latents: Latents by site, ``(*, latent_dim)`` each, as a guide draws them.
            num: How many images to draw from the prior, in place of latents.

        Raises:
            DataError: If the latents are not those of all steps.
        """
        if latents is None:
            shape = [num_rows(None, num, self.event_shape), self.latent_dim]
            weight = self.write.weight
            latents = {site: torch.randn(shape, dtype=weight.dtype, device=weight.device) for site in self.sites}
        if set(latents) != set(self.sites):
            raise DataError(f"latents must be of the sites {', '.join(self.sites)}; got {', '.join(latents)}.")
        drawing, shown = self.start([]), []
        for site in self.sites:
            drawing = self.step(latents[site], drawing)
            shown.append(self.decode(drawing.canvas).mean)
        return torch.stack(shown)
