"""Scoring draws again with the guide's parameters held fixed, for gradients without a score term."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.util import detach
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from guides.errors import ModelError
from guides.noise import draw_share, is_point
from guides.target import Proposal
from guides.whitening import Law

__all__ = ["Rescoring", "active_rescoring", "fixed_log_density", "rescored"]


class Rescoring(Messenger):
    r"""Run a guide so that its parameters act through the values that it draws, and not through their density.

    Every value keeps its graph, and its :math:`\log q` is that of the same law with its parameters held fixed. Guides
    of this library do so where their law is normal; of others, sites that can be reparametrised and do not depend on
    each other's values. Stands outside the particles.

    Args:
        weighted: Whether the gradient that comes back through the values is multiplied by :attr:`weights`, which
            must have been set when it comes.
    """

    def __init__(self, *, weighted: bool) -> None:
        super().__init__()
        self.weighted = weighted
        #: Shape ``(particles, *independent plates)``.
        self.weights: Tensor | None = None
        #: The position of each of its dimensions among the batch dimensions, counted from the right, from 1.
        self.depths: tuple[int, ...] = ()
        self._drawn: list[Tensor] = []
        self._looking = False

    def follow(self, value: Tensor, event_dim: int | None = None) -> Tensor:
        """Weigh the gradient that comes back through a value.

        Args:
            value: Shape ``(*batch, *event)``, or, without ``event_dim``, one vector ``(particles, ..., D)`` each.
            event_dim: How many dimensions are the event's.
        """
        if not (self.weighted and value.requires_grad):
            return value
        value = value.view_as(value)

        def weigh(gradient: Tensor) -> Tensor:
            if self._looking:
                return gradient
            weights = self.weights
            assert weights is not None, "the weights are known once the draws are weighed"
            if event_dim is None:
                return gradient * weights.reshape(weights.shape + (1,) * (gradient.dim() - weights.dim()))
            sizes = dict(zip(self.depths, weights.shape, strict=True))
            batch = [sizes.get(dim, 1) for dim in range(max(sizes, default=0), 0, -1)]
            return gradient * weights.reshape(batch + [1] * event_dim)

        value.register_hook(weigh)
        return value

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or is_point(msg["fn"]):
            return
        fn = msg["fn"]
        if not fn.has_rsample:
            raise ModelError(
                f"a gradient without score terms needs guide sites that can be reparametrised; got {msg['name']!r} "
                f"({type(fn).__name__}). Write gradient='reparam'."
            )
        fixed = detach(fn)
        self._check_independent(msg["name"], fn)
        draw_share(msg)
        value = msg["value"] if msg["done"] else fn.rsample()
        value = self.follow(value, fn.event_dim)
        self._drawn.append(value)
        msg["fn"], msg["value"], msg["done"] = fixed, value, True

    def _check_independent(self, name: str, fn: Any) -> None:
        """See that no parameter of a site's law was made from values drawn before."""
        upstream = [value for value in self._drawn if value.requires_grad]
        if not upstream:
            return
        with torch.enable_grad():
            parameters = [p for p in _tensors(fn) if p.requires_grad]
            if not parameters:
                return
            total = torch.stack([p.sum() for p in parameters]).sum()
            self._looking = True
            found = torch.autograd.grad(total, upstream, retain_graph=True, allow_unused=True)
            self._looking = False
        if any(gradient is not None for gradient in found):
            raise ModelError(
                f"a gradient without score terms needs guide sites that do not depend on each other's values; got "
                f"{name!r}, which does. Use gradient='reparam', or a MeanFieldGuide or FullRankGuide."
            )


def active_rescoring() -> Rescoring | None:
    """The rescoring that is asked for, if there is one."""
    found = [handler for handler in _PYRO_STACK if isinstance(handler, Rescoring)]
    return found[-1] if found else None


def fixed_log_density(law: Law, latent: Tensor) -> Tensor:
    """The log density of vectors ``(*batch, D)`` under a law whose parameters are held fixed."""
    log_q: Tensor = detach(law).log_prob(latent)
    return log_q if law.event_shape else log_q.sum(-1)


def rescored(proposal: Proposal, score: Callable[[Tensor], Proposal | None], *, name: str) -> Proposal:
    """Score a proposal again, by a function that holds the guide's parameters fixed.

    Raises:
        ModelError: If the function gives nothing.
    """
    rescoring = active_rescoring()
    assert rescoring is not None, "asked for by the caller"
    latent = rescoring.follow(proposal.latent)
    scored = score(latent)
    if scored is None:
        raise ModelError(
            f"a gradient without score terms needs a guide that can score its draws again; {name} cannot. "
            "MeanFieldGuide, FullRankGuide, LadderGuide and DRAWGuide can, alone or in a GuideList, and Pyro guides "
            "whose sites can be reparametrised and do not depend on each other; or write gradient='reparam'."
        )
    return scored


def _tensors(fn: Any) -> list[Tensor]:
    """The tensors that a distribution is made from."""
    found, seen, stack = [], set(), [fn]
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, (list, tuple)):
            stack += part
        elif isinstance(part, dict):
            stack += part.values()
        elif isinstance(part, torch.distributions.Distribution | torch.distributions.Transform):
            stack += vars(part).values()
    return found
