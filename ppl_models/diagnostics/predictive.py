"""Whether a model could have made its data: predictive checks by the log densities of data and of what it draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_models.diagnostics.draws import Drawing, Draws
from ppl_models.diagnostics.findings import Finding, Threshold, finding

__all__ = ["P_VALUE", "held_out_density", "predictive_check"]

#: Posterior draws that each stand for the truth once, and data sets drawn from each; many if there are few data.
DRAWS, DATA_SETS, FEW_DATA, MANY_DATA_SETS = 10, 199, 20, 3999

#: Data sets that held-out data are compared with, and posterior draws that the predictive density is averaged over.
HELD_OUT_SETS, HELD_OUT_DRAWS = 2499, 100

P_VALUE = Threshold(
    0.005,
    0.001,
    "Valen E. Johnson, Revised standards for statistical evidence, 2013, https://doi.org/10.1073/pnas.1313476110",
)

_ADVICE = (
    "Look at data drawn from the model (to_arviz, az.plot_ppc), and give it what they lack: heavier tails, "
    "overdispersion, other predictors."
)


def predictive_check(
    drawing: Drawing, drawn: Draws, *, what: str = "predictive check", detail: str = ""
) -> list[Finding]:
    r"""Test each observed site, by the ranks of its data's log densities among those of data that the model draws.

    If latents and data come from the model, then so do a draw :math:`z'` of the exact posterior and the data. Given
    :math:`z'`, the rank of :math:`\log p(x_i \mid z')` among T values :math:`\log p(\tilde x_i \mid z')`,
    :math:`\tilde x_i \sim p(\cdot \mid z')`, is therefore uniform and independent over the data, though they were
    fitted. (Not so with an average over posterior draws, which is drawn to the middle.) A Kolmogorov-Smirnov test gives
    a p-value for each of several draws :math:`z'`, and Cauchy's combination makes one of these. Parameters fitted to
    the same data draw it upwards.

    Args:
        drawing: Of the model and guide.
        drawn: Draws of the guide.
        what: What the findings are called.
        detail: What else is to be known.

    References:
        Christian T. Covington, Jeffrey W. Miller, Bayesian model criticism using uniform parametrization checks, 2025,
        https://arxiv.org/abs/2503.18261. George E. P. Box, Sampling and Bayes' inference in scientific modelling and
        robustness, 1980, https://doi.org/10.2307/2982063, for the density as what is tested. Yaowu Liu, Jun Xie,
        Cauchy combination test, 2020, https://arxiv.org/abs/1808.09011.
    """
    names = list(drawn.observed)
    if not names:
        return []
    data = max(value[0].numel() for value in drawn.log_likelihood.values())
    num = DATA_SETS if data >= FEW_DATA else MANY_DATA_SETS
    if drawing.nesting is None:  # one run for each
        num = min(num, DATA_SETS)
    chosen = torch.linspace(0, len(drawn.log_p) - 1, DRAWS).round().long()
    latents = {name: value[chosen] for name, value in drawn.latents.items()}
    _, actual = drawing.given(latents)
    p_values: dict[str, list[float]] = {name: [] for name in names}
    for r in range(DRAWS):
        repeated = {name: value[r : r + 1].expand(num, *value.shape[1:]) for name, value in latents.items()}
        _, replicated = drawing.given(repeated, generate=True)
        for name in names:
            p_values[name].append(_uniformity(_ranks(actual[name][r], replicated[name])))
    return [
        finding(what if len(names) == 1 else f"{what} of {name}", _combined(p_values[name]), None, P_VALUE, _ADVICE,
                detail=detail)
        for name in names
    ]  # fmt: skip


def held_out_density(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    held_out: tuple[Any, ...],
    *,
    max_batch: int,
    vectorize_particles: bool,
) -> list[Finding]:
    r"""Compare the predictive density of held-out data with what the model expects of it, for latents that all share.

    .. math:: \sum_i \log \frac1S \sum_{s=1}^S p(x^*_i \mid z_s), \qquad z_s \sim q(z \mid x)

    The same number is computed for data sets that are drawn from the predictive law itself, the latents anew for each.
    If the model is right and the guide exact, the held-out data are one of them, and their rank is a p-value.

    Args:
        model: Any Pyro model.
        guide: A guide of it, whose latents are shared by all data.
        args: What the guide was fitted to.
        held_out: Arguments of the model with other data.
        max_batch: Upper limit of draws times data in one batched run.
        vectorize_particles: Whether to draw in batched runs.

    References:
        Gemma E. Moran, David M. Blei, Rajesh Ranganath, Holdout predictive checks for Bayesian model criticism, 2024,
        https://doi.org/10.1093/jrsssb/qkad105.
    """

    def fitted(*_: Any) -> Any:
        return guide(*args)

    drawing = Drawing(
        model, fitted, held_out, max_batch=max_batch, vectorize_particles=vectorize_particles, caller="check"
    )
    scored = drawing.posterior(HELD_OUT_DRAWS)
    # Whatever is computed of the data is a fair test, of two draws too, where each needs a run of its own.
    few = HELD_OUT_DRAWS if vectorize_particles else 2
    judges = {name: value[:few] for name, value in scored.latents.items()}
    drawn, _ = drawing.given(drawing.posterior(HELD_OUT_SETS).latents, generate=True)
    expected: dict[str, list[float]] = {name: [] for name in scored.observed}
    for t in range(HELD_OUT_SETS):
        _, densities = drawing.given(judges, {name: value[t] for name, value in drawn.items()})
        for name, density in densities.items():
            expected[name].append(_predictive(density).sum().item())
    findings = []
    for name, others in expected.items():
        own, judged = (_predictive(scored.log_likelihood[name][:num]) for num in (HELD_OUT_DRAWS, few))
        below = sum(other <= judged.sum().item() for other in others)
        tail = min(below, len(others) - below) + 1
        size = own.numel()
        error = own.std().item() / math.sqrt(size) if size > 1 else math.nan
        findings.append(
            finding(
                "held-out density" if len(expected) == 1 else f"held-out density of {name}",
                min(1.0, 2 * tail / (len(others) + 1)),
                None,
                P_VALUE,
                _ADVICE,
                detail=f"log predictive density {own.mean().item():.3f} +- {error:.3f} per datum, where the model "
                f"expects {sum(others) / len(others) / size:.3f}",
            )
        )
    return findings


def _predictive(log_likelihood: Tensor) -> Tensor:
    """The log of the average density of each datum, ``(*batch)`` from ``(S, *batch)``."""
    return log_likelihood.logsumexp(0) - math.log(len(log_likelihood))


def _ranks(actual: Tensor, replicated: Tensor) -> Tensor:
    """Where values ``(*batch)`` stand among ``(T, *batch)``, ties and the place within a rank by chance: in (0, 1)."""
    # Equal but for the order of summation is equal.
    near = 1e-9 * (1 + actual.abs())
    below = (replicated < actual - near).sum(0)
    ties = ((replicated - actual).abs() <= near).sum(0)
    return (below + torch.rand_like(actual) * (ties + 1)) / (len(replicated) + 1)


def _uniformity(ranks: Tensor) -> float:
    from scipy.stats import kstest

    return float(kstest(ranks.reshape(-1).double().cpu().numpy(), "uniform").pvalue)


def _combined(p_values: list[float]) -> float:
    """One p-value of several that depend on each other."""
    tangents = [math.tan((0.5 - min(max(p, 1e-15), 1 - 1e-15)) * math.pi) for p in p_values]
    return 0.5 - math.atan(sum(tangents) / len(tangents)) / math.pi
