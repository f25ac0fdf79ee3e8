"""Evidence gaps: how much log p(x) exceeds a guide's ELBO, by chains from the guide and by chains from the prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from guides import Guide, MeanFieldGuide
from ppl_models.diagnostics.evidence import Evidence, evidence
from ppl_models.diagnostics.findings import CHANCE, FEW_DRAWS, MANY_DRAWS, Finding, Threshold, finding
from ppl_models.diagnostics.weighed import RICHER, Batching, Weighed

__all__ = ["gap_from_guide", "gap_from_prior"]

#: Chains from the prior, of sequential Monte Carlo, in batches that each give an estimate: of all latents, and of those
#: of each datum, where it is the mean over the data that is judged.
PRIOR_CHAINS, PRIOR_CHAINS_EACH, PRIOR_BATCHES = 256, 32, 16

#: How many chains annealed from the guide make one estimate of the evidence; the ELBO's draws are cut likewise.
PARTICLES = 8

#: How well chains from the prior must know the log evidence: mass that the guide misses must show if it is more than
#: the error that a few draws leave in a probability, 1 / (2 sqrt(n)). A share m adds -log(1 - m).
CLEAR = -math.log(1 - 1 / (2 * math.sqrt(FEW_DRAWS)))

_BEYOND = "Give reference='nuts', or a guide with several modes: something weighs more than the guide knows of."


def threshold(dim: int) -> Threshold:
    r"""What :math:`\mathrm{KL}(q \,\|\, p)` must be, for D latents.

    By Pinsker's inequality no probability is off by more than :math:`\sqrt{KL / 2}`; n draws leave it off by
    :math:`\sqrt{p (1 - p) / n}`, at most :math:`1 / (2 \sqrt n)`, which is the same at :math:`KL = 1 / (2 n)`. Means
    off by :math:`1 / \sqrt n` and log sds by :math:`1 / \sqrt{2 n}`, as n draws leave them, make :math:`1 / n` for each
    latent.
    """
    source = (
        f"by Pinsker's inequality, the error of {MANY_DRAWS} draws (Gelman et al. 2013); fails where the average "
        f"latent is worse than {FEW_DRAWS} draws leave it (MacKay 2003)"
    )
    return Threshold(1 / (2 * MANY_DRAWS), dim / FEW_DRAWS, source)


def gap_from_guide(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    weighed: Weighed,
    source: Any,
    how: Batching,
) -> Finding:
    """Anneal chains from the guide, and from the draws of a reference back.

    Args:
        model: Any Pyro model.
        guide: Its guide.
        args: Arguments of both.
        weighed: The guide's draws.
        source: The reference, as :func:`ppl_models.diagnostics.evidence` takes it; or ``None``.
        how: How to draw.

    Raises:
        DataError: If no chain can start.
        ModelError: If the guide's draws are not made from normal noise.
    """
    found = evidence(
        model,
        guide,
        *args,
        posterior=source,
        num_particles=PARTICLES,
        max_batch=how.max_batch,
        vectorize_particles=how.vectorize_particles,
    )
    value, error = _gap(found, weighed)
    highest, detail = None, f"acceptance {float(found.acceptance.mean()):.2f}"
    if found.upper is not None:
        width = (found.upper.mean - found.annealed.mean).reshape(-1)
        highest, detail = value + width.clamp(min=0), f"the upper side is {float(width.mean()):.3g} nats above"
    return finding(
        "evidence gap",
        value,
        error,
        threshold(weighed.space.dim),
        RICHER,
        label=weighed.datum if weighed.independent else None,
        most=weighed.independent,
        detail=detail,
        highest=highest,
        freedom=len(found.elbo.estimates) - 1,
    )


def gap_from_prior(
    model: Callable[..., Any], args: tuple[Any, ...], weighed: Weighed, how: Batching
) -> tuple[Finding, bool]:
    """Bring chains from the prior to the posterior by sequential Monte Carlo, and hold the evidence against the ELBO.

    Args:
        model: Any Pyro model.
        args: Its arguments.
        weighed: The guide's draws.
        how: How to draw.

    Returns:
        The finding, and whether the chains arrived: their evidence is known well enough to show missing mass, and not
        surely less than the guide's own. It is a lower bound in expectation, which can show that a gap is there and
        never that there is none: only its lower end is judged.

    Raises:
        DataError: If no chain can start.
        ModelError: If the prior is improper, or too far away.
    """
    from scipy.stats import t

    found = evidence(
        model,
        _prior_guide(model, args, weighed),
        *args,
        method="smc",
        num_particles=PRIOR_CHAINS_EACH if weighed.independent else PRIOR_CHAINS,
        num_batches=PRIOR_BATCHES,
        max_batch=how.max_batch,
        vectorize_particles=how.vectorize_particles,
    )
    elbo = weighed.log_weights.reshape(len(weighed.log_weights), -1).mean(1)
    bound = found.annealed.per_datum
    value = bound.mean - elbo.mean()
    error = torch.hypot(bound.standard_error, elbo.std() / math.sqrt(len(elbo)))
    reach = float(t.ppf(1 - CHANCE, PRIOR_BATCHES - 1)) * error
    arrived = bool(reach <= CLEAR and value + reach >= -CLEAR)
    found_gap = finding(
        "evidence from the prior",
        value,
        error,
        threshold(weighed.space.dim),
        _BEYOND,
        freedom=PRIOR_BATCHES - 1,
        highest=torch.tensor(-math.inf),
        detail=f"mass would show if more than {1 - math.exp(-float(reach)):.0%} were missing" if arrived else "",
    )
    return found_gap, arrived


def _gap(found: Evidence, weighed: Weighed) -> tuple[Tensor, Tensor]:
    """The evidence by annealed chains less the ELBO, ``(N,)`` or ``(1,)``, and its standard error.

    In two parts, each of differences between numbers made from the same draws: chains less importance weights of
    their starts, and importance weights less their mean logarithm.
    """
    annealed = (found.annealed.estimates - found.iwae.estimates).reshape(len(found.iwae.estimates), -1)
    values = weighed.log_weights.reshape(len(weighed.log_weights), -1)
    blocks = values[: len(values) // PARTICLES * PARTICLES].unflatten(0, (-1, PARTICLES))
    bound = blocks.logsumexp(1) - math.log(PARTICLES)
    gain = bound - blocks.mean(1)
    value = annealed.mean(0) + gain.mean(0)
    error = torch.hypot(annealed.std(0) / math.sqrt(len(annealed)), gain.std(0) / math.sqrt(len(gain)))
    infinite = blocks.mean(1).isinf().any(0)
    return torch.where(infinite, math.inf, value), torch.where(infinite, 0.0, error)


def _prior_guide(model: Callable[..., Any], args: tuple[Any, ...], weighed: Weighed) -> Guide:
    """Independent normal laws with the medians and spreads of the prior."""
    if not weighed.independent:
        return MeanFieldGuide(model, init_scale=1.0).setup(*args, init="prior")
    return MeanFieldGuide(model, encoder=_Nothing(2 * weighed.space.dim)).setup(*args, init="prior")


class _Nothing(nn.Module):
    """An encoder that says of every datum: zero, with scale one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, *args: Any) -> Tensor:
        rows = next(arg for arg in args if isinstance(arg, Tensor) and arg.dim())
        return torch.zeros(len(rows), self.width, dtype=torch.get_default_dtype(), device=rows.device)
