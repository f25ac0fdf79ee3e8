"""Turning latent vectors into the sample sites of a Pyro guide."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.poutine.indep_messenger import CondIndepStackFrame, IndepMessenger
from torch import Tensor
from torch.distributions import register_kl

from guides.latent_site import LatentSite
from guides.latent_space import LatentSpace
from guides.plates import depth, left_shape

__all__ = ["Emitter"]


class _Point(dist.Delta):
    """A Delta whose log density counts in an analytic KL, where that of Pyro's own is left out."""


@register_kl(_Point, dist.Distribution)  # type: ignore[untyped-decorator]
def _kl_point(q: _Point, p: Any) -> Tensor:
    return q.log_density - p.log_prob(q.v)


class Emitter:
    """Turns latent vectors into the sample sites of one guide call."""

    def __init__(self, space: LatentSpace, plates: dict[str, IndepMessenger], left: dict[int, int]) -> None:
        self.space, self.plates, self.left = space, plates, left

    def vector(self, latent: Tensor, log_q: Tensor, name: str) -> dict[str, Tensor]:
        """Emit the whole vector as one auxiliary site that carries log q, and the model's sites as maps of it."""
        plate = self.space.data_plate
        shape = self._shape(latent)
        delta = _Point(latent.reshape(*shape, self.space.dim), log_q.reshape(shape), event_dim=1)
        names = [site.name for site in self.space.sites]
        with self._inside([plate] if plate is not None else []):
            pyro.sample(name, delta, infer=_auxiliary(names))
        unconstrained = self.space.split(latent, self.left)
        return {site.name: self._delta(site, unconstrained[site.name]) for site in self.space.sites}

    def sites(self, latent: Tensor, log_q: Tensor) -> dict[str, Tensor]:
        """Emit each of a datum's latents with a log q of its own, ``(*batch, sites)``."""
        unconstrained, shape = self.space.split(latent, self.left), self._shape(latent)
        return {
            site.name: self._delta(site, unconstrained[site.name], own.reshape(shape))
            for site, own in zip(self.space.sites, log_q.unbind(-1), strict=True)
        }

    def factors(self, normal: dist.Normal) -> dict[str, Tensor]:
        """Emit each site as its own independent normal, mapped to the site's support where that is not the reals."""
        locs, scales = self.space.split(normal.loc, self.left), self.space.split(normal.scale, self.left)
        values = {}
        for site in self.space.sites:
            fn = dist.Normal(locs[site.name], scales[site.name]).to_event(len(site.unconstrained_shape))
            with self._inside(site.plates):
                if site.is_real:
                    values[site.name] = pyro.sample(site.name, fn)
                    continue
                unconstrained = pyro.sample(f"{site.name}_unconstrained", fn, infer=_auxiliary([site.name]))
            values[site.name] = self._delta(site, unconstrained)
        return values

    def _shape(self, latent: Tensor) -> list[int]:
        """The batch shape of sites with one value per vector."""
        plate = self.space.data_plate
        right = [] if plate is None else [latent.shape[-2]] + [1] * (depth(plate) - 1)
        return [*left_shape(self.left, len(right)), *right]

    def _delta(self, site: LatentSite, unconstrained: Tensor, log_q: Tensor | float = 0.0) -> Tensor:
        value, log_det = site.constrain(unconstrained)
        with self._inside(site.plates):
            drawn: Tensor = pyro.sample(site.name, _Point(value, log_q - log_det, event_dim=site.event_dim))
        return drawn

    def _inside(self, frames: Iterable[CondIndepStackFrame]) -> ExitStack:
        with ExitStack() as stack:
            for frame in frames:
                stack.enter_context(self.plates[frame.name])
            return stack.pop_all()


def _auxiliary(latents: Iterable[str]) -> Any:
    """Mark a site as none of the model's, but what some of its latents are made from."""
    return {"is_auxiliary": True, "latents": tuple(latents)}
