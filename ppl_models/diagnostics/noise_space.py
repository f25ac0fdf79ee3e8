"""NoiseSpace: a guide's importance weight as a function of the noise that its draws are made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from guides.errors import ModelError
from guides.noise import NoiseTape
from ppl_models.objectives.log_weights import LogWeights, log_weights
from ppl_models.objectives.traces import PARTICLES, plate_nesting

__all__ = ["NoiseSpace"]


@dataclass(frozen=True)
class _Part:
    """One of the tensors of noise that a guide asks for in a run.

    Args:
        sizes: Its shape, the particles left out.
        homes: Which of its dimensions are those of the independent plates, in their order.
        coordinates: Where it stands in the vector.
    """

    sizes: list[int]
    homes: list[int]
    coordinates: slice


class NoiseSpace:
    r"""Present a guide's log-weight as a function of the standard normal noise behind its draws.

    .. math:: \log w(e) = \log p(x, z(e)) - \log q(z(e))

    Whatever the guide, its contract says that the mean of w(e) over :math:`e \sim N(0, I)` is the evidence; and so
    :math:`N(e; 0, I)\, w(e)` is a density that integrates to it, and a path leads there from the guide's own draws. Of
    a guide whose map is a bijection (normal, planar, IAF), it is the geometric path from q to the posterior, seen in
    other coordinates; a guide without a density at arbitrary points (Hamiltonian, annealed) has one on the space of
    all its noise.

    Args:
        model: Any Pyro model.
        guide: A guide of it whose draws are made from standard normal noise.
        args: Arguments of both.
        vectorize_particles: Whether both can be run on a batch of particles.

    Raises:
        ModelError: If the guide draws from something else, or nothing.
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], *, vectorize_particles: bool
    ) -> None:
        self.model, self.guide, self.args = model, guide, args
        self.nesting = plate_nesting(model, guide, args, {}) if vectorize_particles else None
        tape = NoiseTape()
        with torch.no_grad(), poutine.block(), tape:
            weights = self._weigh(1 if self.nesting is None else 2)  # a batch of one would have no dimension
        #: The sizes of the independent plates.
        self.plates_shape = weights.values.shape[1:]
        names = [tape.names[dim] for dim in weights.depths if tape.names[dim] != PARTICLES]
        self.device = weights.values.device
        self._parts: list[_Part] = []
        for noise, plates in zip(tape.noise, tape.plates, strict=True):
            if self.nesting is not None:
                assert plates[0] == PARTICLES, "the particles are the leftmost plate"
                noise, plates = noise[0], plates[1:]
            homes = [plates.index(name) for name in names]
            size = noise.numel() // max(1, self.plates_shape.numel())
            self._parts.append(_Part(list(noise.shape), homes, slice(self.dim, self.dim + size)))
        if not self.dim:
            raise ModelError(
                f"the guide's draws must be made from standard normal noise; {type(guide).__name__} draws without any."
            )

    @property
    def dim(self) -> int:
        """M, how many numbers the latents of one datum, or all of them, are made from."""
        return self._parts[-1].coordinates.stop if self._parts else 0

    def draw(self, num: int) -> Tensor:
        """Draw noise, ``(num, *plates, M)``: its weights are then those of the guide's own draws."""
        return torch.randn(num, *self.plates_shape, self.dim, dtype=torch.float64, device=self.device)

    def log_weight(self, noise: Tensor) -> Tensor:
        """Compute the log-weights ``(S, *plates)`` at noise ``(S, *plates, M)``, S at least 2, with their graph."""
        given = [self._laid_out(noise, part) for part in self._parts]
        with poutine.block():
            if self.nesting is not None:
                with NoiseTape(given):
                    return self._weigh(len(noise)).values
            runs = []
            for own in zip(*given, strict=True):
                with NoiseTape(own):
                    runs.append(self._weigh(1).values)
            return torch.cat(runs)

    def _laid_out(self, noise: Tensor, part: _Part) -> Tensor:
        """Lay out a part of the vector as the guide asks for it, ``(S, *sizes)``."""
        rest = [size for i, size in enumerate(part.sizes) if i not in part.homes]
        value = noise[..., part.coordinates].reshape(*noise.shape[:-1], *rest)
        first = 1 + len(part.homes)
        return value.movedim(list(range(1, first)), [1 + home for home in part.homes])

    def _weigh(self, num: int) -> LogWeights:
        vectorized = self.nesting is not None
        return log_weights(
            self.model,
            self.guide,
            *self.args,
            num_particles=num,
            vectorize_particles=vectorized,
            max_plate_nesting=self.nesting,
        )
