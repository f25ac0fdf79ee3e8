"""check: one call that says whether to believe a fit, and shows why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides import Guide
from guides.errors import DataError, ModelError, OptionError, whole_number
from ppl_models.diagnostics.evidence_gap import gap_from_guide, gap_from_prior
from ppl_models.diagnostics.findings import DOUBTFUL, FAIL, LEVELS, PASS, Finding, Threshold
from ppl_models.diagnostics.importance import ImportanceNLL
from ppl_models.diagnostics.judging import judging, widened
from ppl_models.diagnostics.predictive import held_out_density, predictive_check
from ppl_models.diagnostics.psis import MIN_DRAWS
from ppl_models.diagnostics.reference_chains import ReferenceChains
from ppl_models.diagnostics.verdict import Verdict
from ppl_models.diagnostics.weighed import Batching, Weighed
from ppl_models.reference import nuts
from ppl_models.training.batches import check_finite

if TYPE_CHECKING:
    from arviz import InferenceData

__all__ = ["check"]

LOOKS = Threshold(
    1.0,
    -math.inf,
    "Yuling Yao et al., Yes, but Did It Work?, 2018, https://arxiv.org/abs/1802.02538, section 3: weights of draws "
    "from one mode know nothing of another",
)


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
    those of 100, and fails if it is worse than those of 12. Where a number is known with an error only, it passes if it
    may be within the first and surely is within the second, and fails if it surely is beyond that. The verdict is that
    of the worst finding. Of data with latents of their own, a few bad ones make it doubtful, most of them a failure.

    - *k-hat* of the importance weights :math:`p(x, z) / q(z)`: of all latents together (of each datum, if these have
      their own), and of each site, with weights times the distance from its mean.
    - *Effective draws* among the weighted ones.
    - *Means, log sds and quantiles* of the unconstrained latents against the same draws weighted, where k-hat allows
      it, and against the reference, in standard deviations of these.
    - *Evidence gap*: :math:`\mathrm{KL}(q \,\|\, p) = \log p(x) - \mathrm{ELBO}`, with :math:`\log p(x)` by chains
      that are annealed from the guide, and with a reference by chains that come back from it. By Pinsker's inequality
      no probability is off by more than :math:`\sqrt{KL / 2}`: at :math:`1 / (2 n)` by what n draws leave at most. It
      fails beyond :math:`D / n` for D latents (of each datum): means and sds are then off, on average, as n draws leave
      them.
    - *Evidence from the prior*: the same, with chains that come from the prior and never saw the guide. Mass that the
      guide never visits cannot show in its weights, and hardly in chains that start from it; it can here. Where these
      chains do not arrive, and there is no good reference, nothing has looked beyond the guide, and no fit passes.
    - *The reference* itself: divergences, R-hat, effective draws and E-BFMI. A bad one never fails a guide, whatever
      its moments are, and never lets one pass.
    - *Collapse*, for latents of single data: active units, and the divergence of each site from its prior.
    - *The model*: whether the data are like those that it draws (``predictive check``), and with ``held_out`` whether
      those are. No finding about the posterior can know of a wrong model.

    Args:
        model: Any Pyro model with continuous latents.
        guide: Any Pyro guide of it.
        *args: Arguments of both. For a model with independent data some of the data will do: each costs as much.
        reference: What to hold the guide against: ``"nuts"`` to run :func:`ppl_models.reference.nuts`; its, or other,
            InferenceData; or exact draws by site, ``(R, *batch, *event)`` each.
        held_out: Arguments with data that the fit has not seen.
        num_samples: S, draws of the guide, at least 25. Below 400 too few can be effective for a pass.
        anneal: Whether to run annealed chains, from the guide and from the prior. Without, a pass needs a reference.
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
    how = Batching(whole_number("max_batch", max_batch, least=1), vectorize_particles)
    if isinstance(reference, str) and reference != "nuts":
        raise OptionError(f"reference must be 'nuts', InferenceData or exact draws by site; got {reference!r}.")
    held_out = (held_out,) if isinstance(held_out, Tensor) else held_out
    check_finite(args)
    check_finite(held_out or (), name="held-out argument")
    if isinstance(guide, Guide):
        guide.setup(*args)
    notes: list[str] = []
    with judging(model, guide, seed):
        with widened(model, guide, args):
            weighed = Weighed.of(model, guide, args, num_samples, how)
            bad = weighed.bad_weights()
            if bad is not None:
                return Verdict((bad,), ("All other numbers are made of log-weights, and were not computed.",))
            findings = weighed.by_weights()
        source: Any = reference
        if isinstance(reference, str):
            source = nuts(model, *args, seed=int(torch.randint(2**31, ())), progress=False)
        chains, looks = None, 0
        if source is not None:
            chains = ReferenceChains(source, weighed.drawn.latents)
            judged = chains.findings()
            sound = all(each.level == PASS for each in judged)
            looks += sound
            with widened(model, guide, args):
                against = weighed.against(chains)
            if not sound:  # chains that diverge may be far off and know themselves well
                against = [replace(each, level=DOUBTFUL) if each.level == FAIL else each for each in against]
            findings += judged + against
        believed = bool(looks)
        if anneal:
            try:
                findings.append(gap_from_guide(model, guide, args, weighed, source, how))
            except (DataError, ModelError) as error:
                notes.append(f"No chains could be annealed from the guide: {error}")
            try:
                gap, arrived = gap_from_prior(model, args, weighed, how)
            except (DataError, ModelError) as error:
                notes.append(f"No chains could come from the prior: {error}")
            else:
                looks += arrived or gap.level != PASS
                # Of chains that did not arrive only a gap means anything.
                if arrived or gap.level != PASS:
                    findings.append(gap)
                else:
                    notes.append(
                        f"Chains from the prior did not arrive: they put log p(x) {gap.value:.3g} +- "
                        f"{gap.standard_error:.2g} nats above the ELBO, which shows nothing of other modes."
                    )
        if not looks:
            advice = "Give reference='nuts', or exact draws: nothing has looked where the guide does not."
            findings.append(Finding("looks beyond the guide", DOUBTFUL, 0.0, None, LOOKS, advice))
        if not believed:
            notes.append(
                "Without a reference that is to be trusted, posterior mass that neither the guide nor chains from the "
                "prior have met cannot be seen."
            )
        with widened(model, guide, args):
            findings += weighed.collapse() + predictive_check(weighed.drawing, weighed.drawn)
        if held_out is not None:
            with widened(model, guide, held_out):
                findings += _on_held_out(model, guide, args, held_out, weighed, how)
        elif weighed.drawn.observed:
            notes.append("The predictive check has seen the data that were fitted; held_out= is the harder test.")
    findings.sort(key=lambda each: -LEVELS.index(each.level))
    return Verdict(tuple(findings), tuple(notes), weighed.shapes, None if chains is None else source)


def _on_held_out(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    held_out: tuple[Any, ...],
    weighed: Weighed,
    how: Batching,
) -> list[Finding]:
    """Of data with latents of their own, the check that the others had; of others, the predictive density."""
    if not weighed.independent:
        return held_out_density(
            model,
            guide,
            args,
            held_out,
            max_batch=how.max_batch,
            vectorize_particles=how.vectorize_particles,
        )
    other = Weighed.of(model, guide, held_out, len(weighed.log_weights), how)
    theirs, own = ImportanceNLL(other.log_weights), ImportanceNLL(weighed.log_weights)
    detail = (
        f"log predictive density {-theirs.nll:.3f} +- {theirs.standard_error:.3f} per datum, and "
        f"{-own.nll:.3f} +- {own.standard_error:.3f} of the others"
    )
    return predictive_check(other.drawing, other.drawn, what="held-out density", detail=detail)
