"""Draws by site and element, as plots take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from torch import Tensor

from guides.errors import DataError, OptionError
from ppl_models.diagnostics.draws import are_chains

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Element", "elements"]

#: The fewest draws whose density is worth drawing.
FEWEST_DRAWS = 25


@dataclass(frozen=True)
class Element:
    """One number of a site.

    Args:
        label: What it is called, like ``theta[3]``.
        guide: Its draws, ``(S,)``.
        reference: Those that it is held against, ``(R,)``, or none.
    """

    label: str
    guide: np.ndarray
    reference: np.ndarray | None


def elements(
    posterior: Any, reference: Any, var_names: Sequence[str] | None, *, most: int, option: str, caller: str
) -> list[Element]:
    """Choose the numbers to draw.

    Args:
        posterior: InferenceData or a DataTree with the group ``posterior``, or draws by site, ``(S, *shape)``.
        reference: Likewise, of the same sites and shapes; or ``None``.
        var_names: Sites (``"theta"``) or single elements (``"theta[3]"``), in the order of drawing; all by default.
        most: How many may be drawn.
        option: The option that raises that.
        caller: Who asks, for errors.

    Raises:
        DataError: If draws are too few, not finite or of other sites or shapes than the reference's.
        OptionError: If a name is unknown, or there are more than ``most``.
    """
    own, labels = _draws(posterior, "posterior")
    other = None if reference is None else _draws(reference, "reference")[0]
    found: dict[str, tuple[str, int]] = {}
    for site, names in labels.items():
        found |= {label: (site, i) for i, label in enumerate(names)}
    chosen = list(found) if var_names is None else _chosen(var_names, labels)
    if len(chosen) > most:
        raise OptionError(
            f"{caller} draws at most {most} numbers; got {len(chosen)} ({', '.join(chosen[:3])}, ...). Choose some "
            f"with var_names=[{chosen[0]!r}, {chosen[1]!r}], or raise {option}."
        )
    sites = dict.fromkeys(found[label][0] for label in chosen)
    for site in sites:
        if other is not None and site not in other:
            raise DataError(f"reference must hold draws of {site!r}; got {', '.join(map(repr, other))}.")
        if other is not None and other[site].shape[1] != own[site].shape[1]:
            raise DataError(
                f"reference[{site!r}] must hold {own[site].shape[1]} numbers per draw, as the posterior does; got "
                f"{other[site].shape[1]}."
            )
    return [
        Element(label, own[site][:, i], None if other is None else other[site][:, i])
        for label, (site, i) in ((label, found[label]) for label in chosen)
    ]


def _chosen(var_names: Sequence[str], labels: Mapping[str, list[str]]) -> list[str]:
    if isinstance(var_names, str):
        raise TypeError(f"var_names must be a list of names; got {var_names!r}. Write var_names=[{var_names!r}].")
    every = {*labels, *(label for names in labels.values() for label in names)}
    chosen: list[str] = []
    for name in var_names:
        if name not in every:
            near = get_close_matches(str(name), sorted(every), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(f"var_names must name sites ({', '.join(labels)}) or elements; got {name!r}.{hint}")
        chosen += labels.get(name, [name])
    if not chosen:
        raise OptionError("var_names must name at least one site; got none.")
    return list(dict.fromkeys(chosen))


def _draws(source: Any, what: str) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """By site, draws ``(S, elements)`` and the elements' names."""
    import numpy as np

    values: dict[str, np.ndarray] = {}
    labels: dict[str, list[str]] = {}
    try:
        chains = are_chains(source)
    except TypeError:
        raise TypeError(
            f"{what} must be InferenceData with the group 'posterior', or draws by site; got {type(source).__name__}."
        ) from None
    held = source["posterior"] if chains else source
    for name in map(str, held):
        if chains:
            variable = held[name].transpose("chain", "draw", ...)
            shape = variable.shape[2:]
            values[name] = variable.values.reshape(-1, int(np.prod(shape)))
            coords = [variable.coords[dim].values if dim in variable.coords else None for dim in variable.dims[2:]]
        else:
            given = held[name].detach().cpu().numpy() if isinstance(held[name], Tensor) else np.asarray(held[name])
            if given.ndim == 0:
                raise DataError(f"{what}[{name!r}] must hold draws (S, ...); got a single number.")
            shape = given.shape[1:]
            values[name], coords = given.reshape(len(given), -1), [None] * len(shape)
        places = [
            [str(i if each is None else each[i]) for i, each in zip(index, coords, strict=True)]
            for index in np.ndindex(*shape)
        ]
        labels[name] = [f"{name}[{', '.join(place)}]" if place else name for place in places]
        if len(values[name]) < FEWEST_DRAWS:
            raise DataError(f"{what}[{name!r}] must hold at least {FEWEST_DRAWS} draws; got {len(values[name])}.")
        if not np.isfinite(values[name]).all():
            raise DataError(f"{what}[{name!r}] must be finite; got NaN or infinite draws.")
    if not values:
        raise DataError(f"{what} must hold draws of at least one site; got none.")
    return values, labels
