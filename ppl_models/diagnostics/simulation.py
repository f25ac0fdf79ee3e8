"""Replacement: data that a model has drawn, put where its arguments hold the observed ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from guides.errors import DataError, ModelError
from ppl_models.diagnostics.draws import is_factor
from ppl_models.objectives.traces import paired_traces, sites_of

__all__ = ["Replace", "Replacement"]

#: From the arguments and the simulated data, by observed site, to arguments that hold these.
Replace = Callable[[tuple[Any, ...], dict[str, Tensor]], tuple[Any, ...]]

_INSTEAD = "Write replace=lambda args, data: (...), which gives the arguments that hold data[site]."


class Replacement:
    """Find where a model's arguments hold its data, and put others there.

    A site's data are the one argument that is the observed value, or has the same entries. Guides read arguments, not
    sites, which is why simulated data must become arguments: whatever else the model and guide are given is kept.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide of it.
        args: Arguments of both.
        replace: What is to be called instead.

    Raises:
        ModelError: If the model cannot draw its data, or the guide leaves out a latent.
        DataError: If the data are not found among the arguments.
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], replace: Replace | None
    ) -> None:
        with torch.no_grad(), poutine.block():
            trace, guide_trace = paired_traces(model, guide, args, {})
        sites = sites_of(trace)
        drawn = {site["name"] for site in sites_of(guide_trace)}
        for site in sites:
            if is_factor(site):
                raise ModelError(
                    f"the model must be able to draw its data; got a factor of its density, {site['name']!r}. Write "
                    "the factor as a distribution."
                )
            if not site["is_observed"] and site["name"] not in drawn:
                raise ModelError(f"the guide must draw every latent of the model; got none for {site['name']!r}.")
        self.model, self.replace = model, replace
        #: The data as they are observed, by site.
        self.observed = {site["name"]: torch.as_tensor(site["value"]) for site in sites if site["is_observed"]}
        if not self.observed:
            raise ModelError("the model must observe data; got none. Give them as its arguments.")
        self.positions = {} if replace is not None else _positions(self.observed, args)

    def __call__(self, args: tuple[Any, ...], data: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """Arguments like those given that hold simulated data, by observed site."""
        if self.replace is not None:
            return tuple(self.replace(args, dict(data)))
        new = list(args)
        for name, position in self.positions.items():
            like = args[position]
            new[position] = data[name].reshape(like.shape).to(like.dtype)
        return tuple(new)

    def check(self, args: tuple[Any, ...], data: Mapping[str, Tensor]) -> None:
        """See that with these arguments the model observes these data.

        Raises:
            ModelError: If a site's simulated data have another shape than its observed ones.
            DataError: If the model observes something else.
        """
        with torch.no_grad(), poutine.block():
            trace: Any = poutine.trace(self.model).get_trace(*args)
        for name, value in data.items():
            observed = torch.as_tensor(trace.nodes[name]["value"])
            if not (trace.nodes[name]["is_observed"] and _same(observed, value)):
                raise DataError(
                    f"with simulated data as its arguments, the model must observe them; site {name!r} does not. "
                    f"{_INSTEAD}"
                )

    def check_shapes(self, data: Mapping[str, Tensor]) -> None:
        """See that a model draws as many data as it observes.

        Raises:
            ModelError: If a site does not.
        """
        for name, value in self.observed.items():
            if data[name].numel() != value.numel():
                raise ModelError(
                    f"the model must draw as many data as it observes; of {name!r} it observes shape "
                    f"{tuple(value.shape)} and draws {tuple(data[name].shape)}. Give it one value for each."
                )


def _positions(observed: Mapping[str, Tensor], args: tuple[Any, ...]) -> dict[str, int]:
    """Which argument holds each site's data."""
    positions: dict[str, int] = {}
    for name, value in observed.items():
        found = [i for i, arg in enumerate(args) if arg is value]
        if len(found) != 1:
            found = [i for i, arg in enumerate(args) if isinstance(arg, Tensor) and _same(arg, value)]
        if len(found) != 1:
            raise DataError(
                f"the data of site {name!r} must be one of the arguments, to be replaced by simulated ones; got "
                f"{len(found)} that hold them. {_INSTEAD}"
            )
        if found[0] in positions.values():
            raise DataError(f"each site must have data of its own; argument {found[0]} is that of two. {_INSTEAD}")
        positions[name] = found[0]
    return positions


def _same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors have the same entries, whatever their type and layout."""
    return left.numel() == right.numel() and bool((left.reshape(-1) == right.reshape(-1).to(left.device)).all())
