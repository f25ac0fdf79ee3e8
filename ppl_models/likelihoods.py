"""Laws of one datum given a network's output, by name."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides.errors import DataError, OptionError, choose, whole_number
from ppl_models.grey_levels import CategoricalLevels, LogisticLevels

__all__ = ["LIKELIHOODS", "Likelihood"]

#: The names that a likelihood may have.
LIKELIHOODS = ("bernoulli", "normal", "categorical", "discretised_logistic")

#: Likelihoods of grey levels, and how many levels an image of bytes has.
GREY, BYTES = ("categorical", "discretised_logistic"), 256


class Likelihood:
    r"""Read the law of one datum from a network's output.

    ``"bernoulli"``: logits. ``"normal"``: means and log-scales, side by side in the last dimension.
    ``"categorical"``: a logit for each of K grey levels, in a last dimension of its own.
    ``"discretised_logistic"``: means and log-scales of a logistic law that is cut into K grey levels, side by side in
    the last dimension. Grey levels are the numbers 0, 1 / (K - 1), ..., 1.

    Args:
        name: One of these.
        levels: K, for grey levels only; 256 by default.

    Raises:
        OptionError: If the name is unknown, or ``levels`` given where there are none, or less than 2.

    Example:
        >>> Likelihood("normal").output_shape((2,)), Likelihood("categorical", levels=17).output_shape((1, 8, 8))
        (torch.Size([4]), torch.Size([1, 8, 8, 17]))
    """

    def __init__(self, name: str, *, levels: int | None = None) -> None:
        self.name = choose("likelihood", name, LIKELIHOODS)
        if levels is not None and name not in GREY:
            raise OptionError(f"levels must be given for {' or '.join(map(repr, GREY))} only; got it for {name!r}.")
        self.levels = whole_number("levels", BYTES if levels is None else levels, least=2) if name in GREY else None

    def output_shape(self, event_shape: Sequence[int]) -> torch.Size:
        """The shape of a network's output for one datum of a shape."""
        if self.name == "bernoulli":
            return torch.Size(event_shape)
        if self.levels is not None and self.name == "categorical":
            return torch.Size([*event_shape, self.levels])
        return torch.Size([*event_shape[:-1], 2 * event_shape[-1]])

    def __call__(self, output: Tensor, batch_dim: int) -> TorchDistribution:
        """Give the law at outputs ``(*batch, *output_shape)``, with ``batch_dim`` batch dimensions, all else events.

        Raises:
            DataError: If the output cannot be cut in the way the likelihood needs.
        """
        law = self._law(output)
        return law.to_event(len(law.batch_shape) - batch_dim)

    def _law(self, output: Tensor) -> TorchDistribution:
        if self.name == "bernoulli":
            return dist.Bernoulli(logits=output)
        if self.name == "categorical":
            if output.shape[-1] != self.levels:
                raise DataError(
                    f"a decoder of {self.levels} grey levels must return a logit for each in its last dimension; got "
                    f"{output.shape[-1]}."
                )
            return CategoricalLevels(output)
        if output.shape[-1] % 2:
            raise DataError(
                f"a decoder of {self.name} data must return means and log-scales side by side, an even number; got "
                f"{output.shape[-1]} in the last dimension."
            )
        loc, log_scale = output.chunk(2, dim=-1)
        if self.levels is not None:
            return LogisticLevels(loc, log_scale, levels=self.levels)
        return dist.Normal(loc, log_scale.exp())

    def __repr__(self) -> str:
        return f"{self.name!r}" + ("" if self.levels is None else f" ({self.levels} levels)")
