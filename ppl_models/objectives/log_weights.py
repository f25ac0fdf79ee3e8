"""Log-weights: the one tensor from which every objective is made."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from guides.errors import ModelError, whole_number
from guides.noise import is_point
from guides.plates import SameRows, check_shape, depth, full_size, sum_to
from ppl_models.objectives.traces import paired_traces, plate_nesting, sites_of, vectorised_plates

__all__ = ["RECONSTRUCTION", "LogWeights", "Score", "log_weights", "weigh"]

#: The name of the term that holds the log likelihood.
RECONSTRUCTION = "reconstruction"


@dataclass(frozen=True)
class Score:
    r"""A guide site that cannot be reparametrised, for a score-function gradient.

    Args:
        log_q: Its log density, unscaled: ``(particles, *batch)``.
        rewards: What its value may have an influence on, by term, ``(particles, *batch)`` each: of the log-weight, the
            parts in other members of its plates are left out, unless the guide draws a site outside the plate later.
    """

    log_q: Tensor
    rewards: dict[str, Tensor]


@dataclass(frozen=True)
class LogWeights:
    r"""Log-weights :math:`\log w = \log p(x, z) - \log q` of one call of a model and guide.

    Args:
        terms: What they are the sum of, ``(particles, *independent plates)`` each: ``"reconstruction"``, the log
            likelihood, and :math:`\log p - \log q` of each latent by its name, or by the names of those that a guide
            draws as one vector. A plate is independent if every site of model and guide stands inside it: its data
            have evidences of their own. All else is summed.
        scale: How often the independent data given stand for all data: N / B, or 1.
        subsampled: The names of plates that are subsampled but not independent, or a loop: the values are then noisy,
            and unbiased only on the log scale.
        members: How many members of plates that are not independent each term is summed over.
        depths: The position of each dimension among the batch dimensions, counted from the right, from 1.
        plates: The name of each dimension's plate.
        scores: The guide sites that cannot be reparametrised.
    """

    terms: dict[str, Tensor]
    scale: float
    subsampled: tuple[str, ...]
    members: Mapping[str, int]
    depths: tuple[int, ...] = ()
    plates: tuple[str, ...] = ()
    scores: tuple[Score, ...] = ()

    @cached_property
    def values(self) -> Tensor:
        """The log-weights, ``(particles, *independent plates)``."""
        return total(self.terms)

    @classmethod
    def stack(cls, runs: Sequence[LogWeights]) -> LogWeights:
        """Put runs of one particle, or of batches of them, one behind the other."""
        if len(runs) == 1:
            return runs[0]

        def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        first = runs[0]
        scores = [
            Score(torch.cat([score.log_q for score in same]), joined([score.rewards for score in same]))
            for same in zip(*[run.scores for run in runs], strict=True)
        ]
        return dataclasses.replace(first, terms=joined([run.terms for run in runs]), scores=tuple(scores))


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of terms."""
    first, *others = terms.values()
    for term in others:
        first = first + term
    return first


def log_weights(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_particles: int = 1,
    vectorize_particles: bool = True,
    max_plate_nesting: int | None = None,
    **kwargs: Any,
) -> LogWeights:
    r"""Draw particles from a guide and weigh them against the model.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide of it, ours or Pyro's.
        *args: Arguments of both.
        num_particles: Number of independent draws.
        vectorize_particles: Whether to draw them in one batched run. Models that cannot be batched need ``False``.
        max_plate_nesting: How many dimensions the plates of model and guide take; found by a run of both if not given.
        **kwargs: Keyword arguments of both.

    Raises:
        OptionError: If ``num_particles`` is less than 1.
        ModelError: If the guide's sites are not the model's latents, or ``max_plate_nesting`` is too small.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> x = torch.zeros(3)
        >>> log_weights(model, guide, x, num_particles=2).values  # exact guide: log p(x) whatever the draw
        tensor([[-1.2655, -1.2655, -1.2655],
                [-1.2655, -1.2655, -1.2655]])
    """
    whole_number("num_particles", num_particles, least=1)
    if num_particles == 1 or not vectorize_particles:
        with SameRows():
            runs = [weigh(*paired_traces(model, guide, args, kwargs), nesting=None) for _ in range(num_particles)]
        return LogWeights.stack(runs)
    if max_plate_nesting is None:
        max_plate_nesting = plate_nesting(model, guide, args, kwargs)
    traces = paired_traces(model, guide, args, kwargs, num_particles, max_plate_nesting)
    return weigh(*traces, nesting=max_plate_nesting)


def weigh(model_trace: Trace, guide_trace: Trace, *, nesting: int | None) -> LogWeights:
    """Weigh what a guide drew.

    Args:
        model_trace: The model's run on it.
        guide_trace: The guide's run.
        nesting: How many batch dimensions stand right of the particles; ``None`` if there is one particle, without a
            dimension.
    """
    sites = sites_of(model_trace, guide_trace)
    _check_match(model_trace, guide_trace)
    particle_dim = None if nesting is None else -nesting - 1
    shared = set.intersection(*[{f for f in site["cond_indep_stack"] if f.vectorized} for site in sites])
    by_name = {frame.name: frame for frame in vectorised_plates(sites)}
    # The particles are the leftmost plate of all, so that their dimension comes first.
    kept = sorted((by_name[frame.name] for frame in shared), key=depth, reverse=True)
    independent = {frame.name: frame for frame in kept if frame.dim != particle_dim}
    deepest = max(by_name.values(), key=depth, default=None)
    if nesting is not None and deepest is not None and depth(deepest) > nesting + 1:
        raise ModelError(
            f"max_plate_nesting must be the number of dimensions that all plates take; got {nesting}, and plate "
            f"{deepest.name!r} stands left of the particles."
        )
    loops = {frame.name: frame for site in sites for frame in site["cond_indep_stack"] if not frame.vectorized}
    noisy = [frame for name, frame in (by_name | loops).items() if name not in independent]
    subsampled = tuple(frame.name for frame in noisy if full_size(frame) != frame.size)
    depths, sizes = tuple(depth(frame) for frame in kept), [frame.size for frame in kept]

    names = _names_of_terms(model_trace, guide_trace)
    parts = [_Part.of(site, names, 1.0, independent) for site in sites_of(model_trace)]
    parts += [_Part.of(site, names, -1.0, independent) for site in sites_of(guide_trace)]
    terms: dict[str, Any] = {}
    for part in parts:
        reduced = sum_to(part.log_prob, depths)
        known = terms.get(part.name)
        terms[part.name] = part.sign * reduced if known is None else known + part.sign * reduced
    shape = sizes if nesting is not None else [1, *sizes]
    leading = () if nesting is not None else (None,)
    scores = []
    drawn = [site for site in sites_of(guide_trace) if not site["is_observed"]]
    for i, site in enumerate(drawn):
        if not site["fn"].has_rsample:
            scores.append(_score(site, drawn[i + 1 :], parts, leading))
    return LogWeights(
        {name: term.expand(shape) for name, term in terms.items()},
        math.prod(full_size(frame) / frame.size for frame in independent.values()),
        subsampled,
        {name: max(_members(part, kept) for part in parts if part.name == name) for name in terms},
        depths,
        tuple(frame.name for frame in kept),
        tuple(scores),
    )


@dataclass(frozen=True)
class _Part:
    """The log density of one site, with its sign in the log-weight and the term that it belongs to."""

    name: str
    sign: float
    log_prob: Tensor
    frames: frozenset[CondIndepStackFrame]

    @classmethod
    def of(cls, site: Any, names: Mapping[str, str], sign: float, independent: Mapping[str, Any]) -> _Part:
        """Take it unsummed; scaled by all but the independent plates."""
        scale = site["scale"]
        for frame in site["cond_indep_stack"]:
            if frame.name in independent:
                scale = scale * frame.size / full_size(frame)
        log_prob: Tensor = site["fn"].log_prob(site["value"])
        check_shape(site["name"], log_prob.shape, site["cond_indep_stack"], ())
        frames = frozenset(frame for frame in site["cond_indep_stack"] if frame.vectorized)
        name = names.get(site["name"], RECONSTRUCTION)
        return cls(name, sign, scale_and_mask(log_prob, scale, site["mask"]), frames)


def _members(part: _Part, kept: Sequence[CondIndepStackFrame]) -> int:
    return math.prod(full_size(frame) for frame in part.frames.difference(kept))


def _score(site: Any, later: Sequence[Any], parts: Sequence[_Part], leading: tuple[None, ...]) -> Score:
    frames = {frame for frame in site["cond_indep_stack"] if frame.vectorized}
    # Through what the guide draws later outside a plate, one member's value may reach the others.
    apart = frames.intersection(*[other["cond_indep_stack"] for other in later])
    size = max((depth(frame) for frame in frames), default=0)
    rewards: dict[str, Any] = defaultdict(float)
    for part in parts:
        kept = {depth(frame): frame.size for frame in part.frames & apart}
        reduced = sum_to(part.log_prob.detach(), kept).reshape([kept.get(dim, 1) for dim in range(size, 0, -1)])
        rewards[part.name] = rewards[part.name] + part.sign * reduced
    log_q = scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])
    shape = torch.broadcast_shapes(log_q.shape, *[reward.shape for reward in rewards.values()])
    return Score(
        log_q.expand(shape)[leading], {name: reward.expand(shape)[leading] for name, reward in rewards.items()}
    )


def _check_match(model_trace: Trace, guide_trace: Trace) -> None:
    latent = {site["name"] for site in sites_of(model_trace) if not site["is_observed"]}
    drawn = {s["name"] for s in sites_of(guide_trace) if not s["is_observed"] and not s["infer"].get("is_auxiliary")}
    if latent != drawn:
        raise ModelError(
            f"a guide must draw the model's latents, {sorted(latent)}; got {sorted(drawn)}. Is it the guide of another "
            "model, or were model and guide exchanged? Latents marked for enumeration must be drawn too."
        )


def _names_of_terms(model_trace: Trace, guide_trace: Trace) -> dict[str, str]:
    """Which term each site that is not data belongs to; latents that are drawn as one vector share theirs."""
    latents = [site["name"] for site in sites_of(model_trace) if not site["is_observed"]]
    drawn = sites_of(guide_trace)
    made = tuple(site["name"] for site in drawn if site["name"] in latents and is_point(site["fn"]))
    groups = {name: {name} for name in latents}
    auxiliary = {}
    for site in drawn:
        if site["name"] not in groups:
            # Ours say whose vector it is; from one of Pyro's, every latent that is a function may come.
            about = site["infer"].get("latents", made) or tuple(latents)
            auxiliary[site["name"]] = about[0]
            joint = set().union(*[groups[name] for name in about])
            for name in joint:
                groups[name] = joint
    labels = {name: ", ".join(other for other in latents if other in group) for name, group in groups.items()}
    return labels | {name: labels[latent] for name, latent in auxiliary.items()}
