"""Objective: a reduction of log-weights that fits wherever Pyro takes an ELBO."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import ELBO as PyroELBO
from pyro.infer.elbo import ELBOModule
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from guides.errors import whole_number
from ppl_models.objectives.log_weights import LogWeights, log_weights, paired_traces, plate_nesting

__all__ = ["Estimate", "Objective", "ObjectiveModule"]


@dataclass(frozen=True)
class Estimate:
    """What an objective says of one batch.

    Args:
        loss: A number with a graph. Its value is minus the bound, in nats, for all data; its gradient is that of the
            estimator, with whatever the objective weighs in training.
        parts: What the ELBO of the same draws is made of, without a graph: ``"reconstruction"``, the mean log
            likelihood, less a ``"kl[site]"`` for each latent.
    """

    loss: Tensor
    parts: dict[str, Tensor]


class ObjectiveModule(ELBOModule):
    """An objective of one model and guide, as a module: what optimizers, Lightning and DDP see."""

    elbo: Objective

    def estimate(self, *args: Any, **kwargs: Any) -> Estimate:
        """The loss and its parts, at a model's arguments."""
        return self.elbo.estimate(self.model, self.guide, *args, **kwargs)


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
        num_particles = whole_number("num_particles", num_particles, least=1)
        super().__init__(num_particles=num_particles, vectorize_particles=vectorize_particles)
        self._nesting = max_plate_nesting
        self._found: tuple[Any, int] | None = None

    @abstractmethod
    def bound(self, values: Tensor) -> Tensor:
        """Reduce log-weights ``(particles, *plates)`` to a bound on each log evidence, ``(*plates,)``."""

    def log_weights(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> LogWeights:
        """Draw this objective's particles; see :func:`ppl_models.objectives.log_weights`."""
        return log_weights(
            model,
            guide,
            *args,
            num_particles=self.num_particles,
            vectorize_particles=self.vectorize_particles,
            max_plate_nesting=self._nesting_of(model, guide, args, kwargs),
            **kwargs,
        )

    def traces(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> tuple[Trace, Trace]:
        """Run model and guide as the loss does (its first particle, if they are not batched), to look into."""
        nesting = self._nesting_of(model, guide, args, kwargs)
        if nesting is None:
            return paired_traces(model, guide, args, kwargs)
        return paired_traces(model, guide, args, kwargs, self.num_particles, nesting)

    def _nesting_of(self, model: Any, guide: Any, args: Any, kwargs: Any) -> int | None:
        if not self.vectorize_particles or self.num_particles == 1:
            return None
        if self._nesting is not None:
            return self._nesting
        # Found once per pair and kind of arguments: a model may have other plates for a summary than for all data.
        kinds = [(type(a), a.dim() if isinstance(a, Tensor) else 0) for a in (*args, *kwargs.values())]
        key = (id(model), id(guide), kinds, sorted(kwargs))
        if self._found is None or self._found[0] != key:
            self._found = (key, plate_nesting(model, guide, args, kwargs))
        return self._found[1]

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> ObjectiveModule:
        return ObjectiveModule(model, guide, self)  # type: ignore[arg-type]  # functions are as good as modules

    def set_progress(self, *, step: int, epoch: int) -> None:
        """Say how far training is: called before each step, for what changes on the way."""

    def estimate(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Estimate:
        """The loss of one batch, summed over data and scaled by N / B for a minibatch, and its parts."""
        weights = self.log_weights(model, guide, *args, **kwargs)
        return Estimate(-weights.scale * self.bound(weights.values).sum(), {})

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Minus the bound, summed over data and scaled by N / B for a minibatch, with its graph."""
        return self.estimate(model, guide, *args, **kwargs).loss

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
