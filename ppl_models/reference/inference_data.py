"""inference_data: chains as ArviZ InferenceData, dimensions named after the model's plates."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ppl_models.reference.chains import Chains, Settings
from ppl_models.reference.target import Target

if TYPE_CHECKING:
    from arviz import InferenceData

__all__ = ["inference_data"]


def inference_data(target: Target, chains: Chains, settings: Settings) -> InferenceData:
    """Write chains as ``posterior``, ``sample_stats`` and ``observed_data``, with what made them in ``attrs``."""
    import arviz as az
    import numpy as np

    draws = {name: value.cpu().numpy() for name, value in target.constrain(chains.vectors).items()}
    taken = draws.keys() | target.observed.keys()
    dims = {}
    for site in target.space.sites:
        plates = {frame.dim: frame.name for frame in site.plates if frame.dim is not None}
        dims[site.name] = _dims(site.name, draws[site.name].shape[2:], site.event_dim, plates, taken)
    observed = {name: each.value.cpu().numpy() for name, each in target.observed.items()}
    for name, each in target.observed.items():
        dims[name] = _dims(name, observed[name].shape, each.event_dim, each.plates, taken)
    stats = chains.stats | {"tree_depth": np.floor(np.log2(np.maximum(chains.stats["n_steps"], 1))).astype(int) + 1}
    data = az.from_dict(
        posterior=draws, sample_stats=stats, observed_data=observed or None, dims=_agreed(dims, draws, observed)
    )
    attrs = _versions(chains.library) | {
        "seed": settings.seed,
        "num_warmup": settings.num_warmup,
        "target_accept": settings.target_accept,
    }
    data.attrs.update(attrs)
    for group in data.groups():
        data[group].attrs.update(attrs)
    return data


def _dims(name: str, shape: Any, event_dim: int, plates: Mapping[int, str], taken: Any) -> list[str]:
    """Name a site's dimensions; a plate that shares its name with a site gives none."""
    batch = len(shape) - event_dim
    own = [f"{name}_dim_{i}" for i in range(len(shape))]
    named = [plates.get(i - batch, own[i]) if i < batch else own[i] for i in range(len(shape))]
    return [each if each not in taken and named.count(each) == 1 else own[i] for i, each in enumerate(named)]


def _agreed(dims: dict[str, list[str]], draws: Mapping[str, Any], observed: Mapping[str, Any]) -> dict[str, list[str]]:
    """Leave a plate's name out where a value is broadcast along it: one name has one length."""
    shapes = {name: value.shape for name, value in observed.items()}
    shapes |= {name: value.shape[2:] for name, value in draws.items()}
    lengths: dict[str, int] = {}
    for name, names in dims.items():
        for each, size in zip(names, shapes[name], strict=True):
            lengths[each] = max(size, lengths.get(each, 0))
    return {
        name: [
            each if lengths[each] == size else f"{name}_dim_{i}"
            for i, (each, size) in enumerate(zip(names, shapes[name], strict=True))
        ]
        for name, names in dims.items()
    }


def _versions(sampler: str) -> dict[str, str]:
    versions = {"inference_library": sampler, "inference_library_version": metadata.version(sampler)}
    libraries = ["pyro-ppl", "torch"] + ["jax"] * (sampler == "numpyro") + ["ppl-models"]
    for library in libraries:
        with suppress(metadata.PackageNotFoundError):  # a checkout that is not installed has no version
            versions[f"{library.replace('-', '_')}_version"] = metadata.version(library)
    return versions | {"python_version": platform.python_version()}
