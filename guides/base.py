"""Guide and Proposal: all the Pyro traffic of a variational family, once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.runtime import effectful, get_plates
from torch import Tensor, nn
from torch.distributions import constraints, register_kl

from guides.errors import DataError, ModelError, OptionError
from guides.latent_space import LatentSite, LatentSpace, Model
from guides.log_density import Indices
from guides.plates import active_minibatches, depth, left_shape

__all__ = ["Guide", "Proposal", "Target"]


@dataclass(frozen=True)
class Target:
    """What a guide is asked for in one call.

    Args:
        batch_shape: Shape of the batch of latent vectors: ``(*S,)`` particles, then ``(B,)`` for amortised guides.
        log_joint: The model's log joint at unconstrained vectors, ``(*batch, D)`` to ``(*batch,)``.
        context: The encoder's output for this call's data, ``(B, width)``; ``None`` for global guides.
    """

    batch_shape: torch.Size
    log_joint: Callable[[Tensor], Tensor]
    context: Tensor | None


@dataclass(frozen=True)
class Proposal:
    r"""Latent vectors and their log-weight denominators, with :math:`E[p(x, z) \exp(-\log q)] = p(x)`.

    Args:
        latent: Unconstrained vectors, ``(*batch, D)``.
        log_q: Shape ``(*batch,)``. A log density where there is one, and otherwise whatever keeps the equation above.
    """

    latent: Tensor
    log_q: Tensor


class Guide(nn.Module, ABC):
    r"""Compose a Pyro model with a variational family.

    A guide is called like any Pyro guide and takes the model's arguments, so ``pyro.infer.SVI``, ``Trace_ELBO``,
    ``RenyiELBO`` and ``Predictive`` accept it. A subclass writes only maths: :meth:`propose`, and :meth:`build` for its
    parameters, which exist after the first call or after :meth:`setup`.

    Args:
        model: Any Pyro model.
        encoder: Module from the model's arguments to one row of context per datum: the guide is then amortised, with
            one latent vector per datum. For the base of a chain only.
        base: Guide of the same model whose proposals this one transforms.

    Raises:
        OptionError: If both ``encoder`` and ``base`` are given, or the base is for another model.
        TypeError: If ``model`` is not callable, ``encoder`` not a module or ``base`` not a guide.
    """

    def __init__(self, model: Model, *, encoder: nn.Module | None = None, base: Guide | None = None) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"model must be callable; got {type(model).__name__}.")
        if encoder is not None and not isinstance(encoder, nn.Module):
            raise TypeError(f"encoder must be a torch.nn.Module; got {type(encoder).__name__}.")
        if base is not None and not isinstance(base, Guide):
            raise TypeError(f"base must be a Guide; got {type(base).__name__}.")
        if base is not None and encoder is not None:
            raise OptionError("encoder and base must not be given together: give the encoder to the base guide.")
        if base is not None and base.model is not model:
            raise OptionError("base must be a guide of the same model; got one of another model.")
        self._model = (model,)  # a tuple, so that the model's parameters are not the guide's
        self._space: LatentSpace | None = None
        self.base = base
        self.encoder = encoder

    # What a subclass writes.

    @abstractmethod
    def build(self, space: LatentSpace) -> None:
        """Create the parameters for a latent space; called once, by :meth:`setup`."""

    @abstractmethod
    def propose(self, target: Target) -> Proposal:
        """Draw latent vectors for a target, with their log-weight denominators."""

    def factors(self, target: Target) -> dist.Normal | None:
        """Independent normal coordinates ``(*batch, D)``, for guides that are no more than that.

        Their sites are then emitted as normal distributions, so that objectives with an analytic KL work.
        """
        return None

    # What users call.

    @property
    def model(self) -> Model:
        """The model this guide is for."""
        return self._model[0]

    @property
    def amortised(self) -> bool:
        """Whether there is one latent vector per datum, from an encoder."""
        return self.base.amortised if self.base is not None else self.encoder is not None

    @property
    def space(self) -> LatentSpace:
        """The model's latents as one vector.

        Raises:
            ModelError: Before :meth:`setup`.
        """
        if self._space is None:
            raise ModelError(f"{type(self).__name__} must be set up before use: call guide.setup(*args) first.")
        return self._space

    def setup(self, *args: Any, **kwargs: Any) -> Self:
        """Find the model's latents and create the parameters; a second call does nothing.

        Args:
            *args: Arguments of the model, data included.
            **kwargs: Keyword arguments of the model.

        Returns:
            The guide itself.
        """
        if self._space is None:
            self._set_up(LatentSpace(self.model, *args, amortised=self.amortised, **kwargs), args, kwargs)
        return self

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Give the parameters, by name.

        Raises:
            ModelError: Before :meth:`setup`, when most of them do not exist yet.
        """
        _ = self.space
        return super().named_parameters(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Take over the values of a guide of the same kind and model.

        Raises:
            ModelError: Before :meth:`setup`, when there is nothing yet that could take them.
        """
        _ = self.space
        return super().load_state_dict(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw every latent site, as a Pyro guide does, and return the values by name."""
        self.setup(*args, **kwargs)
        self._announce_parameters()
        space = self.space
        self._check_minibatches(space)
        particles = sorted((frame for frame in get_plates() if frame.vectorized), key=depth, reverse=True)
        indices: dict[str, Indices] = {}
        if space.data_plate is not None:
            self._check_data(args)
            indices[space.data_plate.name] = space.data_indices(*args, **kwargs)
        context = self._context(args, kwargs, indices)
        num_data = [] if context is None else [len(context)]
        left = {depth(frame): frame.size for frame in particles}
        nesting = max(space.max_plate_nesting, min(left, default=1) - 1)
        target = Target(
            batch_shape=torch.Size([frame.size for frame in particles] + num_data),
            log_joint=lambda vectors: space.log_joint(
                vectors, *args, indices=indices, max_plate_nesting=nesting, **kwargs
            ),
            context=context,
        )
        factors = self.factors(target)
        proposal = self.propose(target) if factors is None else None
        # Here the indices of every run of the model are known: with the plates they go to the model's own.
        plates = {
            name: pyro.plate(name, drawn.size, subsample=drawn.rows, dim=space.dims.get(name))
            for name, drawn in indices.items()
        }
        for frame in space.plates:
            if frame.name not in plates:
                plates[frame.name] = pyro.plate(frame.name, frame.size, dim=frame.dim)
        emit = _Emitter(space, plates, left)
        if proposal is not None:
            return emit.proposal(proposal, name=f"_{type(self).__name__}_latent")
        assert factors is not None
        return emit.factors(factors)

    def __repr__(self) -> str:
        encoder = "" if self.encoder is None else f", encoder={type(self.encoder).__name__}"
        space = "not set up" if self._space is None else repr(self._space)
        return f"{type(self).__name__}({self.describe()}{encoder}, {space})".replace("(, ", "(")

    def describe(self) -> str:
        """The options worth seeing in the guide's repr."""
        return "" if self.base is None else f"base={type(self.base).__name__}({self.base.describe()})"

    # Inside.

    def _announce_parameters(self) -> None:
        """Show each parameter to Pyro's handlers once, as PyroModule does, so that SVI finds what it trains.

        A PyroModule would also put a parameter store of its own in place while it runs, and a model that runs inside,
        to give its force, would find other values there than it has outside.
        """
        for name, parameter in self.named_parameters():
            full_name = f"{type(self).__name__}-{id(self):x}.{name}"  # two guides in one program are kept apart
            statement = effectful(type="param")(lambda *_, value=parameter, **__: value)
            statement(full_name, parameter, constraint=constraints.real, name=full_name)

    def _check_minibatches(self, space: LatentSpace) -> None:
        local = {frame.name for frame in space.plates if frame != space.data_plate}
        for minibatch in active_minibatches():
            if minibatch.plate in local:
                raise ModelError(
                    f"latents in the plate {minibatch.plate!r}, of which only a minibatch is seen, need an encoder: "
                    "each would need parameters of its own. Give encoder=, or all data at every step."
                )

    def _set_up(self, space: LatentSpace, args: Any, kwargs: Any) -> None:
        if self.base is not None and self.base._space is None:
            self.base._set_up(space, args, kwargs)
        if self.encoder is not None:
            self._check_data(args)
            with torch.no_grad():
                self.check_context(self._context(args, kwargs, {}), space)
        self._space = space
        self.build(space)

    def check_context(self, context: Tensor | None, space: LatentSpace) -> None:
        """Hold the encoder's output against the latent space; for guides that take an encoder.

        Raises:
            DataError: If it does not fit.
        """

    def _check_data(self, args: Any) -> None:
        if not args or not isinstance(args[0], Tensor):
            raise DataError(
                f"{type(self).__name__} with an encoder needs the data as the model's first argument; got "
                f"{type(args[0]).__name__ if args else 'no argument'}. To generate from the model, call the model."
            )

    def _context(self, args: Any, kwargs: Any, indices: dict[str, Indices]) -> Tensor | None:
        if self.base is not None:
            return self.base._context(args, kwargs, indices)
        if self.encoder is None:
            return None
        num_data = None
        for drawn in indices.values():
            num_data = len(drawn.rows)
            if num_data < drawn.size:
                args = [
                    a[drawn.rows] if isinstance(a, Tensor) and len(a.shape[:1]) and len(a) == drawn.size else a
                    for a in args
                ]
        context: Tensor = self.encoder(*args, **kwargs)
        if context.dim() != 2 or num_data not in (None, len(context)):
            rows = "number of data" if num_data is None else num_data
            raise DataError(f"encoder must return shape ({rows}, width); got {tuple(context.shape)}.")
        return context


class _Point(dist.Delta):
    """A Delta whose log density counts in an analytic KL, where that of Pyro's own is left out."""


@register_kl(_Point, dist.Distribution)  # type: ignore[untyped-decorator]
def _kl_point(q: _Point, p: Any) -> Tensor:
    return q.log_density - p.log_prob(q.v)


class _Emitter:
    """Turns latent vectors into the sample sites of one guide call."""

    def __init__(self, space: LatentSpace, plates: dict[str, pyro.plate], left: dict[int, int]) -> None:
        self.space, self.plates, self.left = space, plates, left

    def proposal(self, proposal: Proposal, name: str) -> dict[str, Tensor]:
        """Emit the whole vector as one auxiliary site that carries log q, and the model's sites as maps of it."""
        latent, plate = proposal.latent, self.space.data_plate
        right = [] if plate is None else [latent.shape[-2]] + [1] * (depth(plate) - 1)
        shape = [*left_shape(self.left, len(right)), *right]
        delta = _Point(latent.reshape(*shape, self.space.dim), proposal.log_q.reshape(shape), event_dim=1)
        with self._inside([plate] if plate is not None else []):
            pyro.sample(name, delta, infer={"is_auxiliary": True})
        unconstrained = self.space.split(latent, self.left)
        return {site.name: self._delta(site, unconstrained[site.name]) for site in self.space.sites}

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
                unconstrained = pyro.sample(f"{site.name}_unconstrained", fn, infer={"is_auxiliary": True})
            values[site.name] = self._delta(site, unconstrained)
        return values

    def _delta(self, site: LatentSite, unconstrained: Tensor) -> Tensor:
        value, log_det = site.constrain(unconstrained)
        with self._inside(site.plates):
            drawn: Tensor = pyro.sample(site.name, _Point(value, -log_det, event_dim=site.event_dim))
        return drawn

    def _inside(self, frames: Iterable[CondIndepStackFrame]) -> ExitStack:
        with ExitStack() as stack:
            for frame in frames:
                stack.enter_context(self.plates[frame.name])
            return stack.pop_all()
