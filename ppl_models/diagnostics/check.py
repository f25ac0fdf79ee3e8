"""check: one call that says whether to believe a fit, and shows why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor, nn

from guides import Guide, LatentSpace, MeanFieldGuide
from guides.errors import DataError, ModelError, OptionError, whole_number
from ppl_models.diagnostics.collapse import collapse
from ppl_models.diagnostics.draws import Drawing, Draws
from ppl_models.diagnostics.evidence import Evidence, evidence
from ppl_models.diagnostics.findings import (
    FEW_DRAWS,
    LEVELS,
    MANY_DRAWS,
    PASS,
    Finding,
    Threshold,
    finding,
)
from ppl_models.diagnostics.importance import ImportanceNLL, importance_nll
from ppl_models.diagnostics.moments import Differences, Summary, corrected
from ppl_models.diagnostics.precision import widened
from ppl_models.diagnostics.predictive import held_out_density, predictive_check
from ppl_models.diagnostics.psis import MIN_DRAWS, k_hat, smooth
from ppl_models.diagnostics.reference_chains import ReferenceChains
from ppl_models.diagnostics.verdict import Verdict
from ppl_models.reference import nuts
from ppl_models.training.batches import check_finite
from ppl_models.training.modes import evaluating

if TYPE_CHECKING:
    from arviz import InferenceData

__all__ = ["check"]

_PSIS = "Aki Vehtari et al., Pareto Smoothed Importance Sampling, 2024, https://arxiv.org/abs/1507.02646"
_YAO = "Yuling Yao et al., Yes, but Did It Work?, 2018, https://arxiv.org/abs/1802.02538"

#: Beyond this shape no number of draws corrects a guide's answers.
LARGEST_K_HAT = 0.7

FINITE = Threshold(0.0, 0.0, "a density is a number")

EFFECTIVE = Threshold(
    400.0,
    float(MANY_DRAWS),
    "Aki Vehtari et al., Rank-normalization, folding, and localization, 2021, https://arxiv.org/abs/1903.08008, section "
    f"4.1, and Gelman et al. 2013, section 10.5: {MANY_DRAWS}",
)

LOOKS = Threshold(1.0, -math.inf, f"{_YAO}, section 3: weights of draws from one mode know nothing of another")

#: Chains from the prior: of sequential Monte Carlo, in batches that each give an estimate.
PRIOR_CHAINS, PRIOR_BATCHES = 32, 8

#: How many chains annealed from the guide make one estimate of the evidence; the ELBO's draws are cut likewise.
PARTICLES = 8

#: A mode as heavy as all that the guide knows adds log 2 to the log evidence; two standard errors must be half of that.
CLEAR = 0.5 * math.log(2)

_FIT = "Train longer, with schedule='cosine' or average=0.2; if that changes nothing, take a richer guide."
_RICHER = "Take a richer guide (FullRankGuide, IAFGuide, HamiltonianGuide over the present one), or write the model in another form."
_MORE = "Draw more: num_samples=; if the share of effective draws stays small, take a richer guide."
_BEYOND = "Give reference='nuts', or a guide with several modes: something weighs more than the guide knows of."
_LOOK = "Give reference='nuts', or exact draws: nothing has looked where the guide does not."
_ADVICE = {
    "mean": _FIT,
    "sd": "Take a guide that knows correlations (FullRankGuide, IAFGuide), or train longer.",
    "quantiles": "Take a guide whose marginals are not normal (IAFGuide, PlanarGuide, HamiltonianGuide).",
}


@torch.no_grad()
def check(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    reference: Mapping[str, Tensor] | InferenceData | str | None = None,
    held_out: Tensor | tuple[Any, ...] | None = None,
    num_samples: int = 4000,
    anneal: bool = True,
    max_batch: int = 50_000,
    vectorize_particles: bool = True,
    seed: int | None = None,
) -> Verdict:
    r"""Say whether a guide's answers can be believed: ``pass``, ``doubtful`` or ``fail``, with the reasons.

    The yardstick of all errors is what n exact draws of the posterior would leave: an answer passes that is as good as
    those of 100, and fails if it is worse than those of 12. Where the truth is known with an error only, a number passes
    if it may be within the first and surely is within the second, and fails if it surely is beyond that. The verdict is
    that of the worst finding. Of data with latents of their own, a few bad ones make it doubtful, most of them a
    failure.

    - *k-hat* of the importance weights :math:`p(x, z) / q(z)`: of all latents together (of each datum, if these have
      their own), and of each site, with weights times the distance from its mean.
    - *Effective draws* among the weighted ones.
    - *Means, log sds and quantiles* of the unconstrained latents against the same draws weighted, where k-hat allows
      it, and against the reference, in standard deviations of these.
    - *Evidence gap*: :math:`\mathrm{KL}(q \,\|\, p) = \log p(x) - \mathrm{ELBO}`, with :math:`\log p(x)` by chains that
      are annealed from the guide. By Pinsker's inequality no probability is off by more than :math:`\sqrt{KL / 2}`: at
      :math:`1 / (2 n)` by as much as n draws leave at most. It fails beyond :math:`D / n` for D latents (of each datum):
      there means and sds are off, on average, as n draws would leave them.
    - *Evidence from the prior*: the same, with chains that come from the prior and never saw the guide. Mass that the
      guide never visits cannot show in its weights, and hardly in chains that start from it; it can here. Where these
      chains do not arrive, and there is no good reference, nothing has looked beyond the guide, and no verdict passes.
    - *The reference* itself: divergences, R-hat, effective draws and E-BFMI. A bad one never fails a guide, and never
      lets one pass.
    - *Collapse*, for latents of single data: active units and the divergence of each site from its prior.
    - *The model*: whether the data are like those that it draws (``predictive check``), and with ``held_out`` whether
      those are. No finding about the posterior can know of a wrong model.

    Args:
        model: Any Pyro model with continuous latents.
        guide: Any Pyro guide of it.
        *args: Arguments of both. For a model with independent data some of the data will do: each costs as much.
        reference: What to hold the guide against: ``"nuts"`` to run :func:`ppl_models.reference.nuts`; its, or other,
            InferenceData; or exact draws by site, ``(R, *batch, *event)`` each.
        held_out: Arguments with data that the fit has not seen.
        num_samples: S, draws of the guide, at least 25; with less than 2000 or so, k-hat may be too uncertain to pass.
        anneal: Whether to run the annealed chains, from the guide and from the prior. Without, a pass needs a reference.
        max_batch: Upper limit of draws times data in one batched run; it bounds the memory.
        vectorize_particles: Whether to draw in batched runs. Models that cannot be batched need ``False``.
        seed: Fixes all chance; the global generator is left as it was.

    Raises:
        OptionError: If an option breaks its rule.
        DataError: If data are not finite or subsampled, or the reference has other sites or shapes.
        ModelError: If the model has discrete latents, or NUTS cannot run it.

    Example:
        >>> import torch
        >>> from guides import MeanFieldGuide
        >>> from ppl_models import OffsetGaussian
        >>> gaussian = OffsetGaussian(1)
        >>> x = torch.tensor([[0.3], [0.5]])
        >>> verdict = check(gaussian, MeanFieldGuide(gaussian), x, num_samples=500, anneal=False, seed=0)
        >>> verdict.level, verdict["k-hat"].level
        ('fail', 'fail')

    References:
        Yuling Yao, Aki Vehtari, Daniel Simpson, Andrew Gelman, Yes, but Did It Work?: Evaluating Variational
        Inference, 2018, https://arxiv.org/abs/1802.02538, section 3.
        Jonathan H. Huggins, Mikołaj Kasprzak, Trevor Campbell, Tamara Broderick, Validated Variational Inference via
        Practical Posterior Error Bounds, 2020, https://arxiv.org/abs/1910.04102, for what a gap says of an answer.
        Each finding names the paper of its threshold.
    """
    num_samples = whole_number("num_samples", num_samples, least=MIN_DRAWS)
    max_batch = whole_number("max_batch", max_batch, least=1)
    if isinstance(reference, str) and reference != "nuts":
        raise OptionError(f"reference must be 'nuts', InferenceData or exact draws by site; got {reference!r}.")
    held_out = (held_out,) if isinstance(held_out, Tensor) else held_out
    check_finite(args)
    check_finite(held_out or (), name="held-out argument")
    if isinstance(guide, Guide):
        guide.setup(*args)
    how = _How(max_batch, vectorize_particles)
    with torch.random.fork_rng(enabled=seed is not None), evaluating(model, guide), pyro.validation_enabled(False):
        if seed is not None:
            torch.manual_seed(seed)
        with widened(model, guide, args):
            seen = _Seen.of(model, guide, args, num_samples, how)
            bad = seen.bad_weights()
            if bad is not None:
                return Verdict((bad,), ("The other numbers are made of log-weights, and were not computed.",))
            findings = seen.weights_findings() + seen.corrected_findings()
            drawn = seen.drawn
        source = (
            nuts(model, *args, seed=int(torch.randint(2**31, ())), progress=False) if reference == "nuts" else reference
        )
        notes, chains = [], None
        if source is not None:
            chains = ReferenceChains(source, drawn.latents)
            judged = chains.findings()
            findings += judged + seen.reference_findings(chains)
        believed = chains is not None and all(each.level == PASS for each in judged)
        if anneal:
            found, note, arrived = _evidence_findings(model, guide, args, seen, source, how)
            findings += found
            notes += note
        if not believed and not (anneal and arrived):
            looks = Finding("looks beyond the guide", LEVELS[1], 0.0, None, LOOKS, _LOOK)
            findings.append(looks)
        if not believed:
            notes.append(
                "Without a reference that is to be trusted, posterior mass that neither the guide nor chains from the "
                "prior have met cannot be seen."
            )
        with widened(model, guide, args):
            findings += seen.collapse_findings() + predictive_check(seen.drawing, drawn)
        if held_out is not None:
            with widened(model, guide, held_out):
                findings += _held_out_findings(model, guide, args, held_out, seen, how)
        elif drawn.observed:
            notes.append("The predictive check has seen the data that were fitted; held_out= is the harder test.")
    findings.sort(key=lambda each: -LEVELS.index(each.level))
    return Verdict(tuple(findings), tuple(notes), seen.shapes, None if chains is None else source)


@dataclass(frozen=True)
class _How:
    """How to draw."""

    max_batch: int
    vectorize_particles: bool


@dataclass(frozen=True)
class _Seen:
    """What the guide's draws say.

    Args:
        drawing: Of model and guide.
        drawn: The draws.
        space: The latents as one vector, of each datum if these are independent.
        vectors: The draws in it, ``(S, D)`` or ``(S, N, D)``.
    """

    drawing: Drawing
    drawn: Draws
    space: LatentSpace
    vectors: Tensor

    @classmethod
    def of(
        cls, model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], num_samples: int, how: _How
    ) -> _Seen:
        LatentSpace(model, *args)  # refuses discrete latents before anything is drawn
        drawing = Drawing(
            model, guide, args, max_batch=how.max_batch, vectorize_particles=how.vectorize_particles, caller="check"
        )
        drawn = drawing.posterior(num_samples)
        if len(drawn.independent) > 1:
            raise ModelError(f"check needs independent data in one plate; got {', '.join(drawn.independent)}.")
        space = LatentSpace(model, *args, amortised=bool(drawn.independent))
        return cls(drawing, drawn, space, space.unconstrain(drawn.latents).double())

    @property
    def independent(self) -> bool:
        """Whether each datum has latents of its own."""
        return bool(self.drawn.independent)

    @property
    def log_weights(self) -> Tensor:
        """Shape ``(S,)`` or ``(S, N)``."""
        return self.drawn.log_weights.double()

    def bad_weights(self) -> Finding | None:
        """Log-weights that are no numbers."""
        bad = self.log_weights.isnan() | (self.log_weights == math.inf) | ~self.vectors.isfinite().all(-1)
        if not bad.any():
            return None
        share = float(bad.double().mean())
        return Finding(
            "share of draws without a density",
            LEVELS[2],
            share,
            None,
            FINITE,
            "Run fit or nuts with the same data: they name the site whose log density is NaN or infinite.",
            f"log p - log q is NaN or plus infinity, or a draw infinite, at {int(bad.sum())} of {bad.numel()}",
        )

    @cached_property
    def smoothed(self) -> tuple[Tensor, Tensor]:
        """Smoothed log-weights and the shapes of their tails."""
        return smooth(self.log_weights)

    @property
    def shapes(self) -> Tensor:
        """k-hat, ``()`` or ``(N,)``."""
        return self.smoothed[1]

    def datum(self, i: int) -> str:
        """What a number about a datum is about."""
        return f"datum {i}" if self.independent else "all latents"

    def weights_findings(self) -> list[Finding]:
        """Their tails and their effective number."""
        num = len(self.log_weights)
        log_smoothed, shapes = self.smoothed
        threshold = Threshold(
            min(0.5, 1 - 1 / math.log10(num)),
            LARGEST_K_HAT,
            f"{_YAO}, section 3.1; {_PSIS}, section 3.2.4",
            estimate=True,
        )
        options: dict[str, Any] = {"most": self.independent}
        found = [
            finding(
                "k-hat", shapes, _k_hat_error(shapes, num), threshold, _RICHER,
                label=self.datum if self.independent else None, detail="" if num >= 100 else f"{num} draws are too few",
                **options,
            )
        ]  # fmt: skip
        spread = self.vectors.std(0).clamp(min=1e-300)
        distances = ((self.vectors - self.vectors.mean(0)) / spread).square()
        sites = {}
        for site in self.space.sites:
            own = distances[..., site.coordinates].sum(-1)
            sites[site.name] = k_hat(self.log_weights + 0.5 * own.log())
        each = torch.stack([shape.reshape(-1) for shape in sites.values()], -1)  # (N, sites)
        names = list(sites)
        found.append(
            finding(
                "k-hat of sites",
                each,
                _k_hat_error(each, num),
                threshold,
                _RICHER,
                label=lambda i: f"{names[i % len(names)]}{f', datum {i // len(names)}' if self.independent else ''}",
                **options,
            )
        )
        found.append(
            finding(
                "effective draws",
                1 / (2 * log_smoothed).exp().sum(0),
                None,
                EFFECTIVE,
                _MORE,
                label=self.datum if self.independent else None,
                detail=f"of {num}",
                **options,
            )
        )
        return found

    def _label(self, rows: list[int] | None) -> Callable[[int], str]:
        def label(i: int) -> str:
            site = self.space.site_at(i % self.space.dim)
            size = site.coordinates.stop - site.coordinates.start
            place = "" if size == 1 else f"[{i % self.space.dim - site.coordinates.start}]"
            return f"{site.name}{place}" + ("" if rows is None else f" of datum {rows[i // self.space.dim]}")

        return label

    def corrected_findings(self) -> list[Finding]:
        """The draws against themselves, weighted, where k-hat allows it."""
        log_smoothed, shapes = self.smoothed
        good = shapes <= LARGEST_K_HAT
        if not good.any():
            return []
        weights = log_smoothed.exp()
        if not self.independent:
            return corrected(self.vectors, weights[:, None]).findings(
                "by weights", _ADVICE, self._label(None), most=False
            )
        rows = good.nonzero()[:, 0].tolist()
        draws = self.vectors[:, rows].flatten(1)
        wide = weights[:, rows, None].expand(-1, -1, self.space.dim).flatten(1)
        return corrected(draws, wide).findings("by weights", _ADVICE, self._label(rows), most=True)

    def reference_findings(self, chains: ReferenceChains) -> list[Finding]:
        """The draws against those of a reference."""
        flat = self.space.unconstrain(chains.flat())
        theirs = flat.unflatten(0, (chains.num_chains, -1)).flatten(2)
        if not theirs.isfinite().all():
            raise DataError("reference must hold draws inside the latents' supports; got some on an edge or outside.")
        num = len(self.vectors) // 4 * 4
        own = self.vectors[:num].unflatten(0, (4, num // 4)).flatten(2)
        differences = Differences.between(Summary.of(own), Summary.of(theirs))
        rows = list(range(self.vectors.shape[1])) if self.independent else None
        return differences.findings("against the reference", _ADVICE, self._label(rows), most=self.independent)

    def gap_to(self, found: Evidence) -> tuple[Tensor, Tensor]:
        """The evidence by annealed chains less the ELBO, ``(N,)`` or ``(1,)``, and its standard error.

        In two parts, each of differences between numbers made from the same draws: chains less importance weights of
        their starts, and importance weights less their mean logarithm.
        """
        annealed = (found.annealed.estimates - found.iwae.estimates).flatten(1) if self.independent else (
            found.annealed.estimates - found.iwae.estimates
        )[:, None]  # fmt: skip
        values = self.log_weights.reshape(len(self.log_weights), -1)
        blocks = values[: len(values) // PARTICLES * PARTICLES].unflatten(0, (-1, PARTICLES))
        bound = blocks.logsumexp(1) - math.log(PARTICLES)
        gain = bound - blocks.mean(1)
        value = annealed.mean(0) + gain.mean(0)
        error = torch.hypot(annealed.std(0) / math.sqrt(len(annealed)), gain.std(0) / math.sqrt(len(gain)))
        infinite = blocks.mean(1).isinf().any(0)
        return torch.where(infinite, math.inf, value), torch.where(infinite, 0.0, error)

    def collapse_findings(self) -> list[Finding]:
        """Latents of single data that say nothing about them."""
        if not self.independent:
            return []
        names = [self.space.site_at(i).name for i in range(self.space.dim)]
        return collapse(self.vectors, names, self.drawn.divergences)


def _evidence_findings(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    seen: _Seen,
    source: Any,
    how: _How,
) -> tuple[list[Finding], list[str], bool]:
    """The gaps, what could not be found, and whether chains from the prior arrived."""
    options: dict[str, Any] = {"max_batch": how.max_batch, "vectorize_particles": how.vectorize_particles}
    dim = seen.space.dim
    threshold = Threshold(
        1 / (2 * MANY_DRAWS),
        dim / FEW_DRAWS,
        f"by Pinsker's inequality the error of {MANY_DRAWS} draws (Gelman et al. 2013); an average latent worse than "
        f"{FEW_DRAWS} leave it (MacKay 2003)",
    )
    findings, notes, arrived = [], [], False
    try:
        found = evidence(model, guide, *args, posterior=source, num_particles=PARTICLES, **options)
    except (DataError, ModelError) as error:
        notes.append(f"No chains could be annealed from the guide: {error}")
    else:
        value, error = seen.gap_to(found)
        highest, detail = None, f"acceptance {float(found.acceptance.mean()):.2f}"
        if found.upper is not None:
            width = (found.upper.mean - found.annealed.mean).reshape(-1)
            highest = value + width.clamp(min=0)
            detail = f"two-sided: the upper side is {float(width.mean()):.3g} nats above"
        findings.append(
            finding(
                "evidence gap",
                value,
                error,
                threshold,
                _RICHER,
                label=seen.datum if seen.independent else None,
                most=seen.independent,
                detail=detail,
                highest=highest,
                freedom=len(found.elbo.estimates) - 1,
            )
        )
    try:
        start = _prior_guide(model, args, seen)
        found = evidence(
            model, start, *args, method="smc", num_particles=PRIOR_CHAINS, num_batches=PRIOR_BATCHES, **options
        )
    except (DataError, ModelError) as error:
        notes.append(f"No chains could come from the prior: {error}")
        return findings, notes, arrived
    elbo = seen.log_weights.reshape(len(seen.log_weights), -1).mean(1)
    bound = found.annealed.per_datum
    value = bound.mean - elbo.mean()
    error = torch.hypot(bound.standard_error, elbo.std() / math.sqrt(len(elbo)))
    arrived = bool(2 * error <= CLEAR and value + 2 * error >= -threshold.passes)
    # Their bound is a lower one. Where they do not arrive it says nothing.
    if arrived or value - 2 * error > threshold.passes:
        findings.append(finding("evidence from the prior", value, error, threshold, _BEYOND, freedom=PRIOR_BATCHES - 1))
    else:
        notes.append(
            f"Chains from the prior did not arrive: log p(x) by them is {float(value):.3g} +- {float(error):.2g} nats "
            "above the ELBO, which does not show whether there is more than the guide knows."
        )
    return findings, notes, arrived


def _prior_guide(model: Callable[..., Any], args: tuple[Any, ...], seen: _Seen) -> Guide:
    """Independent normal laws with the medians and spreads of the prior."""
    if not seen.independent:
        return MeanFieldGuide(model, init_scale=1.0).setup(*args, init="prior")
    return MeanFieldGuide(model, encoder=_Nothing(2 * seen.space.dim)).setup(*args, init="prior")


class _Nothing(nn.Module):
    """An encoder that says of every datum: zero, with scale one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, *args: Any) -> Tensor:
        rows = next(arg for arg in args if isinstance(arg, Tensor) and arg.dim())
        return torch.zeros(len(rows), self.width, dtype=torch.get_default_dtype(), device=rows.device)


def _held_out_findings(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    held_out: tuple[Any, ...],
    seen: _Seen,
    how: _How,
) -> list[Finding]:
    """Of data with latents of their own, the check that the others had; of others, the predictive density."""
    options: dict[str, Any] = {"max_batch": how.max_batch, "vectorize_particles": how.vectorize_particles}
    if not seen.independent:
        return held_out_density(model, guide, args, held_out, **options)
    other = _Seen.of(model, guide, held_out, len(seen.log_weights), how)
    likelihood, own = ImportanceNLL(other.log_weights), ImportanceNLL(seen.log_weights)
    detail = (
        f"log predictive density {-likelihood.nll:.3f} +- {likelihood.standard_error:.3f} per datum, and "
        f"{-own.nll:.3f} +- {own.standard_error:.3f} of the others"
    )
    return predictive_check(other.drawing, other.drawn, what="held-out density", detail=detail)


def _k_hat_error(shapes: Tensor, num: int) -> Tensor:
    """Of a Pareto fit by maximum likelihood: (1 + k) / sqrt(M), of a tail of M (Smith, Estimating Tails, 1987)."""
    tail = math.ceil(min(0.2 * num, 3 * math.sqrt(num)))
    error = (1 + shapes).clamp(min=0.5) / math.sqrt(tail)
    return torch.where(shapes.isfinite(), error, 0.0)
