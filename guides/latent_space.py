"""A Pyro model's latents as one unconstrained vector, and the log joint over it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import reduce
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from guides.bijections import bijection
from guides.errors import DataError, ModelError, OptionError
from guides.latent_site import LatentSite
from guides.log_density import Feasible, FirstIndices, Indices, LogDensity, check_unmasked, is_random
from guides.plates import depth, full_size, left_shape, outside_plates
from guides.supports import bounds_of

__all__ = ["LatentSpace", "Model"]

Model = Callable[..., Any]

_FIXED = (
    "Draw from a fixed support and map the value: u = pyro.sample('u', dist.Uniform(0, 1)), "
    "value = low + (high - low) * u."
)


class LatentSpace:
    r"""Present the continuous latents of a Pyro model as one unconstrained vector.

    The vector concatenates the sites in the model's order. A *global* space has one vector :math:`u` for the whole
    model; an *amortised* one has one vector per datum, and all latents must stand inside the data plate.

    Shapes: with particles :math:`(*S)` in front, latents are ``(*S, D)`` (global) or ``(*S, B, D)`` (amortised), where
    ``D`` is :attr:`dim` and ``B`` the number of data.

    Args:
        model: Any Pyro model.
        *args: Arguments of the model, for the one run that finds its sites.
        amortised: Whether there is one vector per datum.
        hide: Names of latents that are not in the vector: others give their values.
        expose: Names of the only latents that are in the vector.
        **kwargs: Keyword arguments of the model.

    Raises:
        OptionError: If ``hide`` and ``expose`` are given together, or name what is no latent, or leave none.
        ModelError: If the model has no latents, a discrete one, one without a bijection to its support or with bounds
            that depend on other latents, or, for an amortised space, a site outside the data plate or bounds that
            depend on the datum; for a global space, a latent inside a subsampled plate.
        DataError: If observed values are not finite.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(0.0, scale), obs=x)
        >>> space = LatentSpace(model, torch.ones(3))
        >>> space
        LatentSpace(dim=1, sites=[scale: () greaterthan(lower_bound=0.0)])
        >>> space.log_joint(torch.zeros(5, 1), torch.ones(3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        model: Model,
        *args: Any,
        amortised: bool = False,
        hide: Collection[str] | None = None,
        expose: Collection[str] | None = None,
        **kwargs: Any,
    ) -> None:
        # A draw from a wide prior may be out of the likelihood's range; here only the sites are looked at.
        quiet = pyro.validation_enabled(False)
        with torch.no_grad(), torch.random.fork_rng(), outside_plates(), poutine.block(), quiet:
            trace = poutine.trace(Feasible()(model)).get_trace(*args, **kwargs)
            sites: list[Any] = [site for site in trace.nodes.values() if is_random(site)]
            every = [site for site in sites if not site["is_observed"]]
            latents = _select(every, hide, expose)
            _check_latents(latents)
            if any(bounds_of(site["fn"].support) for site in latents):
                with torch.enable_grad():
                    _check_supports(latents, poutine.trace(Feasible()(model)).get_trace(*args, **kwargs))
        _check_observed([site for site in sites if site["is_observed"]])

        self.model = model
        #: The names of the model's other latents, which are not in the vector.
        self.hidden = tuple({site["name"]: None for site in every}.keys() - {site["name"] for site in latents})
        self.data_plate = _data_plate(latents) if amortised else None
        #: The number of dimensions to the right of the particles that the model's plates take. At least 1: a model set
        #: up with a summary of its data has no plate for them, but takes one when called with all.
        self.max_plate_nesting = max(
            [1]
            + [len(site["fn"].batch_shape) for site in sites]
            + [depth(frame) for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
        )
        self._check_plates(sites, latents)

        self.sites: tuple[LatentSite, ...] = ()
        for site in latents:
            self.sites += (self._site(site, start=self.dim),)
        #: The plates that hold latents.
        self.plates = _plates(self.sites)
        #: The dimension of each of the model's plates, by name.
        self.dims = {frame.name: frame.dim for site in sites for frame in site["cond_indep_stack"]}
        self.dtype = reduce(torch.promote_types, [site["value"].dtype for site in latents])
        self.device = latents[0]["value"].device

    def description(self) -> dict[str, Any]:
        """The space as plain data, for files; all but the model."""
        return {
            "hidden": list(self.hidden),
            "data_plate": None if self.data_plate is None else list(self.data_plate),
            "max_plate_nesting": self.max_plate_nesting,
            "sites": [site.description() for site in self.sites],
            "dims": dict(self.dims),
            "dtype": self.dtype,
        }

    @classmethod
    def from_description(cls, model: Model, description: dict[str, Any], like: Tensor | None) -> LatentSpace:
        """Make the space again that was described, without a run of the model, in the dtype and on the device given."""
        space = cls.__new__(cls)
        plate, sites = description["data_plate"], description["sites"]
        space.model = model
        space.dtype = description["dtype"] if like is None else like.dtype
        space.device = torch.device("cpu") if like is None else like.device
        space.hidden = tuple(description["hidden"])
        space.data_plate = None if plate is None else CondIndepStackFrame(*plate)
        space.max_plate_nesting = description["max_plate_nesting"]
        space.sites = tuple(map(LatentSite.from_description, sites))
        space.plates = _plates(space.sites)
        space.dims = dict(description["dims"])
        return space

    @property
    def dim(self) -> int:
        """``D``, the length of the vector."""
        return self.sites[-1].coordinates.stop if self.sites else 0

    def site_at(self, coordinate: int) -> LatentSite:
        """The site that holds a coordinate of the vector."""
        return next(site for site in self.sites if coordinate < site.coordinates.stop)

    def _check_plates(self, sites: list[Any], latents: list[Any]) -> None:
        if self.data_plate is None:
            for site in latents:
                frames = site["cond_indep_stack"]
                inside = {frame.name for frame in frames if full_size(frame) != frame.size}
                if inside:
                    raise ModelError(
                        f"latent {site['name']!r} must not stand inside the subsampled plate {inside.pop()!r} of a "
                        "guide without an encoder: each of its values would need parameters of its own. Give encoder=."
                    )
            return
        for site in latents if self.hidden else sites:
            if self.data_plate.name not in [frame.name for frame in site["cond_indep_stack"]]:
                raise ModelError(
                    f"with encoder=, every site must stand inside the plate {self.data_plate.name!r}; got "
                    f"{site['name']!r} outside it. Move it inside, or use a guide without an encoder."
                )

    def _site(self, site: Any, start: int) -> LatentSite:
        fn, name = site["fn"], site["name"]
        try:
            shape = torch.Size(bijection(fn.support).inverse_shape(torch.Size(fn.batch_shape) + fn.event_shape))
        except (NotImplementedError, ValueError) as error:
            raise ModelError(
                f"latent {name!r} must have a support with a bijection to the reals; got {fn.support}. {error}"
            ) from error
        batch = list(fn.batch_shape)
        if self.data_plate is not None:
            batch[-depth(self.data_plate)] = 1
            dim = depth(self.data_plate) + fn.event_dim
            for bound in bounds_of(fn.support):
                if bound.dim() >= dim and not (bound == bound.narrow(-dim, 0, 1)).all():
                    raise ModelError(
                        f"the support of latent {name!r} must not depend on the datum of a guide with encoder=; its "
                        f"bounds differ among the data. {_FIXED}"
                    )
        unconstrained_shape = shape[len(batch) :]
        size = torch.Size(batch).numel() * unconstrained_shape.numel()
        return LatentSite(
            name=name,
            plates=tuple(frame for frame in site["cond_indep_stack"] if frame.vectorized),
            batch_shape=torch.Size(batch),
            event_dim=fn.event_dim,
            unconstrained_shape=unconstrained_shape,
            support=fn.support,
            coordinates=slice(start, start + size),
        )

    def split(self, vectors: Tensor, left: Mapping[int, int]) -> dict[str, Tensor]:
        """Cut vectors into the sites' unconstrained values, laid out as the model lays out its own.

        Args:
            vectors: Shape ``(*S, D)`` or ``(*S, B, D)``.
            left: Where the particles ``*S`` stand among the batch dimensions: sizes by distance from the right.
        """
        values = {}
        for site in self.sites:
            part = vectors[..., site.coordinates]
            batch = list(site.batch_shape)
            if self.data_plate is not None:
                dim = len(batch) - depth(self.data_plate)
                del batch[dim]
                part = part.reshape([*vectors.shape[:-1], *batch, *site.unconstrained_shape])
                source = vectors.dim() - 2
                part = part.movedim(source, source + dim)
                batch.insert(dim, vectors.shape[-2])
            values[site.name] = part.reshape([*left_shape(left, len(batch)), *batch, *site.unconstrained_shape])
        return values

    def laid_out(self, values: Mapping[str, Tensor], left: Mapping[int, int]) -> dict[str, Tensor]:
        """Lay out the sites' values, ``(*S, *batch, *event)`` each with ones in between, for particles at ``left``."""
        moved = {}
        for site in self.sites:
            batch, value = len(site.batch_shape), values[site.name]
            own = value.shape[value.dim() - batch - site.event_dim :]
            moved[site.name] = value.reshape([*left_shape(left, batch), *own])
        return moved

    def constrain(self, vectors: Tensor) -> dict[str, Tensor]:
        """Map vectors ``(*S, D)`` or ``(*S, B, D)`` to the sites' values, ``(*S, *batch, *event)`` each."""
        left = self._left(vectors)
        parts = self.split(vectors, left)
        constrained = {}
        for site in self.sites:
            value = site.transform(parts[site.name])
            own = value.shape[value.dim() - site.event_dim - len(site.batch_shape) :]
            constrained[site.name] = value.reshape(torch.Size(left.values()) + own)
        return constrained

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """Map the sites' values, ``(*S, *batch, *event)`` each, to vectors ``(*S, D)`` or ``(*S, B, D)``."""
        parts = []
        for site in self.sites:
            own = len(site.batch_shape) + len(site.unconstrained_shape)
            part = site.transform.inv(values[site.name])
            particles = part.dim() - own
            if self.data_plate is not None:
                part = part.movedim(particles + len(site.batch_shape) - depth(self.data_plate), particles)
                particles += 1
            parts.append(part.reshape(*part.shape[:particles], site.coordinates.stop - site.coordinates.start))
        return torch.cat(parts, -1)

    def log_joint(
        self,
        vectors: Tensor,
        *args: Any,
        indices: dict[str, Indices] | None = None,
        left: Mapping[int, int] | None = None,
        given: Mapping[str, Tensor] | None = None,
        own_rows: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        r"""Evaluate :math:`\log p(x, T(u)) + \log |\det \partial T / \partial u|`.

        Args:
            vectors: Unconstrained vectors :math:`u`, ``(*S, D)`` or ``(*S, B, D)``.
            *args: Arguments of the model.
            indices: What each subsampled plate looks at. A plate that is not in it draws for itself, and is put in it,
                so that runs which share the dictionary share their minibatch.
            left: Where the particles stand among the model's batch dimensions; left of all its plates by default.
            given: Values of hidden latents, laid out as the model lays out its own.
            own_rows: Whether to refuse minibatches but those drawn here.
            **kwargs: Keyword arguments of the model.

        Returns:
            ``(*S,)`` for a global space, with minibatches scaled up to all data; ``(*S, B)``, unscaled, for an
            amortised one.
        """
        left = self._left(vectors) if left is None else left
        indices = {} if indices is None else indices
        density = LogDensity(self, self.split(vectors, left), indices, left, given or {}, own_rows)
        with outside_plates(), density:
            self.model(*args, **kwargs)
        total: Tensor = density.total.expand(vectors.shape[:-1])
        return total

    def data_indices(self, *args: Any, given: Mapping[str, Tensor] | None = None, **kwargs: Any) -> Indices:
        """Find which data the data plate of an amortised space looks at, as the model draws or is given them."""
        assert self.data_plate is not None, "a global space has no data plate"
        first = FirstIndices(self.data_plate.name, given or {})
        with torch.no_grad(), outside_plates(), suppress(FirstIndices.Found), first:
            self.model(*args, **kwargs)
        if first.found is None:
            raise ModelError(f"the model must hold its latents in the plate {self.data_plate.name!r} in every run.")
        return first.found

    def _left(self, vectors: Tensor) -> dict[int, int]:
        particles = vectors.shape[: -1 if self.data_plate is None else -2]
        return {self.max_plate_nesting + len(particles) - i: size for i, size in enumerate(particles)}

    def __repr__(self) -> str:
        per = f" per {self.data_plate.name!r}" if self.data_plate else ""
        return f"LatentSpace(dim={self.dim}{per}, sites=[{', '.join(map(str, self.sites))}])"


def _select(latents: list[Any], hide: Collection[str] | None, expose: Collection[str] | None) -> list[Any]:
    if hide is not None and expose is not None:
        raise OptionError("hide and expose must not be given together: each says which latents the other leaves.")
    if hide is None and expose is None:
        return latents
    option, named = ("hide", hide) if expose is None else ("expose", expose)
    if isinstance(named, str) or named is None:
        raise TypeError(f"{option} must be a list of site names; got {named!r}. Write {option}=[{named!r}].")
    names = [site["name"] for site in latents]
    for name in named:
        if name not in names:
            raise OptionError(f"{option} must name latents of the model ({', '.join(names)}); got {name!r}.")
    left = [site for site in latents if (site["name"] in named) == (option == "expose")]
    if not left:
        raise OptionError(f"{option} must leave at least one latent of {', '.join(names)}; got {list(named)}.")
    return left


def _check_latents(latents: list[Any]) -> None:
    if not latents:
        raise ModelError("a guide needs a model with at least one latent sample site; got none. Are all observed?")
    for site in latents:
        check_unmasked(site)
        if site["fn"].has_enumerate_support or site["fn"].support.is_discrete:
            raise ModelError(
                f"latents must be continuous; got the discrete site {site['name']!r} ({type(site['fn']).__name__}). "
                "Sum it out in the model (for example with dist.MixtureSameFamily)."
            )


def _check_supports(latents: list[Any], other: Any) -> None:
    """Compare the supports with those in another run, where other latents are drawn, and gradients would be kept."""
    for site in latents:
        one, two = (bounds_of(each["fn"].support) for each in (site, other.nodes[site["name"]]))
        if len(one) != len(two) or not all(map(torch.equal, one, two)) or any(bound.requires_grad for bound in two):
            raise ModelError(
                f"the support of latent {site['name']!r} must be the same in every run; got bounds that depend on "
                f"another latent, on a learned parameter, or on which data a subsampled plate looks at. {_FIXED}"
            )


def _check_observed(observed: list[Any]) -> None:
    for site in observed:
        if isinstance(site["value"], Tensor):
            bad = ~torch.isfinite(site["value"])
            if bad.any():
                first = tuple(bad.nonzero()[0].tolist())
                raise DataError(
                    f"observed site {site['name']!r} must be finite; got {int(bad.sum())} NaN or infinite values, the "
                    f"first at index {first}. Remove or impute them."
                )


def _plates(sites: tuple[LatentSite, ...]) -> tuple[CondIndepStackFrame, ...]:
    return tuple({frame.name: frame for site in sites for frame in site.plates}.values())


def _data_plate(latents: list[Any]) -> CondIndepStackFrame:
    stacks = [[frame for frame in site["cond_indep_stack"] if frame.vectorized] for site in latents]
    common = [frame for frame in stacks[0] if all(frame in stack for stack in stacks)]
    named = [frame for frame in common if frame.name == "data"] or common
    if len(named) != 1:
        found = [frame.name for frame in common]
        raise ModelError(
            "with encoder=, all latents must stand in one common plate, named 'data' if there are several; got "
            f"{found or 'no common plate'}. Wrap them in pyro.plate('data', len(x))."
        )
    return named[0]
