"""Recipes: options of a training by model and kind of data, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from guides.errors import choose
from ppl_models.objectives import ELBO, KLWeights

__all__ = ["RECIPES", "Recipe", "recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hold the options of a training by the ELBO.

    Args:
        steps: Number of optimizer steps.
        batch_size: Data in a batch.
        lr: Adam's learning rate at the start.
        schedule: What becomes of it; see :func:`~ppl_models.training.fit`.
        warmup: Over how many steps the weight of the KL terms rises from 0 to 1.
        free_bits: In nats: a KL below it has no gradient; see :class:`~ppl_models.objectives.KLWeights`.
        max_grad_norm: Upper limit of the gradient's norm, for one datum: a loss is of all data.
        average: Which share of the steps, at the end, the parameters are averaged over.

    Example:
        >>> from dataclasses import replace
        >>> short = replace(RECIPES["spline_flow", "points"], steps=10)
        >>> short.options(num_data=1000)["steps"], short.objective()
        (10, ELBO(num_particles=1))
    """

    steps: int
    batch_size: int
    lr: float
    schedule: str = "cosine"
    warmup: int = 0
    free_bits: float = 0.0
    max_grad_norm: float | None = None
    average: float | None = None

    def objective(self) -> ELBO:
        """Make what is maximised; a new one for each training, for it counts the steps."""
        weighted = self.warmup or self.free_bits
        return ELBO(kl=KLWeights(warmup=self.warmup, free_bits=self.free_bits) if weighted else None)

    def options(self, num_data: int) -> dict[str, Any]:
        """Give the other options, by the names that ``fit`` has for them.

        Args:
            num_data: N, the number of training data.
        """
        options = {name: value for name, value in asdict(self).items() if name not in ("warmup", "free_bits")}
        if self.max_grad_norm is not None:
            options["max_grad_norm"] = num_data * self.max_grad_norm
        return options


#: By the name that the study has for a model, and the kind of data: ``"points"`` in the plane, or ``"images"`` that are
#: binary and of 28 x 28 pixels. First choices, by shorter trainings.
RECIPES: dict[tuple[str, str], Recipe] = {
    ("vae", "points"): Recipe(steps=72_000, batch_size=256, lr=5e-3, free_bits=2.5, max_grad_norm=1.0, average=0.1),
    ("lvae", "points"): Recipe(steps=40_000, batch_size=256, lr=5e-3, warmup=300, max_grad_norm=1.0, average=0.1),
    ("spline_flow", "points"): Recipe(steps=12_000, batch_size=256, lr=3e-3, average=0.1),
    ("flow", "points"): Recipe(steps=24_000, batch_size=512, lr=5e-3, max_grad_norm=1.0, average=0.1),
    ("vae", "images"): Recipe(steps=40_000, batch_size=128, lr=2e-3, average=0.1),
    ("lvae", "images"): Recipe(steps=30_000, batch_size=128, lr=1e-3, warmup=4_000, average=0.1),
    ("draw", "images"): Recipe(steps=10_000, batch_size=128, lr=1e-3, average=0.1),
}


def recipe(model: str, kind: str) -> Recipe:
    """Look a recipe up.

    Args:
        model: ``"vae"``, ``"lvae"``, ``"flow"``, ``"spline_flow"`` or ``"draw"``, as in :mod:`ppl_models.study`.
        kind: ``"points"`` or ``"images"``.

    Raises:
        OptionError: If there is none.

    Example:
        >>> recipe("vae", "points").batch_size
        256
    """
    choose("model", model, sorted({name for name, _ in RECIPES}))
    kinds = [each for name, each in RECIPES if name == model]
    return RECIPES[model, choose(f"kind of data for {model}", kind, kinds)]
