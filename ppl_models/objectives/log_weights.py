"""Log-weights: the one tensor from which every objective is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor

from guides.errors import ModelError, whole_number
from guides.plates import check_same_size, check_shape, depth, full_size, sum_to

__all__ = ["LogWeights", "log_weights", "paired_traces", "plate_nesting"]


@dataclass(frozen=True)
class LogWeights:
    r"""Log-weights :math:`\log w = \log p(x, z) - \log q` of one call of a model and guide.

    Args:
        values: Shape ``(particles, *independent plates)``. A plate is independent if every site of model and guide
            stands inside it: its data have evidences of their own. All else is summed.
        scale: How often the independent data given stand for all data: N / B, or 1.
        subsampled: The names of plates that are subsampled but not independent: the values are then noisy, and
            unbiased only on the log scale.
    """

    values: Tensor
    scale: float
    subsampled: tuple[str, ...]


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
        ModelError: If a guide site cannot be reparametrised (unless gradients are switched off), or the guide's sites
            are not the model's latents.

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
        runs = [_weigh(*paired_traces(model, guide, args, kwargs), particle_dim=None) for _ in range(num_particles)]
        return LogWeights(torch.stack([run.values for run in runs]), runs[0].scale, runs[0].subsampled)
    if max_plate_nesting is None:
        max_plate_nesting = plate_nesting(model, guide, args, kwargs)
    traces = paired_traces(model, guide, args, kwargs, num_particles, max_plate_nesting)
    return _weigh(*traces, particle_dim=-max_plate_nesting - 1)


def plate_nesting(model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any) -> int:
    """Count the batch dimensions that one run of a model and guide takes."""
    with torch.no_grad(), torch.random.fork_rng(), poutine.block():
        traces = paired_traces(model, guide, args, kwargs)
    return max(
        [len(site["fn"].batch_shape) for site in _sites(*traces)] + [depth(frame) for frame in _frames(_sites(*traces))]
    )


def paired_traces(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Any,
    kwargs: Any,
    num_particles: int | None = None,
    max_plate_nesting: int = 0,
) -> tuple[Trace, Trace]:
    """Run the guide, and the model on what it drew, once or on a batch of particles: traces of model and guide."""
    particles: AbstractContextManager[Any] = nullcontext()
    if num_particles is not None:
        particles = pyro.plate("num_particles_vectorized", num_particles, dim=-max_plate_nesting - 1)
    with particles:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = _SamePlates(guide_trace)(poutine.replay(model, trace=guide_trace))
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


class _SamePlates(Messenger):
    """Sees, before a model uses a latent, that it stands in plates of the sizes that it has in the guide."""

    def __init__(self, guide_trace: Trace) -> None:
        super().__init__()
        self.nodes = guide_trace.nodes

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.nodes and not site_is_subsample(msg):
            check_same_size(msg["name"], msg["cond_indep_stack"], self.nodes[msg["name"]]["cond_indep_stack"])


def _sites(*traces: Trace) -> list[Any]:
    sites: list[Any] = [site for trace in traces for site in trace.nodes.values() if site["type"] == "sample"]
    return [site for site in sites if not site["infer"].get("_deterministic", False)]


def _frames(sites: Iterable[Any]) -> list[CondIndepStackFrame]:
    return [frame for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]


def _weigh(model_trace: Trace, guide_trace: Trace, particle_dim: int | None) -> LogWeights:
    sites = _sites(model_trace, guide_trace)
    _check_match(model_trace, guide_trace)
    for site in _sites(guide_trace):
        if torch.is_grad_enabled() and not site["is_observed"] and not site["fn"].has_rsample:
            raise ModelError(
                f"guide sites must be reparametrised; got {site['name']!r} ({type(site['fn']).__name__}). "
                "Use pyro.infer.TraceGraph_ELBO for this guide."
            )
    shared = set.intersection(*[{f for f in site["cond_indep_stack"] if f.vectorized} for site in sites])
    by_name = {frame.name: frame for frame in _frames(sites)}
    # The particles are the leftmost plate of all, so that their dimension comes first.
    kept = sorted((by_name[frame.name] for frame in shared), key=depth, reverse=True)
    independent = {frame.name: frame for frame in kept if frame.dim != particle_dim}
    subsampled = tuple(n for n, f in by_name.items() if n not in independent and full_size(f) != f.size)
    total: Any = 0.0
    dims = {depth(frame) for frame in kept}
    for site in _sites(model_trace):
        total = total + _log_prob(site, independent, dims)
    for site in _sites(guide_trace):
        total = total - _log_prob(site, independent, dims)
    scale = math.prod(full_size(frame) / frame.size for frame in independent.values())
    return LogWeights(total.expand([frame.size for frame in kept]), scale, subsampled)


def _check_match(model_trace: Trace, guide_trace: Trace) -> None:
    latent = {site["name"] for site in _sites(model_trace) if not site["is_observed"]}
    drawn = {s["name"] for s in _sites(guide_trace) if not s["is_observed"] and not s["infer"].get("is_auxiliary")}
    if latent != drawn:
        raise ModelError(
            f"a guide must draw the model's latents, {sorted(latent)}; got {sorted(drawn)}. Is it the guide of another "
            "model, or were model and guide exchanged?"
        )


def _log_prob(site: Any, independent: Collection[str], kept: set[int]) -> Tensor:
    """A site's log density, summed over all dimensions but those kept; scaled by all but the independent plates."""
    scale = site["scale"]
    for frame in site["cond_indep_stack"]:
        if frame.name in independent:
            scale = scale * frame.size / full_size(frame)
    log_prob: Tensor = site["fn"].log_prob(site["value"])
    check_shape(site["name"], log_prob.shape, site["cond_indep_stack"], ())
    return sum_to(scale_and_mask(log_prob, scale, site["mask"]), kept)
