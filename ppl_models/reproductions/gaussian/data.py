"""The Gaussian study's truth and its data sets: from generators of their own, or drawn as the study drew them."""

from __future__ import annotations

import torch
from pyro.nn import AutoRegressiveNN
from torch import Tensor

from guides.errors import OptionError, choose, whole_number
from ppl_models.gaussian import GaussianSummary, OffsetGaussian

__all__ = ["SOURCES", "STUDY_SEED", "data_sets", "model_at", "own_data", "study_data", "truth"]

#: Where data come from: ``"own"`` generators, or as the ``"study"`` drew them, from the global one.
SOURCES = ("own", "study")

#: Numpy's and torch's, set once for the study's three data sets.
STUDY_SEED = 12345


def truth(dim: int) -> tuple[Tensor, Tensor]:
    r"""Compute the offsets and scales that make the data, each ``(d,)``, in float64.

    .. math::
        r_j = j - \tfrac{d + 1}2, \qquad \Delta_j = \tfrac{r_j}5, \qquad \sigma_j = 3.6 \frac{r_j^2}{(d - 1)^2} + 0.1

    Example:
        >>> offset, scale = truth(25)
        >>> round(offset.square().sum().item(), 1), round(scale.min().item(), 6), round(scale.max().item(), 6)
        (52.0, 0.1, 1.0)
    """
    if whole_number("dim", dim, least=1) == 1:
        return torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    rank = torch.arange(dim, dtype=torch.float64) - (dim - 1) / 2
    return rank / 5, 3.6 * rank.square() / (dim - 1) ** 2 + 0.1


def own_data(dim: int, *, seed: int = 0, num_data: int = 10_000) -> Tensor:
    """Draw a data set ``(N, d)`` in float64, whatever else was drawn before, and for every method the same.

    Args:
        dim: d.
        seed: Of the generator.
        num_data: N.
    """
    generator = torch.Generator().manual_seed(seed)
    offset, scale = truth(dim)
    z = torch.randn(dim, generator=generator, dtype=torch.float64)
    return z + offset + scale * torch.randn(num_data, dim, generator=generator, dtype=torch.float64)


def study_data(dim: int, *, sets: int = 3, num_data: int = 10_000, after_network: bool = False) -> list[Tensor]:
    """Draw the study's own data sets: in single precision, one after the other, after one ``manual_seed``.

    Args:
        dim: d.
        sets: How many.
        num_data: N.
        after_network: Whether the weights of the study's IAF are drawn first, as it did for that method: which makes
            other data.

    Returns:
        Tensors ``(N, d)`` in float64.
    """
    offset, scale = (each.float() for each in truth(dim))
    # The study drew from MultivariateNormal(z + offset, diag(scale**2)), whose factor is this, on the diagonal.
    factor = scale.square().sqrt()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(STUDY_SEED)
        if after_network:
            _draw_network(dim)
        drawn = []
        for _ in range(sets):
            location = torch.randn(dim, dtype=torch.float32) + offset
            drawn.append((location + factor * torch.randn(num_data, dim, dtype=torch.float32)).double())
    return drawn


def _draw_network(dim: int) -> None:
    """Draw the weights of the study's IAF, in single precision as everything then."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        AutoRegressiveNN(dim, [dim + 100])
    finally:
        torch.set_default_dtype(before)


def data_sets(
    dim: int, *, source: str = "own", sets: int = 3, seed: int = 0, num_data: int = 10_000
) -> list[GaussianSummary]:
    """Summarise the data sets that all methods share.

    Args:
        dim: d.
        source: One of :data:`SOURCES`.
        sets: How many.
        seed: That of the first set from own generators; the others count on.
        num_data: N.

    Raises:
        OptionError: If the source is unknown, or the study's data are asked for with a seed.

    Example:
        >>> data_sets(2, sets=1, num_data=10)
        [GaussianSummary(count=10, dim=2)]
    """
    choose("data", source, SOURCES)
    if source == "study":
        if seed:
            raise OptionError(f"seed must be 0 for the study's data, which have their own; got {seed}.")
        drawn = study_data(dim, sets=sets, num_data=num_data)
    else:
        drawn = [own_data(dim, seed=seed + i, num_data=num_data) for i in range(sets)]
    return [GaussianSummary.of(x) for x in drawn]


def model_at(offset: Tensor, scale: Tensor) -> OffsetGaussian:
    """The model at given parameters, in their precision."""
    model = OffsetGaussian(len(offset)).to(offset)
    model.offset.data, model.log_scale.data = offset.clone(), scale.log()
    return model.requires_grad_(False)
