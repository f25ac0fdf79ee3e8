"""Cells of a study: one model with a guide and an objective, one dataset, one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ppl_models.study.pairs import DEFAULT

__all__ = ["ELBO_NAME", "Cell", "Contender", "cells_of", "contenders_of"]

#: The objective that is not named in labels.
ELBO_NAME = "elbo"


@dataclass(frozen=True)
class Contender:
    """A model, a guide and an objective, by their names.

    Example:
        >>> Contender("vae", "iaf", "iwae").label, Contender("vae", "default", "elbo").label
        ('vae+iaf/iwae', 'vae')
    """

    model: str
    guide: str
    objective: str

    @property
    def label(self) -> str:
        """The name in tables: what is not the default is told."""
        guide = "" if self.guide == DEFAULT else f"+{self.guide}"
        return f"{self.model}{guide}" + ("" if self.objective == ELBO_NAME else f"/{self.objective}")


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    contender: Contender
    dataset: str
    seed: int

    @property
    def name(self) -> str:
        """A name for its files."""
        contender = self.contender
        return f"{contender.model}.{contender.guide}.{contender.objective}.{self.dataset}.{self.seed}"

    def __str__(self) -> str:
        return f"{self.contender.label} on {self.dataset}, seed {self.seed}"


def contenders_of(study: dict[str, Any]) -> list[Contender]:
    """Every model with every guide and objective of a study's configuration."""
    return [Contender(*names) for names in product(study["models"], study["guides"], study["objectives"])]


def cells_of(study: dict[str, Any]) -> list[Cell]:
    """Every cell of a study's configuration; seeds vary slowest, so that an early table has all models in it."""
    datasets: Sequence[str] = list(study["datasets"])
    return [Cell(c, dataset, seed) for seed, dataset, c in product(study["seeds"], datasets, contenders_of(study))]
