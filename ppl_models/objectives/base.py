"""Objective: a reduction of log-weights that fits wherever Pyro takes an ELBO."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO as PyroELBO
from torch import Tensor

from guides.errors import OptionError
from ppl_models.objectives.log_weights import LogWeights, log_weights, plate_nesting

__all__ = ["Objective"]


class Objective(PyroELBO):
    """A lower bound on the log evidence, made of log-weights; a subclass writes :meth:`bound`.

    Goes into ``pyro.infer.SVI(model, guide, optim, loss=objective)``; ``objective(model, guide)`` is a module whose
    ``forward(*args)`` returns the loss, minus the bound, with its graph.

    Args:
        num_particles: Number of draws from the guide.
        vectorize_particles: Whether to make them in one batched run. Models that cannot be batched need ``False``.
        max_plate_nesting: How many dimensions the plates of model and guide take; found by a run of both if not given.
    """

    def __init__(
        self, *, num_particles: int = 1, vectorize_particles: bool = True, max_plate_nesting: int | None = None
    ) -> None:
        if isinstance(num_particles, bool) or not isinstance(num_particles, int) or num_particles < 1:
            raise OptionError(f"num_particles must be a whole number of at least 1; got {num_particles}.")
        super().__init__(num_particles=num_particles, vectorize_particles=vectorize_particles)
        self._nesting = max_plate_nesting
        self._found: tuple[int, int, int] | None = None

    @abstractmethod
    def bound(self, values: Tensor) -> Tensor:
        """Reduce log-weights ``(particles, *plates)`` to a bound on each log evidence, ``(*plates,)``."""

    def log_weights(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> LogWeights:
        """Draw this objective's particles; see :func:`ppl_models.objectives.log_weights`."""
        nesting = self._nesting
        if nesting is None and self.vectorize_particles and self.num_particles > 1:
            # Found once per pair. (Should ids be reused, a nesting too small raises, and one too large is harmless.)
            if self._found is None or self._found[:2] != (id(model), id(guide)):
                self._found = (id(model), id(guide), plate_nesting(model, guide, args, kwargs))
            nesting = self._found[2]
        return log_weights(
            model,
            guide,
            *args,
            num_particles=self.num_particles,
            vectorize_particles=self.vectorize_particles,
            max_plate_nesting=nesting,
            **kwargs,
        )

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Minus the bound, summed over data and scaled by N / B for a minibatch, with its graph."""
        weights = self.log_weights(model, guide, *args, **kwargs)
        return -weights.scale * self.bound(weights.values).sum()

    @torch.no_grad()
    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """Minus the bound, as a number."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """Minus the bound, as a number, its gradient added to the parameters': what ``SVI.step`` calls."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError("objectives are made of log-weights, not of traces: call log_weights().")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_particles={self.num_particles})"
