"""Where a guide starts: the map that whitens the latents, from the prior, given values or the posterior itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from guides.errors import DataError, ModelError, OptionError, choose
from guides.laplace import laplace
from guides.latent_space import LatentSpace
from guides.log_density import Feasible, Indices
from guides.pathfinder import pathfinder
from guides.plates import outside_plates
from guides.whitening import Whitening

__all__ = ["Init", "set_start"]

LogDensity = Callable[[Tensor], Tensor]

#: What ``guide.setup(init=...)`` takes.
Init = str | Mapping[str, Tensor] | None

#: Functions from a log density and starting points to a normal approximation.
POSTERIOR = {"laplace": laplace, "pathfinder": pathfinder}

#: Number of prior draws that locate and scale the prior: the quantiles then have errors of a tenth of its sd.
PRIOR_DRAWS = 200

#: Where a guide starts in units of the prior: well inside it, as Pyro's autoguides do.
PRIOR_UNIT = 0.1

#: Number of starting points of the search for a mode: the origin, the prior's median, and draws of the prior.
STARTS = 8


def set_start(whitening: Whitening, space: LatentSpace, init: Init, args: Any, kwargs: Any) -> None:
    """Set a whitening as ``guide.setup(init=...)`` asks; see :meth:`guides.Guide.setup`.

    Raises:
        OptionError: If ``init`` is an unknown name, or asks for one posterior of an amortised space.
        DataError: If a given value has the wrong name, shape or support.
        ModelError: If no posterior mode can be found.
    """
    if init is None:
        return
    if not isinstance(init, str | Mapping):
        raise OptionError(f"init must be a name or a dictionary of values by site; got {init!r}.")
    if isinstance(init, str):
        choose("init", init, ["prior", *POSTERIOR])
    if init == "prior":
        low, median, high = _quantiles(prior_draws(space, args, kwargs))
        # A latent whose prior cannot be drawn, or overflows, keeps its own unit.
        spread = 0.5 * (high - low)
        spread = torch.where(spread.isfinite() & (spread > 0), spread, 1.0)
        whitening.start(torch.where(median.isfinite(), median, 0.0), spread, unit=PRIOR_UNIT)
        return
    if space.data_plate is not None:
        raise OptionError(
            f"with an encoder init must be 'prior' or None: every datum has a posterior of its own; got {init!r}."
        )
    if isinstance(init, Mapping):
        loc = _located(space, init)
        whitening.start(loc, torch.ones_like(loc), unit=PRIOR_UNIT)
        return
    draws = prior_draws(space, args, kwargs)
    median = _quantiles(draws)[1]
    starts = torch.stack([torch.zeros_like(median), median, *draws[: STARTS - 2]])

    def log_joint(vectors: Tensor) -> Tensor:
        indices: dict[str, Indices] = {}
        total = space.log_joint(vectors, *args, indices=indices, **kwargs)
        for plate, drawn in indices.items():
            if len(drawn.rows) < drawn.size:
                raise ModelError(
                    f"init={init!r} needs all data; the plate {plate!r} looks at {len(drawn.rows)} of {drawn.size}. "
                    "Call setup with arguments that give it all, or write init='prior'."
                )
        return total

    with pyro.validation_enabled(False):  # a search looks at points where distributions overflow
        found = POSTERIOR[init](log_joint if _broadcasts(log_joint, starts[:2]) else _by_row(log_joint), starts)
    whitening.start(found.loc, found.scale_tril, unit=1.0)


def _broadcasts(log_joint: LogDensity, starts: Tensor) -> bool:
    """Whether a model takes latents with more dimensions on the left, and keeps their rows apart."""
    with torch.no_grad():
        try:
            together = log_joint(starts)
        except (RuntimeError, ValueError, IndexError):
            return False
        return torch.allclose(together, _by_row(log_joint)(starts), rtol=1e-3, equal_nan=True)


def _by_row(log_joint: LogDensity) -> LogDensity:
    """Evaluate rows one at a time, for models such as ``x @ slope`` that take one vector only."""
    return lambda vectors: torch.stack([log_joint(row) for row in vectors])


def prior_draws(space: LatentSpace, args: Any, kwargs: Any) -> Tensor:
    """Draw unconstrained vectors from the prior, ``(num_draws, D)``; those of all data together if amortised."""
    draws: list[Tensor] = []
    while sum(map(len, draws)) < PRIOR_DRAWS:
        # The likelihood is not looked at, and may be out of its range here.
        with torch.no_grad(), outside_plates(), poutine.block(), pyro.validation_enabled(False):
            trace = poutine.trace(Feasible()(space.model)).get_trace(*args, **kwargs)
        values: dict[str, Tensor] = {site.name: trace.nodes[site.name]["value"] for site in space.sites}  # type: ignore[misc]
        draws.append(space.unconstrain(values).reshape(-1, space.dim))
    return torch.cat(draws)


def _quantiles(draws: Tensor) -> Tensor:
    """Of every coordinate: one standard deviation below the median, the median, one above."""
    ranks = (draws.new_tensor([0.1587, 0.5, 0.8413]) * (len(draws) - 1)).round().long()
    return draws.sort(0).values[ranks]


def _located(space: LatentSpace, values: Mapping[str, Tensor]) -> Tensor:
    """Check values by site, and map them to one vector."""
    names = [site.name for site in space.sites]
    if sorted(values) != sorted(names):
        raise DataError(f"init must give a value for each latent ({', '.join(names)}); got {', '.join(values)}.")
    checked = {}
    for site in space.sites:
        value = torch.as_tensor(values[site.name], dtype=space.dtype, device=space.device)
        shape = site.batch_shape + site.transform.forward_shape(site.unconstrained_shape)
        if value.shape != shape or not site.support.check(value).all():
            raise DataError(
                f"init must give {site.name!r} a value of shape {tuple(shape)} in its support, {site.support}; got "
                f"shape {tuple(value.shape)}" + (f" with value {value.tolist()}." if value.numel() < 10 else ".")
            )
        checked[site.name] = value
    loc = space.unconstrain(checked)
    if not loc.isfinite().all():
        at = space.site_at(int((~loc.isfinite()).nonzero()[0, 0])).name
        raise DataError(f"init must give {at!r} a value inside its support; got one on its edge.")
    return loc
