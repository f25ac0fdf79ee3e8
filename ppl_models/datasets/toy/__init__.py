"""Laws of points in the plane, with exact entropies and densities."""

from ppl_models.datasets.toy.density import ToyDensity
from ppl_models.datasets.toy.sets import ENTROPIES, TOY_DENSITIES, toy

__all__ = ["ENTROPIES", "TOY_DENSITIES", "ToyDensity", "toy"]
