"""Every dataset by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Literal, overload

from guides.errors import OptionError, choose
from ppl_models.datasets.cache import cache_folder, kept_files
from ppl_models.datasets.digits import digits
from ppl_models.datasets.image_data import ImageData
from ppl_models.datasets.mnist import fashion_mnist, fetch_fashion_mnist, fetch_mnist, mnist
from ppl_models.datasets.omniglot import fetch_omniglot, kept_omniglot, omniglot
from ppl_models.datasets.toy import ENTROPIES
from ppl_models.datasets.toy_data import ToyData, toy_data

__all__ = ["DATASETS", "Dataset", "fetch", "load"]

_TOY_SIZES = tuple(
    signature(toy_data).parameters[option].default for option in ("num_train", "num_validation", "num_test")
)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Say what a dataset is and how it is had, without loading it.

    Args:
        load: Function from options, ``seed`` among them, to the loaded data.
        sizes: How many images or points are in ``train``, ``validation`` and ``test``, if no option says otherwise.
        event_shape: The shape of one.
        entropy: The least mean negative log likelihood that a model can have on them, in nats; None if unknown.
        fetch: Function that puts the files, from a folder or file, or from the internet if None, into a folder; None
            for data that need no files.
        kept: Function from the files in the cache to the sizes of the data in them, where they may be others.
    """

    load: Callable[..., ImageData | ToyData]
    sizes: tuple[int, ...]
    event_shape: tuple[int, ...]
    entropy: float | None = None
    fetch: Callable[[Path | None, Path], None] | None = None
    kept: Callable[[list[Path]], tuple[int, ...]] | None = None


#: Every dataset by its name.
DATASETS: dict[str, Dataset] = {
    "digits": Dataset(load=digits, sizes=(1257, 180, 360), event_shape=(1, 8, 8)),
    "mnist": Dataset(load=mnist, sizes=(50_000, 10_000, 10_000), event_shape=(1, 28, 28), fetch=fetch_mnist),
    "fashion_mnist": Dataset(
        load=fashion_mnist, sizes=(50_000, 10_000, 10_000), event_shape=(1, 28, 28), fetch=fetch_fashion_mnist
    ),
    "omniglot": Dataset(
        load=omniglot,
        sizes=(15_424, 3_856, 13_180),
        event_shape=(1, 28, 28),
        fetch=fetch_omniglot,
        kept=kept_omniglot,
    ),
} | {
    name: Dataset(load=partial(toy_data, name), sizes=_TOY_SIZES, event_shape=(2,), entropy=entropy)
    for name, entropy in ENTROPIES.items()
}


@overload
def load(name: Literal["digits", "mnist", "fashion_mnist", "omniglot"], **options: object) -> ImageData: ...
@overload
def load(name: str, **options: object) -> ImageData | ToyData: ...
def load(name: str, **options: object) -> ImageData | ToyData:
    """Load the dataset called ``name``: images, or points in the plane.

    Args:
        name: One of the names in ``DATASETS``.
        **options: The loader's own options, such as ``seed``; see ``digits``, ``mnist``, ``fashion_mnist``,
            ``omniglot`` and ``toy_data``.

    Raises:
        OptionError: If there is no such dataset, or it has no such option.

    Example:
        >>> load("digits", seed=3)
        ImageData(name='digits', grey_levels=17, train=(1257, 1, 8, 8), validation=(180, 1, 8, 8), test=(360, 1, 8, 8))
        >>> load("moons", num_test=500)
        ToyData(name='moons', entropy=2.39388, train=(100000, 2), validation=(10000, 2), test=(500, 2))
        >>> load("minst")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        guides.errors.OptionError: dataset must be one of 'digits', 'mnist', ...; got 'minst'. Did you mean 'mnist'?
    """
    loader = DATASETS[choose("dataset", name, DATASETS)].load
    for option in options:
        choose(f"an option of dataset {name!r}", option, signature(loader).parameters)
    return loader(**options)


def fetch(
    name: str,
    source: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Put a checked copy of a dataset's files into the cache, where ``load`` finds it, and return its files.

    Folders must hold the whole dataset as published. One file of arrays of Omniglot may hold any 25 drawings or more,
    which are then what ``load("omniglot")`` gives; ``ppl-models data list`` shows how many.

    Args:
        name: One of the names in ``DATASETS`` that needs files.
        source: A folder, or a file, such as the dataset's ``data_dir`` may be; the internet if None.
        cache_dir: The folder of all datasets; ``ppl-models`` in ``$XDG_CACHE_HOME`` or ``~/.cache`` if None.

    Raises:
        OptionError: If there is no such dataset, or it needs no files.
        DataError: If ``source`` does not hold what it must, or the download fails.

    Example:
        >>> fetch("moons")
        Traceback (most recent call last):
            ...
        guides.errors.OptionError: 'moons' needs no files. Write load('moons').
    """
    getter = DATASETS[choose("dataset", name, DATASETS)].fetch
    if getter is None:
        raise OptionError(f"{name!r} needs no files. Write load({name!r}).")
    folder = cache_folder(name, cache_dir)
    getter(None if source is None else Path(source).expanduser(), folder)
    return kept_files(folder)
