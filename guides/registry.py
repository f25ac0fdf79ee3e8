"""Guides by name."""

from __future__ import annotations

from typing import Any

from guides.annealed import AnnealedGuide
from guides.base import Guide
from guides.dequantisation import UniformDequantisation
from guides.draw import DRAWGuide
from guides.errors import choose
from guides.full_rank import FullRankGuide
from guides.hamiltonian import HamiltonianGuide
from guides.iaf import IAFGuide
from guides.ladder import LadderGuide
from guides.latent_space import Model
from guides.mean_field import MeanFieldGuide
from guides.planar import PlanarGuide

__all__ = ["GUIDES", "build"]

#: Guide classes by the names that :func:`build` takes.
GUIDES: dict[str, type[Guide]] = {
    "annealed": AnnealedGuide,
    "draw": DRAWGuide,
    "full_rank": FullRankGuide,
    "hamiltonian": HamiltonianGuide,
    "iaf": IAFGuide,
    "ladder": LadderGuide,
    "mean_field": MeanFieldGuide,
    "planar": PlanarGuide,
    "uniform_dequantisation": UniformDequantisation,
}


def build(name: str, model: Model, **options: Any) -> Guide:
    """Make a guide by name.

    Args:
        name: A name in ``GUIDES``: ``"mean_field"``, ``"hamiltonian"`` and so on.
        model: Any Pyro model.
        **options: Options of the guide's class.

    Raises:
        OptionError: If the name is unknown; the message lists the names.
        TypeError: If an option is none of the class's.

    Example:
        >>> build("hamiltonian", lambda: None, num_steps=3)
        HamiltonianGuide(num_steps=3, tempering='inverse_sqrt_beta', base=MeanFieldGuide(), not set up)
    """
    return GUIDES[choose("name", name, GUIDES)](model, **options)
