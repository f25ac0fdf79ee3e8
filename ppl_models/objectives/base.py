"""Objective: a reduction of log-weights that fits wherever Pyro takes an ELBO."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from pyro.infer import ELBO as PyroELBO
from pyro.infer.elbo import ELBOModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from guides.errors import OptionError, choose, whole_number
from guides.noise import Share
from guides.plates import SameRows
from guides.rescoring import Rescoring
from ppl_models.objectives.chunks import Gradients, RandomState, slices, with_gradient_of
from ppl_models.objectives.kl_weights import KLWeights
from ppl_models.objectives.log_weights import RECONSTRUCTION, LogWeights, Score, total, weigh
from ppl_models.objectives.rows import draw_rows, has_rows, kind_of_rows, plate_of_rows
from ppl_models.objectives.traces import PARTICLES, paired_traces, plate_nesting

__all__ = ["Estimate", "Objective", "ObjectiveModule"]

Callables = Callable[..., Any]


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

    def __init__(self, model: Any, guide: Any, objective: Objective) -> None:
        super().__init__(model, guide, objective)
        self.kl = objective.kl

    def estimate(self, *args: Any, **kwargs: Any) -> Estimate:
        """The loss and its parts, at a model's arguments."""
        return self.elbo.estimate(self.model, self.guide, *args, **kwargs)


class Objective(PyroELBO):
    r"""A lower bound on the log evidence, made of log-weights.

    A subclass writes :meth:`bound` and its derivative, :meth:`shares`. An objective goes into
    ``pyro.infer.SVI(model, guide, optim, loss=objective)``; ``objective(model, guide)`` is a module whose
    ``forward(*args)`` returns the loss, minus the bound, with its graph. The value of a loss is always minus the bound
    itself; estimators and weights change its gradient.

    Gradients of guide sites that cannot be reparametrised are score-function ones, with the mean over the other
    particles as a baseline: with one particle there is none.

    Args:
        num_particles: Number of draws from the guide.
        vectorize_particles: Whether to make them in one batched run. Models that cannot be batched need ``False``.
        max_plate_nesting: How many dimensions the plates of model and guide take; found by a run of both if not given.
        gradient: Estimator of the guide's gradient; see the subclass.
        chunk_size: How many particles to hold in memory at once; all by default. The result is the same.
            Where each row of the data can be evaluated without the others, as with an encoder, chunks are of rows, all
            their particles at once: as many draws as ``chunk_size`` particles of all rows. That is found by trying, at
            the first batch of each kind. Else they are of particles: a first pass without a graph finds the weights, a
            second one the gradient. (Guides of this library and normal sites of others draw the same noise in chunks;
            other sites draw anew.)
        kl: How much the KL terms of the latents count in training; see :class:`~ppl_models.objectives.KLWeights`.
    """

    #: The names that ``gradient`` may have.
    gradients: ClassVar[tuple[str, ...]] = ("reparam",)

    def __init__(
        self,
        *,
        num_particles: int = 1,
        vectorize_particles: bool = True,
        max_plate_nesting: int | None = None,
        gradient: str = "reparam",
        chunk_size: int | None = None,
        kl: KLWeights | None = None,
    ) -> None:
        num_particles = whole_number("num_particles", num_particles, least=1)
        super().__init__(num_particles=num_particles, vectorize_particles=vectorize_particles)
        self._nesting = max_plate_nesting
        self._found: _Pair | None = None
        self.gradient = choose("gradient", gradient, self.gradients)
        self.chunk_size = None if chunk_size is None else whole_number("chunk_size", chunk_size, least=1)
        if kl is not None and not isinstance(kl, KLWeights):
            raise TypeError(f"kl must be KLWeights; got {kl!r}. Write kl=KLWeights(warmup=1000).")
        self.kl = kl

    # What a subclass writes.

    @abstractmethod
    def bound(self, values: Tensor) -> Tensor:
        """Reduce log-weights ``(particles, *plates)`` to a bound on each log evidence, ``(*plates,)``."""

    @abstractmethod
    def shares(self, values: Tensor) -> Tensor:
        """Give the derivative of the bound by each log-weight, ``(particles, *plates)``; they sum to 1."""

    def path_weights(self, shares: Tensor) -> Tensor:
        """What multiplies a doubly reparametrised gradient, beside the shares, on its way through the draws."""
        raise NotImplementedError(f"{type(self).__name__} has no doubly reparametrised gradient.")

    def signal(
        self, score: Score, values: Tensor, depths: tuple[int, ...], chosen: Mapping[str, Tensor] | None
    ) -> Tensor:
        """What a site's score is multiplied by, ``(particles, *batch)``: the bound, less what it is without a particle.

        Without one, its log-weight is the mean of the others'.
        """
        size, bound = len(values), self.bound(values)
        if size == 1:
            signal = bound[None]
        else:
            own = torch.eye(size, dtype=torch.bool, device=values.device).reshape(size, size, *[1] * bound.dim())
            others = torch.where(own, 0.0, values[:, None]).sum(0) / (size - 1)
            baseline = self.bound(torch.where(own, others, values[:, None]))
            # Where all others are impossible there is none.
            signal = bound - torch.where(baseline.isfinite(), baseline, 0.0)
        sizes = dict(zip(reversed(depths), reversed(bound.shape), strict=False))
        return signal.reshape(size, *[sizes.get(dim, 1) for dim in range(score.log_q.dim() - 1, 0, -1)])

    def check(self, weights: LogWeights) -> None:
        """Raise if log-weights of this kind would not give a bound."""

    # What users call.

    def __call__(self, model: Callables, guide: Callables) -> ObjectiveModule:
        return ObjectiveModule(model, guide, self)

    def set_progress(self, *, step: int, epoch: int) -> None:
        """Say how many steps and epochs are done: training calls it before each step, for what changes on the way."""
        if self.kl is not None:
            self.kl.set_progress(step=step, epoch=epoch)

    def log_weights(self, model: Callables, guide: Callables, *args: Any, **kwargs: Any) -> LogWeights:
        """Draw this objective's particles; see :func:`ppl_models.objectives.log_weights`."""
        return self._draw(model, guide, args, kwargs)[0]

    def estimate(self, model: Callables, guide: Callables, *args: Any, **kwargs: Any) -> Estimate:
        """The loss of one batch, summed over data and scaled by N / B for a minibatch, and its parts."""
        if self.chunk_size is not None and self.chunk_size < self.num_particles:
            return self._estimate_in_chunks(model, guide, args, kwargs)
        return self._estimate_of(*self._draw(model, guide, args, kwargs))

    def differentiable_loss(self, model: Callables, guide: Callables, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over data and scaled by N / B for a minibatch, with its graph."""
        return self.estimate(model, guide, *args, **kwargs).loss

    @torch.no_grad()
    def loss(self, model: Callables, guide: Callables, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, as a number."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Callables, guide: Callables, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, as a number, its gradient added to the parameters': what ``SVI.step`` calls.

        Raises:
            OptionError: If KL terms are warmed up by epochs, which are not known here.
        """
        if self.kl is not None and self.kl.warmup:
            if self.kl.per == "epoch":
                raise OptionError(
                    "a warm-up per epoch needs to be told the epoch; got a step of SVI. Write "
                    "KLWeights(per='step'), or train with fit or train."
                )
            self.set_progress(step=int(self.kl.next_step), epoch=0)
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def traces(self, model: Callables, guide: Callables, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
        """Run model and guide as the loss does (its first particle, if they are not batched), to look into."""
        nesting = self._nesting_of(model, guide, args, kwargs)
        return paired_traces(model, guide, args, kwargs, None if nesting is None else self.num_particles, nesting or 0)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_found": None}  # a copy has nothing to do with the model and guide seen last

    def __repr__(self) -> str:
        options = {"gradient": self.gradient, "chunk_size": self.chunk_size, "kl": self.kl} | self.options()
        shown = [f"{k}={v!r}" for k, v in options.items() if v not in (None, "reparam")]
        return f"{type(self).__name__}({', '.join([f'num_particles={self.num_particles}', *shown])})"

    def options(self) -> dict[str, Any]:
        """The subclass's own options, for the repr."""
        return {}

    # Inside.

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError("objectives are made of log-weights, not of traces: call log_weights().")

    def _nesting_of(self, model: Any, guide: Any, args: Any, kwargs: Any) -> int | None:
        if not self.vectorize_particles or self.num_particles == 1:
            return None
        if self._nesting is not None:
            return self._nesting
        pair = self._pair_of(model, guide, args, kwargs)
        if pair.nesting is None:
            pair.nesting = plate_nesting(model, guide, args, kwargs)
        return pair.nesting

    def _pair_of(self, model: Any, guide: Any, args: Any, kwargs: Any) -> _Pair:
        """What was found of this pair with this kind of arguments."""
        # A model may have other plates for a summary than for all data.
        kind, found = _kind((args, kwargs)), self._found
        if found is None or found.model is not model or found.guide is not guide or found.kind != kind:
            found = self._found = _Pair(model, guide, kind)
        return found

    def _draw(
        self,
        model: Any,
        guide: Any,
        args: Any,
        kwargs: Any,
        rows: slice | None = None,
        same_rows: SameRows | None = None,
    ) -> tuple[LogWeights, list[Rescoring]]:
        """Draw particles, all or some, and what follows each run's draws for their gradient."""
        start, size = (0, self.num_particles) if rows is None else (rows.start, rows.stop - rows.start)
        nesting = self._nesting_of(model, guide, args, kwargs)
        runs: list[LogWeights] = []
        rescorings: list[Rescoring] = []
        same_rows = SameRows() if same_rows is None else same_rows
        for _ in range(size if nesting is None else 1):
            around: list[Messenger] = []
            if self.gradient != "reparam" and torch.is_grad_enabled():
                rescorings.append(Rescoring(weighted=self.gradient == "dreg"))
                around.append(rescorings[-1])
            if nesting is not None and size < self.num_particles:
                around.append(Share(PARTICLES, size=self.num_particles, start=start))
            batched = None if nesting is None else size
            with same_rows:
                traces = paired_traces(model, guide, args, kwargs, batched, nesting or 0, around)
            runs.append(weigh(*traces, nesting=nesting))
        weights = LogWeights.stack(runs)
        self.check(weights)
        return weights, rescorings

    def _plan(self, weights: LogWeights) -> _Plan:
        """What a gradient is made of, found from the values alone."""
        with torch.no_grad():
            chosen = None if self.kl is None else self.kl(weights)
            values = weighted(weights.terms, chosen)
            shares = self.shares(values)
            path = self.path_weights(shares) if self.gradient == "dreg" else None
            signals = [self.signal(score, values, weights.depths, chosen) for score in weights.scores]
            return _Plan(chosen, shares, path, signals)

    def _trained(
        self, weights: LogWeights, rescorings: list[Rescoring], plan: _Plan, rows: slice = slice(None)
    ) -> Tensor:
        """A number whose gradient is that of the loss; of some of the particles, their part of it."""
        if plan.path is not None:
            path = plan.path[rows]
            # One run of all particles, which have a dimension, or one run each, in which they have none.
            of_runs = [path] if len(weights.depths) == path.dim() else path
            for rescoring, run in zip(rescorings, of_runs, strict=True):
                rescoring.weights, rescoring.depths = run, weights.depths
        trained = (plan.shares[rows] * weighted(weights.terms, plan.chosen)).sum()
        for score, signal in zip(weights.scores, plan.signals, strict=True):
            trained = trained + (score.log_q * signal[rows]).sum()
        return -weights.scale * trained

    def _estimate_of(self, weights: LogWeights, rescorings: list[Rescoring]) -> Estimate:
        loss = -weights.scale * self.bound(weights.values).sum()
        if torch.is_grad_enabled() and (self.kl is not None or weights.scores or self.gradient == "dreg"):
            loss = with_gradient_of(self._trained(weights, rescorings, self._plan(weights)), loss)
        return Estimate(loss, _parts(weights))

    def _estimate_in_chunks(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Estimate:
        assert self.chunk_size is not None, "asked for by the caller"
        pair = self._pair_of(model, guide, args, kwargs)
        # Free bits depend on the mean over all data; of two rows, each might be broadcast in the place of the other.
        if not has_rows(args, least=3) or (self.kl is not None and self.kl.free_bits):
            plate = None
        else:
            kind = kind_of_rows((model, guide), args, kwargs)
            if kind not in pair.plates:
                pair.plates[kind] = plate_of_rows(partial(self._draw, model, guide), (model, guide), args, kwargs)
            plate = pair.plates[kind]
        size = 0 if plate is None else len(args[0]) * self.chunk_size // self.num_particles
        if plate is None or size == 0:
            return self._estimate_by_particles(model, guide, args, kwargs)
        return self._estimate_by_data(model, guide, args, kwargs, plate, size)

    def _estimate_by_data(self, model: Any, guide: Any, args: Any, kwargs: Any, plate: str, size: int) -> Estimate:
        """Take so many rows of the data at once, with all their particles."""
        state, gradients = RandomState.capture(), Gradients()
        loss: Any = 0.0
        parts: dict[str, Any] = defaultdict(float)
        for rows in slices(len(args[0]), size):
            state.restore()
            estimate = self._estimate_of(*draw_rows(partial(self._draw, model, guide), args, kwargs, plate, rows))
            if torch.is_grad_enabled():
                gradients.add(estimate.loss)
            loss = loss + estimate.loss.detach()
            for name, part in estimate.parts.items():
                parts[name] = parts[name] + part
        return Estimate(gradients.put_into(loss), dict(parts))

    def _estimate_by_particles(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Estimate:
        """Take ``chunk_size`` particles at once: their weights are known when all have been drawn."""
        assert self.chunk_size is not None, "asked for by the caller"
        chunks = slices(self.num_particles, self.chunk_size)
        nesting = self._nesting_of(model, guide, args, kwargs)
        states: list[RandomState] = []
        runs: list[LogWeights] = []
        # Particles of one batched run share its noise out, its choice of data included; those of a loop come one after
        # the other, and look at the data that the first has chosen.
        same_rows = None if nesting is not None else SameRows()
        for rows in chunks:
            if states and nesting is not None:
                states[0].restore()
            states.append(RandomState.capture())
            with torch.no_grad():
                runs.append(self._draw(model, guide, args, kwargs, rows, same_rows)[0])
        weights = LogWeights.stack(runs)
        loss = -weights.scale * self.bound(weights.values).sum()
        gradients = Gradients()
        if torch.is_grad_enabled():
            plan = self._plan(weights)
            same_rows = None if nesting is not None else SameRows()
            for rows, state in zip(chunks, states, strict=True):
                state.restore()
                drawn = self._draw(model, guide, args, kwargs, rows, same_rows)
                gradients.add(self._trained(*drawn, plan, rows))
        return Estimate(gradients.put_into(loss), _parts(weights))


@dataclass
class _Pair:
    """What was found of a model and guide, with one kind of arguments.

    Args:
        model: The model.
        guide: The guide.
        kind: The kind of arguments.
        nesting: How many dimensions their plates take, once that is known.
        plates: The plate whose members are the rows of the arguments, if they can be taken without the others; by the
            kind of rows.
    """

    model: Any
    guide: Any
    kind: Any
    nesting: int | None = None
    plates: dict[Hashable, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Plan:
    """What a gradient is made of, without a graph.

    Args:
        chosen: The weight of each term; all 1 if ``None``.
        shares: The derivative of the bound by each log-weight, ``(particles, *plates)``.
        path: What multiplies a doubly reparametrised gradient, ``(particles, *plates)``.
        signals: What each score is multiplied by, ``(particles, *batch)`` each.
    """

    chosen: dict[str, Tensor] | None
    shares: Tensor
    path: Tensor | None
    signals: list[Tensor]


def _kind(value: Any) -> Any:
    """What of an argument may decide which plates a model has: dimensions and flags, but no number."""
    if isinstance(value, Tensor):
        return Tensor, value.dim()
    if isinstance(value, tuple | list):
        return [_kind(part) for part in value]
    if isinstance(value, Mapping):
        return [(key, _kind(part)) for key, part in value.items()]
    return value if isinstance(value, bool | str) else type(value)


def weighted(terms: Mapping[str, Tensor], chosen: Mapping[str, Tensor] | None) -> Tensor:
    """The sum of terms, each as often as chosen."""
    return total(terms if chosen is None else {name: chosen[name] * term for name, term in terms.items()})


def _parts(weights: LogWeights) -> dict[str, Tensor]:
    parts = {}
    for name, values in weights.terms.items():
        mean = weights.scale * values.detach().mean(0).sum()
        if name == RECONSTRUCTION:
            parts[name] = mean
        else:
            parts[f"kl[{name}]"] = -mean
    return parts
