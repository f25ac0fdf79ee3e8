"""Every dataset by its name."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

from guides.errors import choose
from ppl_models.datasets.digits import digits
from ppl_models.datasets.image_data import ImageData
from ppl_models.datasets.mnist import mnist

__all__ = ["DATASETS", "load"]

DATASETS: dict[str, Callable[..., ImageData]] = {"digits": digits, "mnist": mnist}


def load(name: str, **options: object) -> ImageData:
    """Load the dataset called ``name``.

    Args:
        name: One of the names in ``DATASETS``.
        **options: The loader's own options, such as ``seed``.

    Raises:
        OptionError: If there is no such dataset, or it has no such option.

    Example:
        >>> load("digits", seed=3)
        ImageData(name='digits', grey_levels=17, train=(1257, 1, 8, 8), validation=(180, 1, 8, 8), test=(360, 1, 8, 8))
        >>> load("minst")
        Traceback (most recent call last):
            ...
        guides.errors.OptionError: dataset must be one of 'digits', 'mnist'; got 'minst'. Did you mean 'mnist'?
    """
    loader = DATASETS[choose("dataset", name, DATASETS)]
    for option in options:
        choose(f"an option of dataset {name!r}", option, signature(loader).parameters)
    return loader(**options)
