"""Runs of a model that no outer handler sees: its log density at given latents, and the indices its plates draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import ImproperUniform
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from guides.bijections import bijection
from guides.errors import ModelError
from guides.plates import active_minibatches, active_rows, check_same_size, check_shape, depth, full_size, sum_to

if TYPE_CHECKING:
    from guides.latent_space import LatentSpace

__all__ = ["JUDGED", "Feasible", "FirstIndices", "Indices", "LogDensity", "check_unmasked", "is_random"]


#: Said where a force on latents that all data share would look at the minibatch that the bound is estimated with.
JUDGED = (
    "latents that all data share must not be moved by the density of the minibatch that they are judged by: the bound "
    "would be above the evidence. Give the guide all data, let the model draw its minibatch by "
    "plate(subsample_size=...), or use a guide without a force (mean-field, full-rank, planar, IAF)."
)


@dataclass(frozen=True)
class Indices:
    """Which rows a plate looks at.

    Args:
        size: The number of data the plate stands for.
        rows: The indices of those it looks at.
    """

    size: int
    rows: Tensor

    @classmethod
    def of(cls, msg: Any) -> Indices:
        """Read them from the subsample site of a plate."""
        return cls(msg["fn"].size, torch.as_tensor(msg["value"]))


class Feasible(Messenger):
    """Gives a value to latents whose law cannot be drawn from (``ImproperUniform``): one in their support."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_random(msg) and not msg["is_observed"] and isinstance(msg["fn"], ImproperUniform):
            fn, map_to = msg["fn"], bijection(msg["fn"].support)
            msg["value"] = map_to(torch.zeros(map_to.inverse_shape(fn.batch_shape + fn.event_shape)))
            msg["done"] = True


class FirstIndices(Messenger):
    """Runs a model up to the making of one plate, for the indices it draws."""

    class Found(Exception):  # noqa: N818  (a signal, not an error)
        """Raised where the plate has drawn its indices."""

    def __init__(self, plate: str, given: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.plate, self.given = plate, given
        self.found: Indices | None = None

    def _pyro_sample(self, msg: Any) -> None:
        msg["stop"] = True
        fixed = self.given.get(msg["name"]) if not site_is_subsample(msg) else active_rows(msg["name"])
        if fixed is not None and not msg["done"]:
            msg["value"], msg["done"] = fixed, True

    def _pyro_param(self, msg: Any) -> None:
        msg["stop"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["name"] == self.plate:
            self.found = Indices.of(msg)
            raise self.Found


class LogDensity(Messenger):
    """Sums a model's log density at given latents: no Trace is made, and no outer handler sees the run."""

    def __init__(
        self,
        space: LatentSpace,
        latents: Mapping[str, Tensor],
        indices: dict[str, Indices],
        left: Mapping[int, int],
        given: Mapping[str, Tensor],
        own_rows: bool,
    ) -> None:
        super().__init__()
        self.own_rows = own_rows
        self.space, self.latents, self.indices, self.given = space, latents, indices, given
        self.sites = {site.name: site for site in space.sites}
        self.kept = set(left)
        if space.data_plate is not None:
            self.kept.add(depth(space.data_plate))
        self.total: Any = 0.0

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if site_is_subsample(msg):
            if name in self.indices:
                msg["value"], msg["done"] = self.indices[name].rows, True
            elif self.own_rows and msg["value"] is not None and len(msg["value"]) < msg["fn"].size:
                raise ModelError(JUDGED)
            msg["stop"] = True
            return
        for minibatch in active_minibatches():
            minibatch._pyro_sample(msg)
        if self.own_rows and any(map(self._is_foreign, msg["cond_indep_stack"])):
            raise ModelError(JUDGED)
        msg["stop"] = True
        if not is_random(msg):
            return
        log_det: Any = None
        if name in self.sites and not msg["is_observed"]:
            check_unmasked(msg)
            check_same_size(name, msg["cond_indep_stack"], self._fixed_plates(name))
            msg["value"], log_det = self.sites[name].constrain(self.latents[name])
            msg["done"] = True
        elif not msg["is_observed"]:
            msg["value"], msg["done"] = self._given(name), True
        if self._is_shared(msg):
            return
        log_prob = msg["fn"].log_prob(msg["value"])
        check_shape(name, log_prob.shape, msg["cond_indep_stack"], self.kept)
        log_prob = scale_and_mask(log_prob, self._scale(msg), msg["mask"])
        self._add(log_prob)
        if log_det is not None:
            self._add(log_det)

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self.indices[msg["name"]] = Indices.of(msg)

    def _pyro_param(self, msg: Any) -> None:
        msg["stop"] = True

    def _is_foreign(self, frame: CondIndepStackFrame) -> bool:
        """Whether a plate stands for more data than it looks at, and did not draw these here."""
        drawn = self.indices.get(frame.name)
        return full_size(frame) != frame.size and (drawn is None or drawn.size != full_size(frame))

    def _fixed_plates(self, name: str) -> list[CondIndepStackFrame]:
        return [frame for frame in self.sites[name].plates if frame != self.space.data_plate]

    def _given(self, name: str) -> Tensor:
        if name in self.given:
            return self.given[name]
        if name in self.space.hidden:
            raise ModelError(
                f"a guide that looks at the model's density needs a value of the hidden latent {name!r}: in a "
                f"GuideList, put it after the guide that draws {name!r}."
            )
        raise ModelError(
            f"the model must have the same latents in every run; got a new one, {name!r}. Was the guide set up with "
            "data and called without them?"
        )

    def _is_shared(self, msg: Any) -> bool:
        """Whether a site is outside the data plate of an amortised space, and so no part of any datum's density."""
        plate = self.space.data_plate
        return plate is not None and all(frame.name != plate.name for frame in msg["cond_indep_stack"])

    def _scale(self, msg: Any) -> Any:
        """The site's scale, without the data plate's own N / B: every datum has its own log joint."""
        scale = msg["scale"]
        for frame in msg["cond_indep_stack"]:
            if self.space.data_plate is not None and frame.name == self.space.data_plate.name:
                scale = scale * frame.size / full_size(frame)
        return scale

    def _add(self, term: Tensor) -> None:
        self.total = self.total + sum_to(term, self.kept)


def is_random(site: Any) -> bool:
    """Whether a message or trace node has a log density: neither a subsample nor pyro.deterministic."""
    return site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic", False)


def check_unmasked(site: Any) -> None:
    """See that no part of a latent is masked.

    Raises:
        ModelError: If one is: where the mask is False the latent has no density, and any guide's bound no limit.
    """
    mask = site["mask"]
    if mask is not None and mask is not True and not torch.as_tensor(mask).all():
        raise ModelError(
            f"latent {site['name']!r} must not be masked: where the mask is False it has no density. Mask observed "
            "sites only, and in place of obs_mask= leave the missing values out of the data."
        )
