"""MNIST and Fashion-MNIST, from their four files or from OpenML."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guides.errors import DataError
from ppl_models.datasets.binarise import binarise
from ppl_models.datasets.cache import cache_folder, kept_files, seal, unseal
from ppl_models.datasets.idx_folder import VALIDATION_SHARE, RawImages, read_idx_folder, write_idx_folder
from ppl_models.datasets.image_data import ImageData
from ppl_models.datasets.openml import download_openml
from ppl_models.seeds import seeded_generator

__all__ = ["fashion_mnist", "fetch_fashion_mnist", "fetch_mnist", "mnist", "mnist_files"]

_log = logging.getLogger(__name__)

_WHITE, _SIDE = 255, 28


@dataclass(frozen=True, kw_only=True)
class _Published:
    """One of the sets, and how many images of each class are in its two parts."""

    name: str
    title: str
    openml_name: str
    counts: tuple[int, ...]
    test_counts: tuple[int, ...]


_MNIST = _Published(
    name="mnist",
    title="MNIST",
    openml_name="mnist_784",
    counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    test_counts=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
)
_FASHION = _Published(
    name="fashion_mnist",
    title="Fashion-MNIST",
    openml_name="Fashion-MNIST",
    counts=(6000,) * 10,
    test_counts=(1000,) * 10,
)


def mnist(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    binary: bool = True,
) -> ImageData:
    """Load MNIST's 70,000 handwritten digits, 28 x 28 pixels.

    One in six of the training images, 10,000, is held out for validation; the test set is the published one. Files
    with fewer images, or of another size, are split by the same rule.

    Shapes: ``train`` (50000, 1, 28, 28) grey, ``validation`` and ``test`` (10000, 1, 28, 28) binary; float32.

    Args:
        data_dir: A folder with the four IDX files, gzipped or plain. Without it, the cache answers; if it has no
            MNIST, scikit-learn downloads it from OpenML, once, which takes about a minute and 2 GB of memory.
        cache_dir: Where the download is kept; ``ppl-models`` in ``$XDG_CACHE_HOME`` or ``~/.cache`` if None. Not used
            when ``data_dir`` is given.
        seed: Decides which training images are held out, and how validation and test images are binarised.
        binary: Whether validation and test images are binarised. With ``False`` all images stay grey, with the values
            0, 1/255, ..., 1, as likelihoods of grey levels and ``FlowDensity.images(levels=256)`` need them.

    Raises:
        DataError: If a file is missing or damaged, images and labels do not match, or the download fails.
        OptionError: If ``seed`` is not a whole number of at least 0.

    Example:
        >>> mnist("no-such-folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        guides.errors.DataError: data_dir must be a folder with ...; got 'no-such-folder', which is not a folder.

    References:
        LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998,
        https://doi.org/10.1109/5.726791.
    """
    return _load(_MNIST, data_dir, cache_dir, seed, binary=binary)


def fashion_mnist(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    binary: bool = True,
) -> ImageData:
    """Load Fashion-MNIST's 70,000 pictures of clothes, 28 x 28 pixels.

    Files, split and binarisation are as for ``mnist``.

    Shapes: ``train`` (50000, 1, 28, 28) grey, ``validation`` and ``test`` (10000, 1, 28, 28) binary; float32.

    Args:
        data_dir: A folder with the four IDX files, which have the same names as MNIST's; see ``mnist``.
        cache_dir: Where the download is kept; see ``mnist``.
        seed: Decides which training images are held out, and how validation and test images are binarised.
        binary: Whether validation and test images are binarised. With ``False`` all images stay grey, with the values
            0, 1/255, ..., 1, as likelihoods of grey levels and ``FlowDensity.images(levels=256)`` need them.

    Raises:
        DataError: If a file is missing or damaged, images and labels do not match, or the download fails.
        OptionError: If ``seed`` is not a whole number of at least 0.

    Example:
        >>> fashion_mnist(seed=-1)
        Traceback (most recent call last):
            ...
        guides.errors.OptionError: seed must be a whole number, at least 0 and below 2**63; got -1.

    References:
        Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
        2017, https://arxiv.org/abs/1708.07747.
    """
    return _load(_FASHION, data_dir, cache_dir, seed, binary=binary)


def mnist_files(
    data_dir: str | os.PathLike[str] | None = None, *, cache_dir: str | os.PathLike[str] | None = None
) -> RawImages:
    """Read MNIST's images and labels as published: in their order, as bytes, none held out.

    Args:
        data_dir: See :func:`mnist`.
        cache_dir: See :func:`mnist`.

    Raises:
        DataError: If a file is missing or damaged, images and labels do not match, or the download fails.
    """
    return _raw(_MNIST, data_dir, cache_dir)


def fetch_mnist(source: Path | None, folder: Path) -> None:
    """Put MNIST into ``folder``, from ``source`` or, if None, from OpenML; see ``fetch``."""
    _keep(folder, _obtain(_MNIST, source, folder))


def fetch_fashion_mnist(source: Path | None, folder: Path) -> None:
    """Put Fashion-MNIST into ``folder``, from ``source`` or, if None, from OpenML; see ``fetch``."""
    _keep(folder, _obtain(_FASHION, source, folder))


def _load(
    published: _Published,
    data_dir: str | os.PathLike[str] | None,
    cache_dir: str | os.PathLike[str] | None,
    seed: int,
    *,
    binary: bool,
) -> ImageData:
    generator = seeded_generator(seed)
    raw = _raw(published, data_dir, cache_dir)
    count = len(raw.images)
    held_out = count // VALIDATION_SHARE
    train, validation = torch.split(torch.randperm(count, generator=generator), [count - held_out, held_out])
    held_out_images, test = _grey(raw.images[validation]), _grey(raw.test_images)
    return ImageData(
        name=published.name,
        train=_grey(raw.images[train]),
        validation=binarise(held_out_images, generator) if binary else held_out_images,
        test=binarise(test, generator) if binary else test,
        train_labels=raw.labels[train],
        validation_labels=raw.labels[validation],
        test_labels=raw.test_labels,
        grey_levels=_WHITE + 1,
        binary=binary,
    )


def _raw(
    published: _Published, data_dir: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None
) -> RawImages:
    if data_dir is not None:
        return read_idx_folder(Path(data_dir).expanduser())
    return _cached(published, cache_folder(published.name, cache_dir))


def _grey(images: Tensor) -> Tensor:
    return images.unsqueeze(1).to(torch.float32).div_(_WHITE)


def _cached(published: _Published, folder: Path) -> RawImages:
    """Read the cached files, or download them and leave them in the cache."""
    if kept_files(folder):
        return read_idx_folder(folder)
    raw = _obtain(published, None, folder)
    try:
        _keep(folder, raw)
    except OSError as cause:
        _log.warning("%s could not be kept in %s, so the next run parses it anew: %s", published.title, folder, cause)
    return raw


def _obtain(published: _Published, source: Path | None, folder: Path) -> RawImages:
    """Read the published set from a folder of its files, or download it; and see that it is the published set."""
    if source is None:
        raw = download_openml(published.openml_name, title=published.title, cache=folder.parent)
    else:
        raw = read_idx_folder(source)
    counts = (published.counts, published.test_counts)
    got = tuple(tuple(torch.bincount(each, minlength=10).tolist()) for each in (raw.labels, raw.test_labels))
    if got != counts or raw.images.shape[1:] != (_SIDE, _SIDE):
        raise DataError(
            f"{source or 'OpenML'}: must be {published.title} as published, {sum(counts[0])} and {sum(counts[1])} "
            f"images of {_SIDE} x {_SIDE} pixels, with {counts[0]} and {counts[1]} of the ten classes; got "
            f"{len(raw.labels)} and {len(raw.test_labels)} images of {tuple(raw.images.shape[1:])} pixels, with "
            f"{got[0]} and {got[1]}."
        )
    return raw


def _keep(folder: Path, raw: RawImages) -> None:
    unseal(folder)
    seal(folder, write_idx_folder(folder, raw))
