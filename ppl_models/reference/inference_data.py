"""inference_data: chains as ArviZ InferenceData, dimensions named after the model's plates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppl_models.labels import Labelled, contain, datasets, versions
from ppl_models.reference.chains import Chains, Settings
from ppl_models.reference.target import Target

if TYPE_CHECKING:
    from arviz import InferenceData

__all__ = ["inference_data"]


def inference_data(target: Target, chains: Chains, settings: Settings) -> InferenceData:
    """Write chains as ``posterior``, ``sample_stats`` and ``observed_data``, with what made them in ``attrs``."""
    draws = target.constrain(chains.vectors)
    posterior = {
        site.name: Labelled(
            draws[site.name], site.event_dim, {frame.dim: frame.name for frame in site.plates if frame.dim is not None}
        )
        for site in target.space.sites
    }
    stats = {name: torch.tensor(value) for name, value in chains.stats.items()}
    stats["tree_depth"] = stats["n_steps"].clamp(min=1).log2().floor().long() + 1
    groups = {
        "posterior": posterior,
        "sample_stats": {name: Labelled(value) for name, value in stats.items()},
        "observed_data": {
            name: Labelled(each.value, each.event_dim, each.plates) for name, each in target.observed.items()
        },
    }
    attrs = versions(chains.library, *["jax"] * (chains.library == "numpyro")) | {
        "seed": settings.seed,
        "num_warmup": settings.num_warmup,
        "target_accept": settings.target_accept,
    }
    return contain(datasets({name: group for name, group in groups.items() if group}), attrs=attrs)
