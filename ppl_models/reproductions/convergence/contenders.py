"""Which models the seeds study trains on which data, and at which size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guides.errors import OptionError
from ppl_models.datasets import DATASETS
from ppl_models.reproductions.convergence.published import PUBLISHED
from ppl_models.study import PAIRS, Pair
from ppl_models.study.pairs import kind_of

__all__ = ["AS_PUBLISHED", "CONTENDERS", "FULL", "QUICK", "Part", "own_name", "parts_of"]

#: The VAE with the study's mistakes, on which its numbers rest.
AS_PUBLISHED = "vae_published"

#: The models by name.
CONTENDERS: dict[str, Pair] = {
    AS_PUBLISHED: Pair(
        make=PAIRS["vae"].published,
        training={kind: each.published for kind, each in PAIRS["vae"].training.items()},
    ),
    **{name: PAIRS[name] for name in ("vae", "lvae", "flow", "draw", "draw2", "draw3", "draw4")},
}

#: By kind of data, the options of a study that are not its defaults. To judge a drawing with 200 draws would cost as
#: much as its training.
QUICK: dict[str, dict[str, Any]] = {
    "points": {"epochs": 30, "num_train": 50_000},
    "images": {"epochs": 5, "num_train": 5000, "num_validation": 1000, "num_test": 1000, "num_importance": 50},
}
FULL: dict[str, dict[str, Any]] = {"points": {"epochs": 100}, "images": {"epochs": 20, "num_importance": 50}}


@dataclass(frozen=True)
class Part:
    """Datasets on which the same models are trained: one :class:`~ppl_models.study.Study`.

    Args:
        name: ``"points"``, or the name of a dataset of images.
        kind: Of data, ``"points"`` or ``"images"``.
        models: Names in :data:`CONTENDERS`.
        datasets: Their names.
    """

    name: str
    kind: str
    models: tuple[str, ...]
    datasets: tuple[str, ...]


def own_name(model: str) -> str:
    """Say under which name the study published a model's numbers.

    Example:
        >>> own_name("vae_published"), own_name("draw2")
        ('vae', 'draw2')
    """
    return "vae" if model == AS_PUBLISHED else model


def parts_of(datasets: Sequence[str], models: Sequence[str] | None = None) -> list[Part]:
    """Put datasets together that have the same models.

    Args:
        datasets: Names.
        models: Names in :data:`CONTENDERS`, each for the data that it is a model of. By default those that were
            published on a dataset, but for the flow of images, which costs far more than all others together.

    Raises:
        OptionError: If no model is one of a dataset's kind.
    """
    by_name: dict[str, list[str]] = {}
    for dataset in datasets:
        kind = kind_of(DATASETS[dataset].event_shape)
        by_name.setdefault("points" if kind == "points" else dataset, []).append(dataset)
    parts = []
    for name, those in by_name.items():
        kind = kind_of(DATASETS[those[0]].event_shape)
        shown = {row.model for row in PUBLISHED if row.dataset in those}
        if models is None:
            chosen = [each for each in CONTENDERS if own_name(each) in shown and (kind, each) != ("images", "flow")]
        else:
            chosen = [each for each in models if kind in CONTENDERS[each].make]
        if not chosen:
            raise OptionError(f"models must name one of {kind}, which {', '.join(those)} are; got {_told(models)}.")
        parts.append(Part(name, kind, tuple(chosen), tuple(those)))
    return parts


def _told(models: Sequence[str] | None) -> str:
    return ", ".join(map(repr, models or ())) or "none"
