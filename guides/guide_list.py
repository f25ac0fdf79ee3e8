"""GuideList: several guides that together draw the latents of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from guides.base import Guide
from guides.call import Call
from guides.errors import DataError, ModelError, OptionError
from guides.latent_space import LatentSpace, Model
from guides.starts import Init, set_start
from guides.target import Proposal, Target
from guides.whitening import Whitening

__all__ = ["GuideList"]


class GuideList(Guide):
    r"""Draw the latents of a model by several guides in turn, each for sites of its own.

    .. math::
        z = (z_1, \dots, z_n), \qquad \log q = \sum_i \log q_i(z_i \mid z_1, \dots, z_{i-1})

    Guides see what was drawn before them: the force on a Hamiltonian or annealed member is that of the model given the
    values of the members before it, which is why such a member stands last. Globals may come from one guide and
    latents of each datum from another, with an encoder.

    Args:
        model: Any Pyro model.
        guides: Guides of the same model whose ``hide=`` or ``expose=`` share its latents out among them.

    Raises:
        OptionError: If there are no guides, or one is of another model, or is there twice.
        ModelError: On setup, if a latent belongs to no member or to several; on a call, if a member looks at the
            model's density before all other latents are drawn.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from guides import FullRankGuide, HamiltonianGuide
        >>> def model(x):
        ...     scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, scale))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> encoder = torch.nn.Sequential(torch.nn.Unflatten(0, (-1, 1)), torch.nn.Linear(1, 2))
        >>> shared = FullRankGuide(model, expose=["scale"])
        >>> guide = GuideList(model, [shared, HamiltonianGuide(model, hide=["scale"], encoder=encoder)])
        >>> {name: tuple(value.shape) for name, value in guide(torch.randn(5)).items()}
        {'scale': (), 'z': (5,)}
    """

    def __init__(self, model: Model, guides: Sequence[Guide]) -> None:
        super().__init__(model)
        if isinstance(guides, Guide):
            raise TypeError(f"guides must be a list of guides; got a {type(guides).__name__}. Write [guide].")
        members = list(guides)
        if not members:
            raise OptionError("guides must hold at least one guide; got none.")
        for member in members:
            if not isinstance(member, Guide) or isinstance(member, GuideList):
                raise TypeError(f"guides must be guides, and no lists themselves; got {type(member).__name__}.")
            if member.model != model:
                raise OptionError(f"guides must all be of the list's model; got a {type(member).__name__} of another.")
        if len({id(member) for member in members}) < len(members):
            raise OptionError("guides must be different objects; got the same one twice.")
        self.guides = nn.ModuleList(members)

    @property
    def members(self) -> list[Guide]:
        """The guides, in the order in which they draw."""
        return list(self.guides)  # type: ignore[arg-type]

    @property
    def may_be_base(self) -> bool:
        return not any(member.amortised for member in self.members)

    @property
    def space(self) -> LatentSpace:
        """The model's latents as one vector, for lists without an encoder.

        Raises:
            ModelError: Before :meth:`setup`, or if there are vectors of several kinds.
        """
        if self._ready and self._space is None:
            raise ModelError("a GuideList with an encoder has no one vector: look at guide.members[i].space.")
        return super().space

    @property
    def noise_dim(self) -> int:
        return sum(member.noise_dim for member in self.members)

    def build(self, space: LatentSpace) -> None:
        """Nothing: the parameters are the members'."""

    def propose(self, target: Target, noise: Tensor) -> Proposal:
        places = [torch.cat([self._place(site.name) for site in member.space.sites]) for member in self.members]
        order = torch.cat(places).argsort()
        drawn: list[Tensor] = []
        log_q: Tensor | float = 0.0
        noises = noise.split([member.noise_dim for member in self.members], dim=-1)
        for member, own_noise in zip(self.members, noises, strict=True):

            def log_joint(vectors: Tensor, member: Guide = member) -> Tensor:
                if len(drawn) + 1 < len(self.members):
                    raise ModelError(_too_early(member))
                parts = [*drawn, member.whitening(vectors)]
                return target.log_joint(torch.cat(parts, -1)[..., order]) + member.whitening.log_det

            proposal = member._unwhitened(member.propose(Target(target.batch_shape, log_joint, None), own_noise))
            drawn.append(proposal.latent)
            log_q = log_q + proposal.log_q
        assert isinstance(log_q, Tensor)
        return Proposal(torch.cat(drawn, -1)[..., order], log_q)

    def describe(self) -> str:
        return ", ".join(f"{type(member).__name__}({member.describe()})" for member in self.members)

    # The base class's traffic, member by member.

    def _set_up(self, call: Call, init: Init, space: LatentSpace | None = None, *, spare_context: bool = False) -> None:
        if init is not None and any(member.is_set_up for member in self.members):
            raise OptionError("init must not be given to a list whose guides are set up already: give it to theirs.")
        spaces = [member.space if member.is_set_up else member._find_latents(call) for member in self.members]
        _check_shares(spaces)
        if isinstance(init, Mapping):
            _check_names(init, spaces)
        starts: list[Init] = [None] * len(spaces)
        if space is not None:  # the base of another guide, which asks for one vector: it is whitened as a whole
            set_start(self.whitening, space, init, call.args, call.kwargs)
            for member in self.members:
                member.whitening.unit = self.whitening.unit
        elif self.may_be_base:
            space = LatentSpace(self.model, *call.args, **call.kwargs)
            starts = self._shared_out(init, space, spaces, call)
        elif init in ("laplace", "pathfinder"):
            raise OptionError(f"init={init!r} needs a list without encoders; got one. Write init='prior', or values.")
        else:
            starts = [_values_of(own, init) if isinstance(init, Mapping) else init for own in spaces]
        self._space = space
        for member, start in zip(self.members, starts, strict=True):
            if not member.is_set_up:
                member._set_up(call, start)
        self._ready = True

    def _shared_out(self, init: Init, space: LatentSpace, spaces: list[LatentSpace], call: Call) -> list[Init]:
        """What each member starts from; of a posterior, its marginal law."""
        if isinstance(init, Mapping):
            return [_values_of(own, init) for own in spaces]
        if init is None or init == "prior":
            return [init] * len(spaces)
        joint = Whitening()
        set_start(joint, space, init, call.args, call.kwargs)
        assert joint.loc is not None
        assert joint.scale is not None
        covariance = joint.scale @ joint.scale.mT
        self._space = space
        for member, own in zip(self.members, spaces, strict=True):
            at = torch.cat([self._place(site.name) for site in own.sites])
            member.whitening.start(joint.loc[at], torch.linalg.cholesky(covariance[at[:, None], at]), unit=joint.unit)
        return [None] * len(spaces)

    def _place(self, name: str) -> Tensor:
        """The coordinates of a site in the list's vector."""
        assert self._space is not None
        (site,) = (site for site in self._space.sites if site.name == name)
        return torch.arange(site.coordinates.start, site.coordinates.stop)

    def _draw(self, call: Call) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for member in self.members:
            values |= member._draw(call)
        return values

    @property
    def _parts(self) -> list[Guide]:
        return self.members


def _too_early(member: Guide) -> str:
    return (
        f"{type(member).__name__} looks at the model's density, which needs all other latents: it must be the last "
        "guide of its GuideList."
    )


def _check_shares(spaces: list[LatentSpace]) -> None:
    """See that every latent of the model belongs to one member."""
    names = [site.name for space in spaces for site in space.sites]
    missing = {name for space in spaces for name in space.hidden} - set(names)
    if missing:
        raise ModelError(f"every latent must belong to a guide of the list; got none for {', '.join(sorted(missing))}.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelError(
            f"a latent must belong to one guide of the list only; got several for {', '.join(twice)}. Give hide= or "
            "expose= to the guides."
        )


def _check_names(init: Mapping[str, Tensor], spaces: list[LatentSpace]) -> None:
    """See that every value given is of a latent that a guide without an encoder draws."""
    names = [site.name for space in spaces if space.data_plate is None for site in space.sites]
    for name in init:
        if name not in names:
            raise DataError(f"init must give values of latents without an encoder ({', '.join(names)}); got {name!r}.")


def _values_of(space: LatentSpace, values: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    if space.data_plate is not None:
        return None
    return {site.name: values[site.name] for site in space.sites if site.name in values}
