"""Labelled values, and what ArviZ takes them in: InferenceData of ArviZ 0.x, or the DataTree of its 1.x packages."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from torch import Tensor

from guides.errors import DataError, OptionError, choose

if TYPE_CHECKING:
    import xarray as xr
    from arviz import InferenceData

__all__ = ["CONTAINERS", "Labelled", "contain", "datasets", "package_version", "versions"]

#: What results may be put in.
CONTAINERS = ("inference_data", "datatree")

#: The groups whose values are no draws.
DATA_GROUPS = ("observed_data", "constant_data")


@dataclass(frozen=True)
class Labelled:
    """The values of one site, and what their dimensions stand for.

    Args:
        value: Shape ``(num_chains, num_draws, *batch, *event)``, or ``(*batch, *event)`` for data.
        event_dim: How many dimensions are the event's.
        plates: The plates by the batch dimension that they stand in, counted from the right: -1, -2, ...
        event_names: Names of the event's dimensions, where they have some.
    """

    value: Tensor
    event_dim: int = 0
    plates: Mapping[int, str] = field(default_factory=dict)
    event_names: Sequence[str] = ()


def datasets(
    groups: Mapping[str, Mapping[str, Labelled]], *, coords: Mapping[str, Sequence[Any]] | None = None
) -> dict[str, xr.Dataset]:
    """Write groups of values as datasets, dimensions named after plates.

    A dimension is ``site_dim_0`` and so on where it is no plate's, where the plate has the name of a site, and where
    a value is broadcast along the plate, for one name has one length.

    Args:
        groups: By group and site.
        coords: What the places along a dimension are called, by its name; 0, 1, ... by default.

    Raises:
        OptionError: If ``coords`` names a dimension that there is not.
        DataError: If it has another length.
    """
    import numpy as np
    import xarray as xr

    taken = {name for sites in groups.values() for name in sites}
    names = {(group, site): _names(group, site, each, taken) for group, site, each in _each(groups)}
    lengths: dict[str, int] = {}
    for group, site, each in _each(groups):
        for name, size in zip(names[group, site], each.value.shape, strict=True):
            lengths[name] = max(size, lengths.get(name, 0))
    coords = {} if coords is None else coords
    for name, values in coords.items():
        if name not in lengths:
            raise OptionError(f"coords must name dimensions ({', '.join(lengths)}); got {name!r}.")
        if len(values) != lengths[name]:
            raise DataError(f"coords[{name!r}] must hold {lengths[name]} values; got {len(values)}.")
    found: dict[str, xr.Dataset] = {}
    for group, sites in groups.items():
        variables = {}
        for site, each in sites.items():
            own = _own_names(group, site, each)
            dims = [
                name if lengths[name] == size else own[i]
                for i, (name, size) in enumerate(zip(names[group, site], each.value.shape, strict=True))
            ]
            variables[site] = (dims, each.value.detach().cpu().numpy())
        sizes = {dim: size for dims, value in variables.values() for dim, size in zip(dims, value.shape, strict=True)}
        # A variable of the same name would be hidden by a coordinate.
        index = {dim: coords.get(dim, np.arange(size)) for dim, size in sizes.items() if dim not in taken}
        found[group] = xr.Dataset(variables, coords=index)
    return found


def contain(groups: Mapping[str, xr.Dataset], *, attrs: Mapping[str, Any], kind: str | None = None) -> InferenceData:
    """Put datasets, by group, into what ArviZ takes.

    Args:
        groups: By name.
        attrs: Written to the whole and to each group.
        kind: ``"inference_data"`` for ArviZ 0.x, ``"datatree"`` for its 1.x packages (``arviz-base``, ``arviz-stats``,
            ``arviz-plots``); what the ArviZ that is installed takes, if not given.

    Raises:
        OptionError: If ``kind`` is neither, or InferenceData are asked for without ArviZ 0.x.
    """
    import xarray as xr

    arviz = _version("arviz")
    legacy = arviz is not None and arviz.startswith("0.")
    kind = choose("container", kind, CONTAINERS) if kind is not None else CONTAINERS[0 if legacy else 1]
    labelled: dict[str, Any] = {name: dataset.assign_attrs(attrs) for name, dataset in groups.items()}
    if kind == "datatree":
        tree: Any = xr.DataTree.from_dict(labelled)
        tree.attrs.update(attrs)
        return tree
    if not legacy:
        raise OptionError(
            f"container='inference_data' needs ArviZ 0.x; got {arviz or 'none'}. Write container='datatree'."
        )
    import arviz as az

    return az.InferenceData(attrs=dict(attrs), **labelled)


def package_version() -> str:
    """The version of the installed package, or ``"unknown"`` for a checkout that was never installed."""
    return _version("ppl-models") or "unknown"


def versions(library: str, *others: str) -> dict[str, str]:
    """What made a result, and when: the library that drew it first."""
    made = {"created_at": datetime.now(UTC).isoformat(), "inference_library": library}
    named = {"inference_library": library} | {name.replace("-", "_"): name for name in ("pyro-ppl", "torch", *others)}
    found = {name: _version(each) for name, each in (named | {"ppl_models": "ppl-models"}).items()}
    made |= {f"{name}_version": each for name, each in found.items() if each is not None}
    return made | {"python_version": platform.python_version()}


def _version(library: str) -> str | None:
    """The installed version; a checkout that is not installed has none."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(library)
    return None


def _each(groups: Mapping[str, Mapping[str, Labelled]]) -> list[tuple[str, str, Labelled]]:
    return [(group, site, each) for group, sites in groups.items() for site, each in sites.items()]


def _own_names(group: str, site: str, each: Labelled) -> list[str]:
    sample = [] if group in DATA_GROUPS else ["chain", "draw"]
    own = [f"{site}_dim_{i}" for i in range(each.value.dim() - len(sample))]
    if each.event_names:
        own[len(own) - each.event_dim :] = each.event_names
    return [*sample, *own]


def _names(group: str, site: str, each: Labelled, taken: set[str]) -> list[str]:
    own = _own_names(group, site, each)
    first = 0 if group in DATA_GROUPS else 2
    named = own[:first] + [each.plates.get(i + each.event_dim - len(own), own[i]) for i in range(first, len(own))]
    return [
        name if name not in taken | {"chain", "draw"} and named.count(name) == 1 else own[i]
        for i, name in enumerate(named)
    ]
