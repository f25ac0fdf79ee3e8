"""evidence: the log evidence between two bounds, each with its error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides import Guide
from guides.errors import DataError, ModelError, OptionError, choose, positive, whole_number
from ppl_models.diagnostics.annealing import Annealed, Moves, adapt, anneal, reverse, sigmoid_schedule
from ppl_models.diagnostics.draws import Drawing, Draws, SiteShape, are_chains
from ppl_models.diagnostics.judging import judging, widened
from ppl_models.diagnostics.noise_space import NoiseSpace
from ppl_models.diagnostics.normal_space import NormalSpace
from ppl_models.diagnostics.parts import parts_of
from ppl_models.reference import nuts
from ppl_models.training.batches import check_finite

if TYPE_CHECKING:
    import pandas as pd
    from arviz import InferenceData

__all__ = ["Bound", "Evidence", "evidence"]

#: Chains that only adapt the moves, and draws of the guide that give the reverse path its normal law.
ADAPTING_CHAINS, MOMENT_DRAWS = 32, 1000

#: Moves on the posterior before a reverse chain leaves it.
MIXING_MOVES = 10

#: Allowed for rounding, relative to a bound's size: sums of millions of float64 terms stay below it.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Bound:
    """A bound on log evidences, estimated several times independently.

    Args:
        estimates: Shape ``(G, *plates)``.
    """

    estimates: Tensor = field(repr=False)

    @property
    def mean(self) -> Tensor:
        """The mean over the estimates, ``(*plates,)``."""
        return self.estimates.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """Of :attr:`mean`, ``(*plates,)``."""
        return self.estimates.std(0) / math.sqrt(len(self.estimates))

    @property
    def per_datum(self) -> Bound:
        """The bound on the mean over the data, whose error knows that the data share no chance."""
        return Bound(self.estimates.flatten(1).mean(1)) if self.estimates.dim() > 1 else self

    def ends(self, level: float) -> tuple[Tensor, Tensor]:
        """Both ends of Student's two-sided interval for the bound, with an allowance for rounding."""
        from scipy.stats import t

        reach = t.ppf(0.5 + level / 2, len(self.estimates) - 1) * self.standard_error + ROUNDING * self.mean.abs()
        low, high = self.mean - reach, self.mean + reach
        return low.nan_to_num(nan=-math.inf, posinf=math.inf), high.nan_to_num(nan=math.inf, neginf=-math.inf)


@dataclass(frozen=True)
class Evidence:
    r"""What :func:`evidence` found.

    In expectation ``elbo``, ``iwae`` and ``annealed`` are below :math:`\log p(x)`, and ``upper`` is above it.

    Args:
        elbo: The mean log-weight of the guide's draws.
        iwae: The bound of K draws.
        annealed: The bound of K chains that start from those draws.
        upper: The bound of K chains that start from posterior draws; ``None`` without any.
        exact: Whether these draws were exact: otherwise the upper side is approximate.
        level: Of the intervals.
        acceptance: The mean acceptance rate of the moves, ``(*plates,)``.
    """

    elbo: Bound
    iwae: Bound
    annealed: Bound
    upper: Bound | None
    exact: bool
    level: float
    acceptance: Tensor = field(repr=False)

    @cached_property
    def interval(self) -> tuple[Tensor, Tensor]:
        r"""Where :math:`\log p(x)` lies: the lower end of ``annealed`` and the upper end of ``upper``, ``(*plates,)``.

        It lies between them with at least the level's probability, for the bounds themselves err to the safe side.
        Without an upper bound the second is infinite.
        """
        return self._interval(self.annealed, self.upper)

    @cached_property
    def interval_per_datum(self) -> tuple[float, float]:
        """The same for the mean over the data."""
        upper = None if self.upper is None else self.upper.per_datum
        low, high = self._interval(self.annealed.per_datum, upper)
        return low.item(), high.item()

    def _interval(self, lower: Bound, upper: Bound | None) -> tuple[Tensor, Tensor]:
        low, _ = lower.ends(self.level)
        return low, torch.full_like(low, math.inf) if upper is None else upper.ends(self.level)[1]

    @property
    def table(self) -> pd.DataFrame:
        """One row per bound, in nats per datum: ``mean``, ``standard_error``, ``low`` and ``high`` of its interval."""
        import pandas as pd

        rows = {}
        for name in ("elbo", "iwae", "annealed", "upper"):
            bound: Bound | None = getattr(self, name)
            if bound is not None:
                each = bound.per_datum
                low, high = each.ends(self.level)
                numbers = (each.mean, each.standard_error, low, high)
                rows[name] = dict(zip(("mean", "standard_error", "low", "high"), map(float, numbers), strict=True))
        return pd.DataFrame.from_dict(rows, orient="index")

    def __repr__(self) -> str:
        low, high = self.interval_per_datum
        data = max(1, self.elbo.mean.numel())
        side = "" if self.upper is None or self.exact else " (upper side approximate)"
        parts = [
            f"{name}={bound.per_datum.mean.item():.3f}+-{bound.per_datum.standard_error.item():.3f}"
            for name, bound in (("elbo", self.elbo), ("iwae", self.iwae), ("annealed", self.annealed))
        ]
        return f"Evidence({', '.join(parts)}, log p in [{low:.3f}, {high:.3f}]{side}, nats, data={data})"


@torch.no_grad()
def evidence(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    posterior: Mapping[str, Tensor] | InferenceData | str | None = None,
    method: str = "ais",
    num_particles: int = 8,
    num_batches: int = 16,
    num_temperatures: int = 50,
    num_leapfrog: int = 4,
    level: float = 0.99,
    max_batch: int = 50_000,
    vectorize_particles: bool = True,
    seed: int | None = None,
) -> Evidence:
    r"""Bound :math:`\log p(x)` from both sides, for each datum where they are independent.

    *Lower side.* Chains start from the guide's draws and are moved by Hamiltonian Monte Carlo through

    .. math:: \pi_\beta(e) \propto N(e; 0, I)\, w(e)^\beta, \qquad w(e) = p(x, z(e)) / q(z(e))

    where e is the standard normal noise that a draw z is made from. Of guides with an invertible map this is the
    geometric path from q to the posterior; guides without a density at arbitrary points (Hamiltonian, annealed) have it
    on the space of all their noise, and none needs to be inverted. ``elbo`` and ``iwae`` are those of the same draws.

    *Upper side.* Chains start from draws of the posterior and go back (bidirectional Monte Carlo). Since a guide need
    not know which noise a given z is made from, they go to the normal law with the mean and covariance of the guide's
    draws over the unconstrained latents; any path gives a bound. It is as good as the draws: exact ones for simulated
    data, whose latents are known, or for posteriors in closed form; and an approximation where they come from chains.
    Each chain first moves ten times on the posterior itself: chains that start from one draw are exact, but the error
    bars take them for independent, which they are as far as these moves forget where they began.

    Step sizes are adapted to each datum and temperature by other chains, whose draws are then dropped, so that all
    estimates are unbiased as they stand. G batches of K chains give G independent estimates of each bound, and these
    its standard error. Models and guides are in evaluation mode; all is computed in float64.

    Args:
        model: Any Pyro model with continuous latents.
        guide: Any guide of this library, or a Pyro guide whose draws are made from normal noise.
        *args: Arguments of both, tensors of N rows for models with independent data.
        posterior: Where the upper side comes from. Values by site: exact draws, ``(R, *shape)``, or the latents that
            the data were simulated with, ``(*shape)``. InferenceData, or ``"nuts"`` to run
            :func:`ppl_models.reference.nuts`: draws of chains, for an approximate one. No upper side by default.
        method: ``"ais"``, annealed importance sampling along ``num_temperatures``, or ``"smc"``, sequential Monte Carlo
            along temperatures that are chosen for each datum.
        num_particles: K, at least 2.
        num_batches: G, at least 2.
        num_temperatures: T, for ``"ais"``. Gaps close as 1 / T.
        num_leapfrog: Steps of a move.
        level: Of the intervals.
        max_batch: Upper limit of chains times data in one batched run; it bounds the memory.
        vectorize_particles: Whether chains run batched. Models that cannot be batched need ``False``.
        seed: Fixes all chance; the global generator is left as it was.

    Raises:
        OptionError: If an option breaks its rule.
        DataError: If data or weights are not finite, or ``posterior`` does not fit the model.
        ModelError: If the guide's draws are not made from normal noise, or the model has discrete latents.

    Example:
        >>> import torch
        >>> from guides import MeanFieldGuide
        >>> from ppl_models import OffsetGaussian
        >>> gaussian = OffsetGaussian(1)
        >>> x = torch.tensor([[0.3], [0.5]])
        >>> exact = {"z": gaussian.exact_posterior(x).sample((100,))}
        >>> found = evidence(gaussian, MeanFieldGuide(gaussian), x, posterior=exact, num_temperatures=10, seed=0)
        >>> low, high = found.interval
        >>> bool(low < gaussian.log_evidence(x) < high)
        True

    References:
        Radford M. Neal, Annealed importance sampling, 2001, https://arxiv.org/abs/physics/9803008.
        Roger Grosse, Zoubin Ghahramani, Ryan Adams, Sandwiching the marginal likelihood using bidirectional Monte
        Carlo, 2015, https://arxiv.org/abs/1511.02543, sections 3-4.
        Yuhuai Wu et al., On the Quantitative Analysis of Decoder-Based Generative Models, 2017,
        https://arxiv.org/abs/1611.04273, section 3, for decoders. Departures: the path starts from the guide, in the
        space of its noise.
        Pierre Del Moral, Arnaud Doucet, Ajay Jasra, Sequential Monte Carlo samplers, 2006,
        https://doi.org/10.1111/j.1467-9868.2006.00553.x, for ``"smc"``.
    """
    how = _How(
        method=choose("method", method, ["ais", "smc"]),
        num_particles=whole_number("num_particles", num_particles, least=2),
        num_batches=whole_number("num_batches", num_batches, least=2),
        num_temperatures=whole_number("num_temperatures", num_temperatures, least=1),
        num_leapfrog=whole_number("num_leapfrog", num_leapfrog, least=1),
        vectorize_particles=vectorize_particles,
        max_batch=whole_number("max_batch", max_batch, least=1),
    )
    positive("level", level, below=1, instead="Write level=0.99.")
    if isinstance(posterior, str) and posterior != "nuts":
        raise OptionError(f"posterior must be values by site, InferenceData or 'nuts'; got {posterior!r}.")
    check_finite(args)
    if isinstance(guide, Guide):
        guide.setup(*args)
    with judging(model, guide, seed), widened(model, guide, args):
        chains = max(how.num_particles * how.num_batches, ADAPTING_CHAINS)
        most = max(1, how.max_batch // chains)
        parts = parts_of(model, guide, args, most=most, caller="evidence", summarise=True)
        whole = args if parts.independent else parts.args[0]
        values = _nuts(model, whole, seed) if isinstance(posterior, str) else posterior
        exact = values is not None and not are_chains(values)
        found, start = [], 0
        for part, size in zip(parts.args, parts.sizes, strict=True):
            rows = slice(start, start + size) if parts.independent else None
            found.append(_bounds(model, guide, part, values, rows, how))
            start += size

    def joined(bounds: list[Tensor]) -> Bound:
        return Bound(torch.cat(bounds, 1) if parts.independent else bounds[0])

    starts = [each.start for each, _ in found]
    uppers = [upper for _, upper in found if upper is not None]
    return Evidence(
        elbo=joined([each.mean(1) for each in starts]),
        iwae=joined([each.logsumexp(1) - math.log(how.num_particles) for each in starts]),
        annealed=joined([each.log_evidence for each, _ in found]),
        upper=joined(uppers) if uppers else None,
        exact=exact,
        level=level,
        acceptance=torch.cat([each.acceptance for each, _ in found]) if parts.independent else found[0][0].acceptance,
    )


@dataclass(frozen=True)
class _How:
    """The options, checked."""

    method: str
    num_particles: int
    num_batches: int
    num_temperatures: int
    num_leapfrog: int
    vectorize_particles: bool
    max_batch: int


def _bounds(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    posterior: Mapping[str, Any] | None,
    rows: slice | None,
    how: _How,
) -> tuple[Annealed, Tensor | None]:
    """The lower side for some of the data and, from posterior draws, the upper one."""
    size, vectorized = (how.num_batches, how.num_particles), how.vectorize_particles
    space = NoiseSpace(model, guide, args, vectorize_particles=vectorized)
    moves = Moves(space, how.num_leapfrog)
    betas = sigmoid_schedule(how.num_temperatures, space) if how.method == "ais" else None
    lower = anneal(moves, adapt(moves, betas, ADAPTING_CHAINS), *size, resample=how.method == "smc")
    if posterior is None:
        return lower, None
    if len(space.plates_shape) > 1:
        raise ModelError("an upper bound needs data in one plate; got a model with several that are independent.")
    drawing = Drawing(model, guide, args, max_batch=how.max_batch, vectorize_particles=vectorized, caller="evidence")
    drawn = drawing.posterior(MOMENT_DRAWS)
    normal = NormalSpace(
        model, args, drawn.latents, amortised=len(space.plates_shape) == 1, vectorize_particles=vectorized
    )
    values = _posterior_draws(posterior, drawn, drawing.shapes, rows)
    moves = Moves(normal, how.num_leapfrog)
    schedule = adapt(moves, betas, ADAPTING_CHAINS)
    return lower, reverse(moves, schedule, normal.noise_of(values), *size, num_moves=MIXING_MOVES)


def _posterior_draws(
    posterior: Mapping[str, Any], drawn: Draws, shapes: Mapping[str, SiteShape], rows: slice | None
) -> dict[str, Tensor]:
    """The draws given, ``(R, *batch, *event)`` each, of some of the data."""
    chains = are_chains(posterior)
    source = posterior["posterior"] if chains else posterior
    if set(source) != drawn.latents.keys():
        raise DataError(f"posterior must hold values of {sorted(drawn.latents)}; got {sorted(map(str, source))}.")
    found = {}
    for name, like in drawn.latents.items():
        value = torch.tensor(source[name].values).flatten(0, 1) if chains else torch.as_tensor(source[name])
        value = value if value.dim() == like.dim() else value[None]
        if rows is not None and value.dim() == like.dim():
            (dim,) = (dim for dim, plate in shapes[name].plates.items() if plate == drawn.independent[0])
            place = value.dim() - shapes[name].event_dim + dim
            value = value.movedim(place, 0)[rows].movedim(0, place)
        if value.shape[1:] != like.shape[1:]:
            own, got = tuple(like.shape[1:]), tuple(value.shape[1:])
            raise DataError(f"posterior[{name!r}] must hold draws of shape {own}; got {got}.")
        found[name] = value.to(like.device, torch.float64)
    sizes = {len(value) for value in found.values()}
    if len(sizes) > 1:
        raise DataError(f"posterior must hold as many draws of each site; got {sorted(sizes)}.")
    order = torch.randperm(sizes.pop())  # no batch of chains starts from one stretch of a Markov chain
    return {name: value[order] for name, value in found.items()}


def _nuts(model: Callable[..., Any], args: tuple[Any, ...], seed: int | None) -> InferenceData:
    return nuts(model, *args, seed=int(torch.randint(2**31, ())) if seed is None else seed, progress=False)
