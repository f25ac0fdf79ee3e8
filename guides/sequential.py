"""SequentialGuide: what guides share that draw the latents of a datum one after the other, each given those before."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from guides.base import Guide
from guides.latent_space import LatentSpace
from guides.target import Proposal, Target, log_standard_normal

__all__ = ["SequentialGuide", "Steps"]

#: Gives the location and log-scale of each vector in turn, and is sent each vector when it is drawn.
Steps = Generator[tuple[Tensor, Tensor], Tensor, None]


class SequentialGuide(Guide):
    r"""Draw the latents of each datum as a sequence of normal vectors, each given those before it and the datum.

    .. math::
        z_t = \mu_t(z_{<t}, x) + \sigma_t(z_{<t}, x) \odot \epsilon_t, \qquad
        \log q = \sum_t \log N(\epsilon_t; 0, I) - \sum_t \sum_j \log \sigma_{tj}

    A subclass writes :meth:`steps`. The latents are real vectors, all in the data plate, in the order in which the
    model draws them; of the datum the steps know the encoder's output. Draws can be scored again, so that
    ``gradient="stl"`` and ``"dreg"`` work.
    """

    @abstractmethod
    def steps(self, context: Tensor) -> Steps:
        """Yield each vector's location and log-scale, ``(*batch, L)``; the ``yield`` returns the vector drawn.

        Args:
            context: The encoder's output, ``(B, width)``.
        """

    @property
    @abstractmethod
    def parts(self) -> Sequence[nn.Module]:
        """The modules that the steps read, the model's included."""

    def build(self, space: LatentSpace) -> None:
        """Nothing: the model says all sizes, so that the parameters exist from the start."""

    @property
    def noise_dim(self) -> int:
        return self.space.dim

    def propose(self, target: Target, noise: Tensor) -> Proposal:
        assert target.context is not None, "the guide has an encoder"
        steps, drawn, log_q, at = self.steps(target.context), [], [], 0
        vector = None
        with suppress(StopIteration):
            while True:
                loc, log_scale = steps.send(vector)  # type: ignore[arg-type]  # the first is sent nothing
                at, start = at + loc.shape[-1], at
                own = noise[..., start:at]
                vector = loc + log_scale.exp() * own
                log_q.append(log_standard_normal(own) - log_scale.sum(-1))
                drawn.append(vector)
        # The steps are those of the latents themselves, in whatever units the guides above work.
        return self._by_site(self.whitening.inverse(torch.cat(drawn, -1)), torch.stack(log_q, -1))

    def rescore(self, target: Target, latent: Tensor) -> Proposal:
        assert target.context is not None, "the guide has an encoder"
        context = target.context.detach()
        held = _Held(self.parts, lambda: self._log_densities(context, self.whitening(latent)))
        log_q = torch.func.functional_call(held, {name: p.detach() for name, p in held.named_parameters()})
        return self._by_site(latent, log_q)

    def _log_densities(self, context: Tensor, latent: Tensor) -> Tensor:
        """The log density of each of given latents ``(*batch, D)``, given those before it."""
        steps, at = self.steps(context), 0
        log_q: list[Tensor] = []
        vector = None
        with suppress(StopIteration):
            while True:
                loc, log_scale = steps.send(vector)  # type: ignore[arg-type]
                at, start = at + loc.shape[-1], at
                vector = latent[..., start:at]
                log_q.append(log_standard_normal((vector - loc) * (-log_scale).exp()) - log_scale.sum(-1))
        return torch.stack(log_q, -1)


class _Held(nn.Module):
    """A function of some modules, as a module of its own: its parameters can be held fixed for one call."""

    def __init__(self, parts: Sequence[nn.Module], function: Callable[[], Tensor]) -> None:
        super().__init__()
        self.parts, self.function = nn.ModuleList(parts), function

    def forward(self) -> Tensor:
        return self.function()
