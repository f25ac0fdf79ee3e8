"""Fit one method to one data set, watching its errors, and measure it against all that is known exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from guides import Guide
from ppl_models.gaussian import GaussianSummary, OffsetGaussian
from ppl_models.objectives import ELBO, log_weights
from ppl_models.reproductions.gaussian.data import model_at
from ppl_models.reproductions.gaussian.methods import ROUNDS, Method
from ppl_models.seeds import derived_seed
from ppl_models.training import fit

__all__ = ["Curve", "Fitted", "elbo_of", "fit_method", "location_of", "measure"]

#: Draws of the guide in each step, as the study's.
PARTICLES = 10

#: About how many points of a learning curve are kept.
POINTS = 120


@dataclass
class Curve:
    """What a fit looked like on its way, against the maximum-likelihood estimate.

    Args:
        every: How many steps lie between two points.
        step: Steps done.
        offset: Squared errors of the offsets.
        scale: Those of the scales.
        elbo: Means of the bound over the steps since the point before.
    """

    model: OffsetGaussian = field(repr=False)
    target: tuple[Tensor, Tensor] = field(repr=False)
    every: int
    steps: int = 0
    step: list[int] = field(default_factory=list)
    offset: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    elbo: list[float] = field(default_factory=list)

    @torch.no_grad()
    def after_step(self, *_: Any) -> None:
        """Count a step, and look at the model from time to time; an optimizer calls it."""
        self.steps += 1
        if self.steps % self.every == 0:
            self.step.append(self.steps)
            self.offset.append(_squares(self.model.offset - self.target[0]))
            self.scale.append(_squares(self.model.scale - self.target[1]))

    def take_losses(self, losses: list[float]) -> None:
        """Take in the losses of all rounds, when these are done."""
        for end in self.step:
            part = losses[end - self.every : end]
            self.elbo.append(-sum(part) / len(part))

    def as_dict(self) -> dict[str, list[float]]:
        """Plain lists."""
        return {"step": list(self.step), "offset": self.offset, "scale": self.scale, "elbo": self.elbo}


@dataclass(frozen=True)
class Fitted:
    """A method after its fit.

    Args:
        model: At the fitted parameters, which are held fixed.
        guide: The guide.
        curve: How it came there.
        seconds: Of processor time, from the start: guides made and whitened before each round, and all steps.
        skipped: How many steps were skipped because they were not finite.
    """

    model: OffsetGaussian
    guide: Guide
    curve: Curve
    seconds: float
    skipped: int


def fit_method(
    method: Method, setting: str, data: GaussianSummary, *, seed: int = 0, steps: float = 1.0, progress: bool = False
) -> Fitted:
    """Fit a method from the study's start, round by round.

    Args:
        method: One of :data:`~ppl_models.reproductions.gaussian.methods.METHODS`.
        setting: ``"as published"`` or ``"put right"``.
        data: The data, in float64.
        seed: Fixes the first weights and all noise; the global generator is left as it was.
        steps: The share of its steps that each round makes.
        progress: Whether to show a progress bar.

    Raises:
        DivergedError: If too many steps are not finite.
    """
    began = time.process_time()
    model = method.start(setting, len(data.mean))
    rounds = [max(1, round(steps * each.steps)) for each in ROUNDS[setting]]
    every = max(1, sum(rounds) // POINTS)
    curve = Curve(model, model.maximum_likelihood(data), every)

    def optimizer(parameters: Iterable[Tensor], *, lr: float) -> torch.optim.Optimizer:
        others = [each for each in parameters if each is not model.offset]
        groups: list[dict[str, Any]] = [
            {"params": [model.offset], "lr": lr * max(1.0, model.dim / 100)},
            {"params": others},
        ]
        adam = torch.optim.Adam(groups, lr=lr)
        adam.register_step_post_hook(curve.after_step)
        return adam

    losses: list[float] = []
    skipped = 0
    for number, (count, each) in enumerate(zip(rounds, ROUNDS[setting], strict=True)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            guide = method.make(setting, model, data)
        result = fit(
            model,
            guide,
            data,
            objective=ELBO(num_particles=PARTICLES),
            optim=optimizer,
            lr=each.lr,
            schedule="cosine",
            steps=count,
            seed=derived_seed(seed, "round", number),
            progress=progress,
            description=f"{method.name}, {setting}",
        )
        losses += [record["loss"] for record in result.records if not record["skipped"]]
        skipped += result.skipped
    curve.take_losses(losses)
    return Fitted(model.requires_grad_(False), guide, curve, time.process_time() - began, skipped)


@torch.no_grad()
def elbo_of(
    model: OffsetGaussian, guide: Guide, data: GaussianSummary, *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Estimate the ELBO, in nats, and its standard error.

    Args:
        model: The model.
        guide: Its guide.
        data: The data.
        draws: Of the guide.
        seed: Fixes them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [min(1000, draws - done) for done in range(0, draws, 1000)]
        values = torch.cat([log_weights(model, guide, data, num_particles=each).values for each in parts])
    return values.mean().item(), values.std().item() / math.sqrt(draws)


@torch.no_grad()
def location_of(
    model: OffsetGaussian, guide: Guide, data: GaussianSummary, *, draws: int = 20_000, seed: int = 0
) -> Tensor:
    r"""Estimate :math:`\Delta + E_q z`, ``(d,)``: exactly where the guide is normal, else by so many draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        means = guide.posterior_mean(data, num_samples=draws)
    return means["location"] if model.centred else model.offset + means["z"]


@torch.no_grad()
def measure(
    fitted: Fitted, data: GaussianSummary, true: tuple[Tensor, Tensor], *, draws: int = 10_000
) -> dict[str, float]:
    r"""Hold a fit against truth, maximum likelihood and exact evidence.

    Args:
        fitted: The fit.
        data: What it was fitted to.
        true: The true offsets and scales.
        draws: Of the guide, for its ELBO; twice as many for its means.

    Returns:
        Squared errors ``Delta``, ``Sigma`` and ``theta`` (the sum) against truth, the same ``... against ML``, those of
        the ML estimate itself (``ML ...``), ``location``, :math:`|\Delta + E_q z - \bar x|^2`, all in the data's units
        squared; in nats, ``elbo`` and its ``standard error``, ``log evidence`` at the fitted parameters and ``ML log
        evidence`` at the best ones, ``gap`` and ``gap to ML``: these two less the ELBO; the fit's ``seconds`` and
        ``skipped``.
    """
    model = fitted.model
    best = model.maximum_likelihood(data)
    found = (model.offset, model.scale)
    errors: dict[str, float] = {}
    for suffix, prefix, estimate, target in (
        ("", "", found, true),
        (" against ML", "", found, best),
        ("", "ML ", best, true),
    ):
        parts = [_squares(a - b) for a, b in zip(estimate, target, strict=True)]
        for quantity, value in zip(("Delta", "Sigma", "theta"), (*parts, sum(parts)), strict=True):
            errors[f"{prefix}{quantity}{suffix}"] = value
    elbo, error = elbo_of(model, fitted.guide, data, draws=draws)
    own, highest = model.log_evidence(data).item(), model_at(*best).log_evidence(data).item()
    return errors | {
        "location": _squares(location_of(model, fitted.guide, data, draws=2 * draws) - data.mean),
        "elbo": elbo,
        "standard error": error,
        "log evidence": own,
        "ML log evidence": highest,
        "gap": own - elbo,
        "gap to ML": highest - elbo,
        "seconds": fitted.seconds,
        "skipped": fitted.skipped,
    }


def _squares(difference: Tensor) -> float:
    return difference.detach().square().sum().item()
