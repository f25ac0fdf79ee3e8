"""Weighed: what a guide's own draws say of it, by their weights, against themselves and against others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from guides import LatentSpace
from guides.errors import DataError, ModelError
from ppl_models.diagnostics.collapse import collapse
from ppl_models.diagnostics.draws import Drawing, Draws
from ppl_models.diagnostics.findings import FAIL, MANY_DRAWS, Finding, Threshold, finding
from ppl_models.diagnostics.moments import Differences, Summary, corrected
from ppl_models.diagnostics.psis import k_hat, smooth
from ppl_models.diagnostics.reference_chains import ReferenceChains

__all__ = ["RICHER", "Batching", "Weighed"]

_PSIS = "Aki Vehtari et al., Pareto Smoothed Importance Sampling, 2024, https://arxiv.org/abs/1507.02646"
_YAO = "Yuling Yao et al., Yes, but Did It Work?, 2018, https://arxiv.org/abs/1802.02538"

#: Draws below which even a tail of shape 0.5 cannot be told: 10^(1 / (1 - 0.5)) (Vehtari et al. 2024, section 3.2.4).
ENOUGH = 100

#: Below the first shape the weights have a variance; beyond the second no number of draws corrects a guide's answers.
FINITE_VARIANCE, LARGEST_K_HAT = 0.5, 0.7

FINITE = Threshold(0.0, 0.0, "a density is a number", estimate=True)

#: Of the weighted draws.
EFFECTIVE = 400
_EFFECTIVE = (
    "Aki Vehtari et al., Rank-normalization, folding, and localization, 2021, https://arxiv.org/abs/1903.08008; fails "
    "by Gelman et al. 2013, section 10.5"
)

RICHER = (
    "Take a richer guide (FullRankGuide, IAFGuide, HamiltonianGuide over the present one), or write the model in "
    "another form."
)
_MORE = "Draw more (num_samples=); if the share of effective draws stays small, take a richer guide."
_ADVICE = {
    "mean": "Train longer, with schedule='cosine' or average=0.2; if that changes nothing, take a richer guide.",
    "sd": "Take a guide that knows correlations (FullRankGuide, IAFGuide), or train longer.",
    "quantiles": "Take a guide whose marginals are not normal (IAFGuide, PlanarGuide, HamiltonianGuide).",
}


@dataclass(frozen=True)
class Batching:
    """How to draw: at most how many draws times data at once, and whether in batched runs."""

    max_batch: int
    vectorize_particles: bool


@dataclass(frozen=True)
class Weighed:
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
        cls,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        num_samples: int,
        how: Batching,
    ) -> Weighed:
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
            FAIL,
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

    def by_weights(self) -> list[Finding]:
        """The weights' tails, their effective number and, where k-hat allows it, the answers that they correct."""
        num = len(self.log_weights)
        threshold = Threshold(
            FINITE_VARIANCE if num >= ENOUGH else -math.inf,
            LARGEST_K_HAT,
            f"{_YAO}, section 3.1; {_PSIS}, section 3.2.4",
            estimate=True,
        )
        label = self.datum if self.independent else None
        found = [
            finding(
                "k-hat",
                self.shapes,
                _k_hat_error(self.shapes, num),
                threshold,
                RICHER if num >= ENOUGH else _MORE,
                label=label,
                most=self.independent,
                detail="" if num >= ENOUGH else f"{num} draws are too few to tell",
            )
        ]
        sites = [site.name for site in self.space.sites]
        shapes = torch.stack([self._site_shape(site.coordinates).reshape(-1) for site in self.space.sites], -1)
        found.append(
            finding(
                "k-hat of sites",
                shapes,
                _k_hat_error(shapes, num),
                threshold,
                RICHER if num >= ENOUGH else _MORE,
                label=lambda i: sites[i % len(sites)] + (f" of datum {i // len(sites)}" if self.independent else ""),
                most=self.independent,
            )
        )
        effective = 1 / (2 * self.smoothed[0]).exp().sum(0)
        found.append(
            finding(
                "effective draws",
                effective,
                None,
                Threshold(EFFECTIVE, min(MANY_DRAWS, num * MANY_DRAWS / EFFECTIVE), _EFFECTIVE),
                _MORE,
                label=label,
                most=self.independent,
                detail=f"of {num}",
            )
        )
        return found + self._corrected()

    def _site_shape(self, coordinates: slice) -> Tensor:
        """The tail of the weights times the distance of a site from its mean: that of the site's expectations."""
        own = self.vectors[..., coordinates]
        distance = ((own - own.mean(0)) / own.std(0).clamp(min=torch.finfo(own.dtype).tiny)).square().sum(-1)
        return k_hat(self.log_weights + 0.5 * distance.log())

    def _label(self, rows: list[int] | None) -> Callable[[int], str]:
        def label(i: int) -> str:
            site = self.space.site_at(i % self.space.dim)
            size = site.coordinates.stop - site.coordinates.start
            place = "" if size == 1 else f"[{i % self.space.dim - site.coordinates.start}]"
            return f"{site.name}{place}" + ("" if rows is None else f" of datum {rows[i // self.space.dim]}")

        return label

    def _corrected(self) -> list[Finding]:
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

    def against(self, chains: ReferenceChains) -> list[Finding]:
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

    def collapse(self) -> list[Finding]:
        """Latents of single data that say nothing about them."""
        if not self.independent:
            return []
        names = [self.space.site_at(i).name for i in range(self.space.dim)]
        return collapse(self.vectors, names, self.drawn.divergences)


def _k_hat_error(shapes: Tensor, num: int) -> Tensor:
    """Of a Pareto fit by maximum likelihood: (1 + k) / sqrt(M), of a tail of M (Smith, Estimating Tails, 1987)."""
    tail = math.ceil(min(0.2 * num, 3 * math.sqrt(num)))
    error = (1 + shapes).clamp(min=0.5) / math.sqrt(tail)
    return torch.where(shapes.isfinite(), error, 0.0)
