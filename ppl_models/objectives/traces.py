"""Runs of a guide, and of a model on what it drew."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites, site_is_subsample

from guides.plates import check_same_size, depth

__all__ = ["PARTICLES", "paired_traces", "plate_nesting", "sites_of", "vectorised_plates"]

#: The name of the plate of particles.
PARTICLES = "num_particles_vectorized"


def paired_traces(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Any,
    kwargs: Any,
    num_particles: int | None = None,
    max_plate_nesting: int = 0,
    around_guide: Iterable[Messenger] = (),
) -> tuple[Trace, Trace]:
    """Run the guide, and the model on what it drew, once or on a batch of particles: traces of model and guide."""
    particles: AbstractContextManager[Any] = nullcontext()
    if num_particles is not None:
        particles = pyro.plate(PARTICLES, num_particles, dim=-max_plate_nesting - 1)
    with ExitStack() as stack:
        for handler in around_guide:
            stack.enter_context(handler)
        with particles:
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    with particles:
        replayed = _SamePlates(guide_trace)(poutine.replay(model, trace=guide_trace))
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


def plate_nesting(model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any) -> int:
    """Count the batch dimensions that one run of a model and guide takes."""
    with torch.no_grad(), torch.random.fork_rng(), poutine.block():
        sites = sites_of(*paired_traces(model, guide, args, kwargs))
    return max(
        [len(site["fn"].batch_shape) for site in sites] + [depth(frame) for frame in vectorised_plates(sites)],
        default=0,
    )


def sites_of(*traces: Trace) -> list[Any]:
    """The sites that have a log density."""
    sites: list[Any] = [site for trace in traces for site in trace.nodes.values() if site["type"] == "sample"]
    return [site for site in sites if not site["infer"].get("_deterministic", False)]


def vectorised_plates(sites: Iterable[Any]) -> list[CondIndepStackFrame]:
    """The plates of sites, those that are loops left out."""
    return [frame for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]


class _SamePlates(Messenger):
    """Sees, before a model uses a latent, that it stands in plates of the sizes that it has in the guide."""

    def __init__(self, guide_trace: Trace) -> None:
        super().__init__()
        self.nodes = guide_trace.nodes

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.nodes and not site_is_subsample(msg):
            check_same_size(msg["name"], msg["cond_indep_stack"], self.nodes[msg["name"]]["cond_indep_stack"])
