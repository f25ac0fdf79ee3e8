"""A toy set, drawn and split once and for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from guides.errors import DataError, choose, whole_number
from ppl_models.datasets.toy.density import ToyDensity
from ppl_models.datasets.toy.sets import TOY_DENSITIES
from ppl_models.seeds import derived_seed

__all__ = ["ToyData", "toy_data"]

_PARTS = ("train", "validation", "test")


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ToyData:
    """Hold three independent samples of one law of points in the plane.

    Shapes: (N, 2), N differing between the three parts.

    Args:
        density: The law, with its name, its entropy and, where there is one, its log density.
        train: Points to learn from.
        validation: Points to choose by.
        test: Points to judge by.

    Raises:
        DataError: If a part has no points, another shape, or is not floating point and finite.

    Example:
        >>> points = TOY_DENSITIES["moons"].sample(4)
        >>> ToyData(density=TOY_DENSITIES["moons"], train=points, validation=points, test=points)
        ToyData(name='moons', entropy=2.39388, train=(4, 2), validation=(4, 2), test=(4, 2))
    """

    density: ToyDensity
    train: Tensor
    validation: Tensor
    test: Tensor

    def __post_init__(self) -> None:
        """Check every part against the rules of the class."""
        for part in _PARTS:
            points = getattr(self, part)
            if points.dim() != 2 or points.shape[1] != 2 or not len(points) or not points.is_floating_point():
                raise DataError(
                    f"{part} must be floating point of shape (N, 2) with N at least 1; "
                    f"got {points.dtype} of shape {tuple(points.shape)}."
                )
            if not bool(points.isfinite().all()):
                raise DataError(f"{part} must be finite; got NaN or infinity.")

    @property
    def name(self) -> str:
        """What the data are called in tables and titles."""
        return self.density.name

    def __repr__(self) -> str:
        shapes = ", ".join(f"{part}={tuple(getattr(self, part).shape)}" for part in _PARTS)
        return f"{type(self).__name__}(name={self.name!r}, entropy={self.density.entropy:.6g}, {shapes})"


def toy_data(
    name: str,
    *,
    num_train: int = 100_000,
    num_validation: int = 10_000,
    num_test: int = 100_000,
    seed: int = 0,
) -> ToyData:
    """Draw the three parts of the toy set called ``name``, each from a generator of its own.

    Shapes: ``train`` (num_train, 2), ``validation`` (num_validation, 2), ``test`` (num_test, 2); float32.

    Args:
        name: One of the names in ``TOY_DENSITIES``.
        num_train: How many points to learn from; the other parts do not change with it.
        num_validation: The same for ``validation``.
        num_test: The same for ``test``.
        seed: Decides all points.

    Raises:
        OptionError: If there is no such set, a number is not whole and at least 1, or ``seed`` not at least 0.

    Example:
        >>> toy_data("rings", num_train=500)
        ToyData(name='rings', entropy=2.62318, train=(500, 2), validation=(10000, 2), test=(100000, 2))
    """
    density = TOY_DENSITIES[choose("toy set", name, TOY_DENSITIES)]
    sizes = {"num_train": num_train, "num_validation": num_validation, "num_test": num_test}
    train, validation, test = (
        density.sample(whole_number(option, size, least=1), seed=derived_seed(seed, option))
        for option, size in sizes.items()
    )
    return ToyData(density=density, train=train, validation=validation, test=test)
