"""calibration: does a guide's posterior hold the truth as often as it says, on data that the model draws itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor, nn

from guides import Guide, GuideList
from guides.errors import ModelError, OptionError, whole_number
from ppl_models.diagnostics.calibrated import LOG_LIKELIHOOD, Calibration
from ppl_models.diagnostics.draws import Drawing, SiteShape
from ppl_models.diagnostics.judging import judging
from ppl_models.diagnostics.parts import parts_of
from ppl_models.diagnostics.refits import (
    FAILURES,
    PARTICLES,
    Refit,
    guide_parameters,
    holding,
    in_words,
    only,
    refitted,
)
from ppl_models.diagnostics.simulation import Replace, Replacement
from ppl_models.diagnostics.uniformity import UniformRanks
from ppl_models.training.batches import check_finite, num_rows, take_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["calibration"]

#: The fewest simulations and draws that a test can say anything by.
LEAST = 19

#: How often the truth's place is drawn anew, for the chance in all quantities together.
EXCHANGES = 999

NOT_FINITE = "draws or densities that are not finite"
NOT_FINITE_DATA = "simulated data that are not finite"

#: Fits a guide in place to the arguments given, or returns another that is fitted.
Recipe = Callable[..., Any]


def calibration(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_simulations: int = 1000,
    num_draws: int = 199,
    refit: bool | Refit | Recipe | None = None,
    replace: Replace | None = None,
    max_batch: int = 50_000,
    vectorize_particles: bool = True,
    seed: int | None = None,
) -> Calibration:
    r"""Hold a guide against truths that are known, because the model has drawn them and the data.

    .. math::
        z^*_s \sim p(z), \quad x_s \sim p(x \mid z^*_s), \quad z_{s1}, \dots, z_{sL} \sim q(z \mid x_s), \qquad
        r_s = \#\{l : z_{sl} < z^*_s\}

    If q is the posterior, truth and draws are exchangeable, and ranks are uniform on 0, ..., L. *SBC* takes the guide
    as it stands, which reads the data; *VSBC* fits the guide to each data set anew. What is tested is the guide, and
    the fit, on data that the model expects, not on those at hand.

    Ranks are of every element of every latent, and of :math:`\log p(x \mid z)`, by which a guide is found out that
    does not look at the data at all: for the prior has calibrated ranks of latents too. Ties are broken by chance.
    Where the data are independent, one simulation is one datum, and all elements of a latent that differ by the datum
    alone are ranked together.

    P-values know that ranks are discrete. The overall one is corrected for the number of quantities however they
    depend on each other: under the hypothesis any of the draws could have been the truth, and when it takes its place,
    in all quantities at once, that shows what chance would do.

    Args:
        model: Any Pyro model that can draw its data. Its parameters stay as they are.
        guide: Any Pyro guide of it.
        *args: Arguments of both. Of the observed values there must be an argument with the same entries, which the
            simulated ones take the place of; all else, covariates for example, is kept.
        num_simulations: S, at least 19. With data that are independent, it is the number of them that are drawn.
        num_draws: L, at least 19. With 199, central intervals of 50, 80, 90 and 95 % are ranks exactly.
        refit: Whether to fit the guide to each data set. ``False`` for guides with an encoder, ``True`` for all others
            of this library, by default; of other Pyro guides it must be said. A :class:`Refit` says how.
            A function ``recipe(model, guide, *args)`` fits the guide in place, each time from the parameters that it
            has now, or returns another.
        replace: Function from the arguments and simulated data by site to arguments that hold them, for models whose
            data are not one argument as they stand.
        max_batch: Upper limit of draws times data in one batched run, and of fits times data.
        vectorize_particles: Whether to draw in batched runs. Models that cannot be batched need ``False``.
        seed: Fixes all chance; the global generator is left as it was.

    Returns:
        The ranks, their p-values, how often central intervals hold the truth, and plots. Simulations that failed,
        because a fit diverged or a number was not finite, have no rank and are counted.

    Raises:
        OptionError: If a number breaks its rule, or it is not known whether to refit.
        DataError: If the data are subsampled, or not found among the arguments.
        ModelError: If the model cannot draw its latents and data, the guide leaves out a latent, or all simulations
            failed.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x, scale=0.5**0.5):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, scale))
        >>> options = {"refit": False, "num_simulations": 500, "num_draws": 39, "seed": 0}
        >>> calibration(model, guide, torch.zeros(10), **options).p_value > 0.01
        True
        >>> wrong = calibration(model, lambda x: guide(x, 0.5), torch.zeros(10), **options)
        >>> wrong.p_value < 0.01, bool(wrong.table.loc["z"].spread > 1)
        (True, True)

    References:
        Sean Talts et al., Validating Bayesian Inference Algorithms with Simulation-Based Calibration, 2018,
        https://arxiv.org/abs/1804.06788, algorithm 1; draws are independent, so that none is thinned out.
        Yuling Yao et al., Yes, but Did It Work?: Evaluating Variational Inference, 2018,
        https://arxiv.org/abs/1802.02538, section 3.2.
        Martin Modrák et al., Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test
        Quantities Shapes Sensitivity, 2023, https://arxiv.org/abs/2211.02383, for the likelihood as a quantity.
        Peter H. Westfall, S. Stanley Young, Resampling-Based Multiple Testing, 1993, section 2.3, for the correction.
    """
    num_simulations = whole_number("num_simulations", num_simulations, least=LEAST, instead="Fewer can show nothing.")
    num_draws = whole_number("num_draws", num_draws, least=LEAST, instead="Write num_draws=199.")
    max_batch = whole_number("max_batch", max_batch, least=1)
    check_finite(args)
    if isinstance(guide, Guide):
        guide.setup(*args)
    with judging(model, guide, seed), torch.no_grad():
        how = _refit_of(model, guide, refit)
        runs = _Runs(model, guide, args, replace, num_draws, max_batch, vectorize_particles)
        if how is None:
            blocks, described = list(runs.as_it_stands(num_simulations)), "the guide as it stands"
        elif isinstance(how, Refit):
            blocks, described = runs.refitted(num_simulations, how)
        else:
            blocks, described = list(runs.by_recipe(num_simulations, how)), "a recipe for each"
        exchange = torch.randint(num_draws + 1, (EXCHANGES, sum(len(block.reasons) for block in blocks)))
    reasons = [reason for block in blocks for reason in block.reasons]
    failures = Counter(reason for reason in reasons if reason is not None)
    known = torch.tensor([reason is None for reason in reasons])
    if known.sum() < LEAST:
        raise ModelError(
            f"at least {LEAST} simulations must come to an end; of {len(known)} {int(known.sum())} did. The others: "
            f"{'; '.join(failures)}."
        )
    like = next(block.ranks for block in blocks if block.ranks is not None)
    ranks = {name: torch.cat([block.of(name, each) for block in blocks], 1) for name, each in like.items()}
    return Calibration(
        ranks={
            name: torch.where(known.reshape(-1, *[1] * (each.dim() - 2)), each[0].long(), -1)
            for name, each in ranks.items()
        },
        num_draws=num_draws,
        method="SBC" if how is None else "VSBC",
        how=described,
        failures=dict(failures),
        by_chance=_by_chance([_flat(each[:, known]) for each in ranks.values()], exchange[:, known]),
    )


@dataclass(frozen=True)
class _Block:
    """What came of some simulations.

    Args:
        ranks: By quantity, of the truth and of each draw among all of them, ``(L + 1, n, *shape)``; ``None`` if all
            have failed.
        reasons: Why each of the n failed, if it did.
    """

    ranks: dict[str, Tensor] | None
    reasons: list[str | None]

    def of(self, name: str, like: Tensor) -> Tensor:
        """The ranks of a quantity, or as many zeros."""
        if self.ranks is None:
            return like.new_zeros(len(like), len(self.reasons), *like.shape[2:])
        return self.ranks[name]


class _Runs:
    """Simulations of one model and guide."""

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        replace: Replace | None,
        num_draws: int,
        max_batch: int,
        vectorize_particles: bool,
    ) -> None:
        self.model, self.guide, self.args = model, guide, args
        self.num_draws, self.max_batch, self.vectorized = num_draws, max_batch, vectorize_particles
        self.replacement = Replacement(model, guide, args, replace)
        parts = parts_of(model, guide, args, most=max_batch, caller="calibration")
        self.size = sum(parts.sizes)
        #: How many data have latents of their own; ``None`` if all share some.
        self.independent = self.size if parts.independent else None
        self.drawing = self._drawing(args)
        truth = self._simulate(self.drawing, 1)
        self.replacement.check_shapes({name: value[0] for name, value in truth.items()})
        first = self._data(truth, 0)
        self.replacement.check(self.replacement(args, first), first)

    def as_it_stands(self, num_simulations: int) -> Iterator[_Block]:
        """Take the guide as it is: for many independent data at once, or one data set after the other."""
        if self.independent is None:
            truth = self._simulate(self.drawing, num_simulations)
            for s in range(num_simulations):
                yield self._judged(truth, s)
            return
        rows = torch.arange(num_simulations) % num_rows(self.args)
        for chosen in rows.split(max(1, self.max_batch // (self.num_draws + 1))):
            drawing = self._drawing(take_rows(self.args, chosen))
            truth = self._simulate(drawing, 1)
            args = self.replacement(drawing.args, self._data(truth, 0))
            yield self._ranked(drawing.at(args), {name: value[0] for name, value in truth.items()})

    def refitted(self, num_simulations: int, how: Refit) -> tuple[list[_Block], str]:
        """Fit the guide to all data sets, and then draw from each."""
        assert isinstance(self.guide, nn.Module), "checked before"
        truth, sets = self._sets(num_simulations)
        usable = [s for s, args in enumerate(sets) if _finite(args)]
        if not usable:
            raise ModelError("the model must draw finite data from its prior; none of the simulated ones are.")
        particles = PARTICLES if how.objective is None else how.objective.num_particles
        most = max(1, self.max_batch // (self.size * particles))
        found = refitted(self.model, self.guide, [sets[s] for s in usable], how, most=most)
        parameters, rows = guide_parameters(self.model, self.guide), {s: i for i, s in enumerate(usable)}
        blocks = []
        for s in range(len(sets)):
            if s not in rows or rows[s] in found.failed:
                blocks.append(self._failed(found.failed[rows[s]] if s in rows else NOT_FINITE_DATA))
                continue
            with holding(parameters, {name: value[rows[s]] for name, value in found.parameters.items()}):
                blocks.append(self._judged(truth, s))
        return blocks, found.how

    def by_recipe(self, num_simulations: int, recipe: Recipe) -> Iterator[_Block]:
        """Call a recipe for each data set, from the same start."""
        truth, sets = self._sets(num_simulations)
        modules = [part for part in (self.model, self.guide) if isinstance(part, nn.Module)]
        everything = {f"{i}.{name}": p for i, part in enumerate(modules) for name, p in part.named_parameters()}
        own = guide_parameters(self.model, self.guide) if isinstance(self.guide, nn.Module) else {}
        start = {name: p.detach().clone() for name, p in everything.items()}
        stored = deepcopy(pyro.get_param_store().get_state())
        for s, args in enumerate(sets):
            if not _finite(args):
                yield self._failed(NOT_FINITE_DATA)
                continue
            with holding(everything, start), pyro.get_param_store().scope(deepcopy(stored)):
                try:
                    with torch.enable_grad(), only(own.values(), *modules):
                        made = recipe(self.model, self.guide, *args)
                except FAILURES as error:
                    yield self._failed(in_words(error))
                    continue
                yield self._judged(truth, s, guide=made if callable(made) else self.guide)

    def _sets(self, num_simulations: int) -> tuple[dict[str, Tensor], list[tuple[Any, ...]]]:
        """Truths and data of as many data sets as it takes, ``(R, *batch, *event)`` each."""
        num = math.ceil(num_simulations / (self.independent or 1))
        truth = self._simulate(self.drawing, num)
        return truth, [self.replacement(self.args, self._data(truth, s)) for s in range(num)]

    def _drawing(self, args: tuple[Any, ...]) -> Drawing:
        return Drawing(
            self.model,
            self.guide,
            args,
            max_batch=self.max_batch,
            vectorize_particles=self.vectorized,
            caller="calibration",
        )

    def _simulate(self, drawing: Drawing, num: int) -> dict[str, Tensor]:
        return drawing.prior(num, instead="Only what a model can draw itself can be held against truths.")

    def _data(self, truth: dict[str, Tensor], s: int) -> dict[str, Tensor]:
        return {name: truth[name][s] for name in self.replacement.observed}

    def _failed(self, reason: str) -> _Block:
        return _Block(None, [reason] * (self.independent or 1))

    def _judged(self, truth: dict[str, Tensor], s: int, guide: Callable[..., Any] | None = None) -> _Block:
        """Draw given one of the data sets, and rank its truth."""
        args = self.replacement(self.args, self._data(truth, s))
        if not _finite(args):
            return self._failed(NOT_FINITE_DATA)
        drawing = self.drawing.at(args)
        if guide is not None:
            drawing.guide = guide
        return self._ranked(drawing, {name: value[s] for name, value in truth.items()})

    def _ranked(self, drawing: Drawing, truth: dict[str, Tensor]) -> _Block:
        drawn = drawing.posterior(self.num_draws)
        plate = drawn.independent[0] if self.independent is not None else None
        both = {name: torch.cat([truth[name][None].to(value), value]) for name, value in drawn.latents.items()}
        _, scores = drawing.given(both)
        values = {name: _apart(value, drawing.shapes[name], plate) for name, value in both.items()}
        # Of each simulation one number: that of its datum, or of all its data.
        likelihoods = [
            _apart(score, SiteShape(0, drawing.shapes[name].plates, drawing.shapes[name].batch_dim), plate)
            for name, score in scores.items()
        ]
        values[LOG_LIKELIHOOD] = torch.stack([_flat(each).sum(-1) for each in likelihoods]).sum(0)
        finite = torch.stack([_flat(value).isfinite().all(-1).all(0) for value in values.values()]).all(0)
        reasons = [None if ok else NOT_FINITE for ok in finite.tolist()]
        return _Block({name: ranks_of(value).cpu() for name, value in values.items()}, reasons)


def ranks_of(values: Tensor) -> Tensor:
    """The rank of each of some values ``(L + 1, *)`` among the others, ties broken by chance."""
    shuffled = torch.rand(values.shape, dtype=torch.float64, device=values.device).argsort(0)
    order = values.gather(0, shuffled).argsort(dim=0, stable=True)
    ranks = torch.empty_like(order)
    return ranks.scatter_(0, shuffled.gather(0, order), _counted(order)).to(torch.int32)


def _counted(like: Tensor) -> Tensor:
    return torch.arange(len(like), device=like.device).reshape(-1, *[1] * (like.dim() - 1)).expand_as(like)


def _apart(value: Tensor, shape: SiteShape, plate: str | None) -> Tensor:
    """Bring ``(L + 1, *batch, *event)`` to ``(L + 1, n, *rest)``, n the data of an independent plate, or else 1."""
    if plate is None:
        return value[:, None]
    (dim,) = (dim for dim, name in shape.plates.items() if name == plate)
    return value.movedim(value.dim() - shape.event_dim + dim, 1)


def _flat(values: Tensor) -> Tensor:
    """All quantities of a simulation side by side, ``(L + 1, n, Q)``."""
    return values.reshape(*values.shape[:2], -1)


def _finite(args: tuple[Any, ...]) -> bool:
    return all(bool(arg.isfinite().all()) for arg in args if isinstance(arg, Tensor))


def _by_chance(ranks: list[Tensor], exchange: Tensor) -> NDArray[np.float64]:
    """The smallest tails of all quantities when other draws stand in the truth's place, in order.

    Args:
        ranks: Of the truth and each draw, ``(L + 1, S, Q)`` for some of the quantities each.
        exchange: Which of them takes the place, ``(B, S)``.
    """
    import numpy as np

    every = torch.cat(ranks, 2).numpy()
    law = UniformRanks(every.shape[1], len(every) - 1)
    places = np.arange(every.shape[1])
    return np.sort([law.least_tail(law.counts(every[chosen, places])).min() for chosen in exchange.numpy()])


def _refit_of(
    model: Callable[..., Any], guide: Callable[..., Any], refit: bool | Refit | Recipe | None
) -> Refit | Recipe | None:
    """How the guide is fitted to each data set; ``None`` if it is not."""
    if refit is None:
        if not isinstance(guide, Guide):
            raise OptionError(
                "refit must be given for guides of other kinds: refit=False if the guide reads the data it is called "
                "with, refit=True if its parameters are fitted to one data set."
            )
        members = guide.members if isinstance(guide, GuideList) else [guide]
        refit = any(not member.amortised and list(member.parameters()) for member in members)
    if refit is False:
        return None
    if refit is not True and not isinstance(refit, Refit):
        if not callable(refit):
            raise TypeError(f"refit must be True, False, a Refit or a function; got {refit!r}. Write refit=Refit().")
        return refit
    if not isinstance(guide, nn.Module):
        raise OptionError(
            f"to be refitted the guide must be a module; got {type(guide).__name__}. Write a function of model, guide "
            "and arguments that fits it, or returns a fitted one."
        )
    guide_parameters(model, guide)
    return Refit() if refit is True else refit
