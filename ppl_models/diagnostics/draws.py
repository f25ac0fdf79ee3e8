"""Draws: what a guide draws, and what the model says of it, site by site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from guides.errors import ModelError
from guides.plates import depth, sum_to
from ppl_models.diagnostics.parts import parts_of
from ppl_models.objectives.log_weights import RECONSTRUCTION, weigh
from ppl_models.objectives.traces import PARTICLES, paired_traces, plate_nesting, sites_of

__all__ = ["Drawing", "Draws", "SiteShape", "are_chains", "is_factor"]


@dataclass(frozen=True)
class SiteShape:
    """How the values of a site are laid out.

    Args:
        event_dim: How many dimensions are the event's.
        plates: The plates by the batch dimension that they stand in, -1, -2, ...
        batch_dim: How many batch dimensions there are.
    """

    event_dim: int
    plates: Mapping[int, str]
    batch_dim: int


@dataclass(frozen=True)
class Draws:
    """Draws of a guide, weighed against the model.

    Args:
        latents: By latent, ``(S, *batch, *event)``.
        observed: By observed site, its data, ``(*batch, *event)``.
        predicted: By observed site, ``(S, *batch, *event)``: drawn anew given the latents; empty if not asked for.
        log_likelihood: By observed site, the log density of each datum, ``(S, *batch)``.
        log_p: The log joint of model and data, ``(S, *independent plates)``.
        log_q: The log density of the guide, or what stands for it, likewise.
        divergences: By latent, or by the names of those that are drawn as one vector, log q less the log prior.
        independent: The independent plates, from left to right.
    """

    latents: dict[str, Tensor]
    observed: dict[str, Tensor]
    predicted: dict[str, Tensor]
    log_likelihood: dict[str, Tensor]
    log_p: Tensor
    log_q: Tensor
    divergences: dict[str, Tensor]
    independent: tuple[str, ...]

    @property
    def log_weights(self) -> Tensor:
        """The log-weights ``(S, *independent plates)``."""
        return self.log_p - self.log_q


class Drawing:
    """Draws from a guide and from the model's prior, in batches.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide of it.
        args: Arguments of both.
        max_batch: The most draws times data in one batched run.
        vectorize_particles: Whether to draw in batched runs.
        caller: Who asks, for errors.

    Raises:
        DataError: If the model subsamples its data.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        max_batch: int,
        vectorize_particles: bool,
        caller: str,
    ) -> None:
        self.model, self.guide, self.args = model, guide, args
        data = sum(parts_of(model, guide, args, most=max_batch, caller=caller).sizes)
        self.nesting = plate_nesting(model, guide, args, {}) if vectorize_particles else None
        self.most = max(1, max_batch // data) if vectorize_particles else 1
        with poutine.block():
            trace, _ = paired_traces(model, guide, args, {})
        self.shapes = {site["name"]: _shape(site) for site in sites_of(trace) if not is_factor(site)}

    def posterior(self, num_samples: int, *, predict: bool = False) -> Draws:
        """Draw from the guide and, if asked, data given each draw."""
        runs = [self._run(size, predict) for size in self._batches(num_samples)]
        return Draws(
            latents=_joined([run.latents for run in runs]),
            observed=runs[0].observed,
            predicted=_joined([run.predicted for run in runs]),
            log_likelihood=_joined([run.log_likelihood for run in runs]),
            log_p=torch.cat([run.log_p for run in runs]),
            log_q=torch.cat([run.log_q for run in runs]),
            divergences=_joined([run.divergences for run in runs]),
            independent=runs[0].independent,
        )

    def at(self, args: tuple[Any, ...]) -> Drawing:
        """The same with other arguments, whose sites have the same shapes."""
        other = copy(self)
        other.args = args
        return other

    def prior(self, num_samples: int, *, instead: str = "") -> dict[str, Tensor]:
        """Draw every site from the prior, data included: ``(S, *batch, *event)`` each.

        Args:
            num_samples: S.
            instead: What to write instead, for the error.

        Raises:
            ModelError: If a latent has no law that can be drawn from.
        """
        runs = []
        for size in self._batches(num_samples):
            try:
                with poutine.block(), self._particles(size):
                    trace = poutine.trace(poutine.uncondition(self.model)).get_trace(*self.args)
            except NotImplementedError as error:
                raise ModelError(f"the prior cannot be drawn from: one of its laws is improper. {instead}") from error
            runs.append({name: self._laid_out(trace.nodes[name], size) for name in self.shapes})
        return _joined(runs)

    def given(
        self, latents: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None, *, generate: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run the model with its latents held at given values.

        Args:
            latents: Of every latent, ``(R, *batch, *event)``.
            observed: Data to score in place of the model's own, by observed site: ``(*batch, *event)``.
            generate: Whether data are drawn anew, one set for each of the R.

        Returns:
            By observed site, the data, ``(R, *batch, *event)``, and their log densities, ``(R, *batch)``.
        """
        num, start, values, scores = len(next(iter(latents.values()))), 0, [], []
        for size in self._batches(num):
            held = {name: self._placed(name, value[start : start + size]) for name, value in latents.items()}
            start += size
            if observed is not None:
                held |= {name: self._placed(name, value[None]) for name, value in observed.items()}
            free = observed is not None or generate
            model = poutine.condition(poutine.uncondition(self.model) if free else self.model, data=held)
            with poutine.block(), self._particles(size):
                trace = prune_subsample_sites(poutine.trace(model).get_trace(*self.args))
            found, log_probs = {}, {}
            for site in sites_of(trace):
                name = site["name"]
                if name in latents or is_factor(site):
                    continue
                shape = self.shapes[name]
                log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
                found[name] = self._laid_out(site, size)
                plain = SiteShape(0, shape.plates, shape.batch_dim)
                log_probs[name] = _lay_out(log_prob, plain, self.nesting, size)
            values.append(found)
            scores.append(log_probs)
        return _joined(values), _joined(scores)

    def _placed(self, name: str, value: Tensor) -> Tensor:
        """Lay out draws ``(size, *batch, *event)`` as the model has them among particles."""
        shape = self.shapes[name]
        if self.nesting is None:
            return value[0]
        own = value.shape[value.dim() - shape.event_dim - shape.batch_dim :]
        return value.reshape(len(value), *[1] * (self.nesting - shape.batch_dim), *own)

    def _batches(self, num_samples: int) -> list[int]:
        return [min(self.most, num_samples - start) for start in range(0, num_samples, self.most)]

    def _particles(self, size: int) -> AbstractContextManager[Any]:
        return nullcontext() if self.nesting is None else pyro.plate(PARTICLES, size, dim=-self.nesting - 1)

    def _run(self, size: int, predict: bool) -> Draws:
        nesting = self.nesting
        with poutine.block():
            particles = (size, nesting) if nesting is not None else ()
            model_trace, guide_trace = paired_traces(self.model, self.guide, self.args, {}, *particles)
        weights = weigh(model_trace, guide_trace, nesting=nesting)
        log_p = weights.values.new_zeros(weights.values.shape)
        latents, observed, log_likelihood = {}, {}, {}
        for site in sites_of(model_trace):
            log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
            log_p = log_p + sum_to(log_prob, weights.depths)
            if is_factor(site):
                continue
            name, shape = site["name"], self.shapes[site["name"]]
            if site["is_observed"]:
                observed[name] = self._laid_out(site, 1)[0]
                log_likelihood[name] = _lay_out(log_prob, SiteShape(0, shape.plates, shape.batch_dim), nesting, size)
            else:
                latents[name] = self._laid_out(site, size)
        predicted: dict[str, Tensor] = {}
        if predict:
            replayed = poutine.replay(poutine.uncondition(self.model), trace=guide_trace)
            with poutine.block(), self._particles(size):
                trace = poutine.trace(replayed).get_trace(*self.args)
            predicted = {name: self._laid_out(trace.nodes[name], size) for name in observed}
        log_q = log_p - weights.values
        names = {dim: name for shape in self.shapes.values() for dim, name in shape.plates.items()}
        independent = tuple(names[-dim] for dim in weights.depths if -dim in names)
        divergences = {name: -term for name, term in weights.terms.items() if name != RECONSTRUCTION}
        return Draws(latents, observed, predicted, log_likelihood, log_p, log_q, divergences, independent)

    def _laid_out(self, site: Any, size: int) -> Tensor:
        return _lay_out(torch.as_tensor(site["value"]), self.shapes[site["name"]], self.nesting, size)


def _lay_out(value: Tensor, shape: SiteShape, nesting: int | None, size: int) -> Tensor:
    """Bring draws of a site to ``(size, *batch, *event)``; those that the draws share are repeated."""
    split = value.dim() - shape.event_dim
    event = value.shape[split:]
    rank = shape.batch_dim if nesting is None else nesting + 1
    value = value.reshape((1,) * (rank - split) + value.shape)
    if nesting is None:
        return value[None]
    own = value.shape[rank - shape.batch_dim : rank]
    return value.expand(size, *value.shape[1:]).reshape(size, *own, *event)


def _shape(site: Any) -> SiteShape:
    plates = {-depth(frame): frame.name for frame in site["cond_indep_stack"] if frame.vectorized}
    return SiteShape(site["fn"].event_dim, plates, max([len(site["fn"].batch_shape), *(-dim for dim in plates)]))


def is_factor(site: Any) -> bool:
    """Whether a site is no datum, but a factor of the density (``pyro.factor``)."""
    fn = site["fn"]
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    return isinstance(fn, dist.Unit)


def _joined(runs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([run[name] for run in runs]) for name in runs[0]}


def are_chains(source: Any) -> bool:
    """Whether draws given by a user are those of chains, with a group ``posterior``, or else exact ones by site."""
    return "posterior" in source and not isinstance(source["posterior"], Tensor)
