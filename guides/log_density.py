"""Runs of a model that no outer handler sees: its log density at given latents, and the indices its plates draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from guides.errors import ModelError
from guides.plates import active_minibatches, depth, full_size, sum_to

if TYPE_CHECKING:
    from guides.latent_space import LatentSpace

__all__ = ["FirstIndices", "Indices", "LogDensity", "is_random"]


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


class FirstIndices(Messenger):
    """Runs a model up to the making of one plate, for the indices it draws."""

    class Found(Exception):  # noqa: N818  (a signal, not an error)
        """Raised where the plate has drawn its indices."""

    def __init__(self, plate: str) -> None:
        super().__init__()
        self.plate = plate
        self.found: Indices | None = None

    def _pyro_sample(self, msg: Any) -> None:
        msg["stop"] = True

    def _pyro_param(self, msg: Any) -> None:
        msg["stop"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["name"] == self.plate:
            self.found = Indices.of(msg)
            raise self.Found


class LogDensity(Messenger):
    """Sums a model's log density at given latents: no Trace is made, and no outer handler sees the run."""

    def __init__(
        self, space: LatentSpace, latents: Mapping[str, Tensor], indices: dict[str, Indices], left: Mapping[int, int]
    ) -> None:
        super().__init__()
        self.space, self.latents, self.indices = space, latents, indices
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
            msg["stop"] = True
            return
        for minibatch in active_minibatches():
            minibatch._pyro_sample(msg)
        msg["stop"] = True
        if not is_random(msg):
            return
        log_det: Any = None
        if not msg["is_observed"]:
            if name not in self.sites:
                raise ModelError(
                    f"the model must have the same latents in every run; got a new one, {name!r}. Was the guide set up "
                    "with data and called without them?"
                )
            msg["value"], log_det = self.sites[name].constrain(self.latents[name])
            msg["done"] = True
        log_prob = scale_and_mask(msg["fn"].log_prob(msg["value"]), self._scale(msg), msg["mask"])
        self._add(log_prob)
        if log_det is not None:
            self._add(log_det)

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self.indices[msg["name"]] = Indices.of(msg)

    def _pyro_param(self, msg: Any) -> None:
        msg["stop"] = True

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
