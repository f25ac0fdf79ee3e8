"""Guide and Proposal: all the Pyro traffic of a variational family, once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame, IndepMessenger
from pyro.poutine.runtime import effectful, get_plates
from torch import Tensor, nn
from torch.distributions import constraints

from guides.answers import Answers
from guides.call import Call, check_data, encode
from guides.emission import Emitter
from guides.errors import DataError, ModelError, OptionError
from guides.latent_space import LatentSpace, Model
from guides.log_density import JUDGED
from guides.noise import standard_normal
from guides.plates import active_minibatches, depth
from guides.rescoring import active_rescoring, fixed_log_density, rescored
from guides.starts import Init, set_start
from guides.stored import Stored
from guides.target import Proposal, Target
from guides.whitening import Law, Whitening

__all__ = ["Guide"]


class Guide(Answers, Stored, ABC):
    r"""Compose a Pyro model with a variational family.

    A guide is called like any Pyro guide and takes the model's arguments, so ``pyro.infer.SVI``, ``Trace_ELBO``,
    ``RenyiELBO`` and ``Predictive`` accept it. A subclass writes only maths: :meth:`propose`, a function from standard
    normal noise to latent vectors and their log q, and :meth:`build` for its parameters, which exist after the first
    call or after :meth:`setup`: set a guide up before an optimizer, or a module that holds it, asks for them. A copy
    that is to go with a copy of its model is made of both at once, ``copy.deepcopy((model, guide))``.

    Args:
        model: Any Pyro model.
        encoder: Module from the model's arguments to one row of context per datum: the guide is then amortised, with
            one latent vector per datum. For the base of a chain only.
        base: Guide of the same model whose proposals this one transforms.
        hide: Names of latents that this guide does not draw, because others in a :class:`~guides.GuideList` do. For
            the base of a chain only.
        expose: Names of the only latents that this guide draws. For the base of a chain only.

    Raises:
        OptionError: If ``base`` is given together with what belongs to it, or is for another model.
        TypeError: If ``model`` is not callable, ``encoder`` not a module or ``base`` not a guide.
    """

    #: Whether the guide reads the encoder's output beyond what its base takes from it.
    uses_context = False

    def __init__(
        self,
        model: Model,
        *,
        encoder: nn.Module | None = None,
        base: Guide | None = None,
        hide: Collection[str] | None = None,
        expose: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"model must be callable; got {type(model).__name__}.")
        if encoder is not None and not isinstance(encoder, nn.Module):
            raise TypeError(f"encoder must be a torch.nn.Module; got {type(encoder).__name__}.")
        if base is not None and not isinstance(base, Guide):
            raise TypeError(f"base must be a Guide; got {type(base).__name__}.")
        for name, value in (("encoder", encoder), ("hide", hide), ("expose", expose)):
            if base is not None and value is not None:
                raise OptionError(f"{name} and base must not be given together: give {name}= to the base guide.")
        if base is not None and base.model != model:  # bound methods are equal, but not the same object
            raise OptionError("base must be a guide of the same model; got one of another model.")
        self._model = (model,)  # a tuple, so that the model's parameters are not the guide's
        self._space: LatentSpace | None = None
        self._ready = False
        #: The width of the encoder's output, from setup on; ``None`` for global guides.
        self.context_width: int | None = None
        self._select = {"hide": hide, "expose": expose}
        self.base = base
        self.encoder = encoder
        self._whitening = Whitening() if base is None else None
        self.register_load_state_dict_post_hook(_cast_whitening)

    # What a subclass writes.

    @abstractmethod
    def build(self, space: LatentSpace) -> None:
        """Create the parameters for a latent space; called once, by :meth:`setup`."""

    @property
    @abstractmethod
    def noise_dim(self) -> int:
        """M, how many standard normal numbers one latent vector is made from."""

    @abstractmethod
    def propose(self, target: Target, noise: Tensor) -> Proposal:
        """Map noise ``(*batch, M)`` to latent vectors of a target, with their log-weight denominators."""

    def factors(self, target: Target) -> dist.Normal | None:
        """Independent normal coordinates ``(*batch, D)``, for guides that are no more than that.

        Their sites are then emitted as normal distributions, so that objectives with an analytic KL work.
        """
        return None

    def law(self, target: Target) -> Law | None:
        """The law of one latent vector, or of one per datum, for guides whose law is normal."""
        return self.factors(target)

    def rescore(self, target: Target, latent: Tensor) -> Proposal | None:
        """Score given vectors ``(*batch, D)`` with the guide's parameters held fixed; ``None`` where that cannot be.

        Guides whose law is normal have it already.
        """
        law = self.law(target)
        return None if law is None else Proposal(latent, fixed_log_density(law, latent))

    # What users call.

    @property
    def model(self) -> Model:
        """The model this guide is for."""
        return self._model[0]

    @property
    def amortised(self) -> bool:
        """Whether there is one latent vector per datum, from an encoder."""
        return self._innermost.encoder is not None

    @property
    def may_be_base(self) -> bool:
        """Whether there are latent vectors of one kind, as other guides need of their base."""
        return True

    @property
    def whitening(self) -> Whitening:
        """The map from the vector that the guide works on to the unconstrained latents; its base's, if it has one."""
        whitening = self._innermost._whitening
        assert whitening is not None
        return whitening

    @property
    def space(self) -> LatentSpace:
        """The model's latents as one vector.

        Raises:
            ModelError: Before :meth:`setup`.
        """
        if self._space is None:
            self._check_set_up()
        assert self._space is not None
        return self._space

    @property
    def is_set_up(self) -> bool:
        """Whether the parameters exist."""
        return self._ready

    def setup(self, *args: Any, init: Init = None, **kwargs: Any) -> Self:
        """Find the model's latents, choose where to start, and create the parameters; a second call does nothing.

        Args:
            *args: Arguments of the model, data included.
            init: The vector that the guide, and all above it, work on.

                - ``None``: the unconstrained latents as they are, from zero.
                - ``"prior"``: each latent less its prior median, in units of its prior spread.
                - A dictionary of site values: the unconstrained latents, from there.
                - ``"laplace"``: the posterior as a standard normal, as far as its mode and the curvature there tell,
                  at the model's present parameters. Sizes and correlations of the latents no longer matter.
                - ``"pathfinder"``: the same with the best normal law along the path to the mode.
            **kwargs: Keyword arguments of the model.

        Returns:
            The guide itself.

        Raises:
            OptionError: If ``init`` is not one of these, or the guide or its base was set up before without it.
            ModelError: If the model is outside what the guide can do, or no mode was found.
            DataError: If data are not finite, or values in ``init`` not in the support.
        """
        if self.is_set_up:
            if init is not None:
                raise OptionError("init must be given with the first setup; got it for a guide that is set up already.")
            return self
        with self._unset():
            self._set_up(Call(args, kwargs), init)
        return self

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Give the parameters, by name.

        Raises:
            ModelError: Before :meth:`setup`, when most of them do not exist yet.
        """
        self._check_set_up()
        return super().named_parameters(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw every latent site, as a Pyro guide does, and return the values by name."""
        self.setup(*args, **kwargs)
        self._announce_parameters()
        return self._draw(Call(args, kwargs))

    def __repr__(self) -> str:
        encoder = "" if self.encoder is None else f", encoder={type(self.encoder).__name__}"
        space = "not set up" if self._space is None else repr(self._space)
        return f"{type(self).__name__}({self.describe()}{encoder}, {space})".replace("(, ", "(")

    def describe(self) -> str:
        """The options worth seeing in the guide's repr."""
        return "" if self.base is None else f"base={type(self.base).__name__}({self.base.describe()})"

    # Inside.

    def _check_set_up(self) -> None:
        if not self.is_set_up:
            raise ModelError(f"{type(self).__name__} must be set up before use: call guide.setup(*args) first.")

    @contextmanager
    def _unset(self) -> Iterator[None]:
        """Leave no guide half-way if setting up fails."""
        fresh = [part for part in self.modules() if isinstance(part, Guide) and not part.is_set_up]
        try:
            yield
        except BaseException:
            for part in fresh:
                part._space, part._ready = None, False
                part._whitening = None if part._whitening is None else Whitening()
            raise

    @property
    def _innermost(self) -> Guide:
        """The guide at the bottom of the chain of bases."""
        return self if self.base is None else self.base._innermost

    def _draw(self, call: Call) -> dict[str, Tensor]:
        """Draw the guide's sites inside the plates that are open, given the latents drawn before."""
        space = self.space
        self._check_minibatches(space)
        particles = sorted((frame for frame in get_plates() if frame.vectorized), key=depth, reverse=True)
        left = {depth(frame): frame.size for frame in particles}
        # Runs of the model inside have the particles left of all its plates, even where those outside need not be.
        shift = max(0, space.max_plate_nesting + 1 - min(left, default=space.max_plate_nesting + 1))
        inner = {dim + shift: size for dim, size in left.items()}
        target = self._target(call, inner)
        factors = self.factors(target) if self.whitening.is_diagonal else None
        proposal = self._propose(target, particles) if factors is None else None
        # Here the indices of every run of the model are known: with the plates they go to the model's own.
        for name, drawn in call.indices.items():
            if name not in call.plates:
                call.plates[name] = pyro.plate(name, drawn.size, subsample=drawn.rows, dim=space.dims.get(name))
        for frame in space.plates:
            if frame.name not in call.plates:
                # No pyro.plate: its indices would be replayed, and hide that the model's plate has another size now.
                call.plates[frame.name] = IndepMessenger(frame.name, frame.size, dim=frame.dim)
        emitter = Emitter(space, call.plates, left)
        if proposal is not None and proposal.by_site is not None:
            values = emitter.sites(proposal.latent, proposal.by_site)
        elif proposal is not None:
            # Guides in a list are told apart by their sites.
            parts = [f"_{type(self).__name__}", "latent", *(site.name for site in space.sites if space.hidden)]
            values = emitter.vector(proposal.latent, proposal.log_q, name="_".join(parts))
        else:
            assert factors is not None
            values = emitter.factors(self.whitening.normal(factors))
        call.given.update(space.laid_out(values, inner))
        return values

    def _target(self, call: Call, left: dict[int, int]) -> Target:
        space = self.space
        plate = space.data_plate
        context = None
        # What all data share must not know which of them it is judged by: a minibatch of its own, or all.
        indices = {} if plate is None else call.indices
        if plate is not None:
            check_data(call)
            if plate.name not in indices:
                indices[plate.name] = space.data_indices(*call.args, given=call.given, **call.kwargs)
            context = encode(self._innermost.encoder, call, indices[plate.name])

        def log_joint(vectors: Tensor) -> Tensor:
            if plate is None and any(len(drawn.rows) < drawn.size for drawn in call.indices.values()):
                raise ModelError(JUDGED)
            known: dict[str, Any] = {"indices": indices, "given": call.given, "left": left, "own_rows": plate is None}
            density = space.log_joint(self.whitening(vectors), *call.args, **known, **call.kwargs)
            return density + self.whitening.log_det

        particles = [left[dim] for dim in sorted(left, reverse=True)]
        num_data = [] if context is None else [len(context)]
        return Target(torch.Size(particles + num_data), log_joint, context)

    def _propose(self, target: Target, particles: Sequence[CondIndepStackFrame]) -> Proposal:
        """Draw in unconstrained coordinates."""
        like = target.context if target.context is not None else next(self.parameters(), None)
        dtype, device = (self.space.dtype, self.space.device) if like is None else (like.dtype, like.device)
        plates = [*(frame.name for frame in particles), *(plate.name for plate in [self.space.data_plate] if plate)]
        noise = standard_normal([*target.batch_shape, self.noise_dim], [*plates, None], dtype=dtype, device=device)
        proposal = self.propose(target, noise)
        if active_rescoring() is not None:
            proposal = rescored(proposal, lambda latent: self.rescore(target, latent), name=type(self).__name__)
        return self._unwhitened(proposal)

    def _unwhitened(self, proposal: Proposal) -> Proposal:
        log_q = proposal.log_q - self.whitening.log_det
        return Proposal(self.whitening(proposal.latent), log_q, proposal.by_site)

    def _by_site(self, latent: Tensor, log_q: Tensor) -> Proposal:
        """A proposal whose sites have a log q each, ``(*batch, sites)``, of the latents as the model has them."""
        return Proposal(latent, log_q.sum(-1) + self.whitening.log_det, log_q)

    @torch.no_grad()
    def _marginals(self, call: Call) -> dist.Normal | None:
        """The law of each unconstrained coordinate, ``(D,)`` or ``(B, D)``, where it is normal."""
        law = self.law(self._target(call, {}))
        return None if law is None else self.whitening.marginals(law)

    def _announce_parameters(self) -> None:
        """Show each parameter to Pyro's handlers once, as PyroModule does, so that SVI finds what it trains.

        A PyroModule would also put a parameter store of its own in place while it runs, and a model that runs inside,
        to give its force, would find other values there than it has outside.
        """
        for name, parameter in self.named_parameters():
            full_name = f"{type(self).__name__}-{id(self):x}.{name}"  # two guides in one program are kept apart
            _statement(full_name, parameter, constraint=constraints.real, name=full_name)

    def _check_minibatches(self, space: LatentSpace) -> None:
        local = {frame.name for frame in space.plates if frame != space.data_plate}
        for minibatch in active_minibatches():
            if minibatch.plate in local:
                raise ModelError(
                    f"latents in the plate {minibatch.plate!r}, of which only a minibatch is seen, need an encoder: "
                    "each would need parameters of its own. Give encoder=, or all data at every step."
                )

    def _set_up(self, call: Call, init: Init, space: LatentSpace | None = None, *, spare_context: bool = False) -> None:
        """Set up this guide and those below it; the one on top has made the space."""
        spare_context = spare_context or self.uses_context
        if space is None:
            space = self._find_latents(call)
        if self.base is None:
            self.context_width = self._check_encoder(call, space, spare_context)
            set_start(self.whitening, space, init, call.args, call.kwargs)
        else:
            if not self.base.is_set_up:
                self.base._set_up(call, init, space, spare_context=spare_context)
            elif init is not None:
                raise OptionError("init must not be given above a base that is set up already: give it to its setup.")
            self.context_width = self.base.context_width
        self._space = space
        self.build(space)
        self._ready = True

    def _find_latents(self, call: Call) -> LatentSpace:
        """Run the model once; which latents are this guide's own, the innermost base says."""
        select = self._innermost._select
        return LatentSpace(self.model, *call.args, amortised=self.amortised, **select, **call.kwargs)

    def context_dim(self, space: LatentSpace) -> int | None:
        """How many numbers per datum the guide reads from its encoder; for guides that take one."""
        return None

    def _check_encoder(self, call: Call, space: LatentSpace, spare_context: bool) -> int | None:
        if self.encoder is None:
            return None
        with torch.no_grad():
            width = encode(self.encoder, call, None).shape[-1]
        needed = self.context_dim(space)
        if needed is not None and (width < needed or (width > needed and not spare_context)):
            sites = ", ".join(site.name for site in space.sites)
            raise DataError(
                f"encoder must return {'at least ' * spare_context}{needed} numbers per datum, for "
                f"{type(self).__name__} over the {space.dim} latent dimensions of {sites}; got {width}."
            )
        return width


@effectful(type="param")
def _statement(full_name: str, parameter: nn.Parameter, **options: Any) -> nn.Parameter:
    return parameter


def _cast_whitening(guide: Guide, _: Any) -> None:
    """Give a whitening the dtype and device of the guide's parameters: it takes the file's tensors as they are."""
    like = next(guide.parameters(), None) if guide.is_set_up else None
    if guide._whitening is not None and like is not None:
        guide._whitening.to(like)
