"""MNIST, from its four files or from OpenML."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from guides.errors import DataError
from ppl_models.datasets.binarise import binarise
from ppl_models.datasets.idx import IDX_FILES, read_idx, write_idx
from ppl_models.datasets.image_data import ImageData
from ppl_models.datasets.seeded import seeded_generator

__all__ = ["mnist"]

_log = logging.getLogger(__name__)

_WHITE = 255
_ROWS, _TRAIN_ROWS, _SIDE = 70_000, 60_000, 28
_VALIDATION_SHARE = 6  # one in six: 10,000 of MNIST's 60,000
_INSTEAD = f"give data_dir, a folder with {', '.join(IDX_FILES)}, instead."


def mnist(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> ImageData:
    """Load MNIST's 70,000 handwritten digits, 28 x 28 pixels.

    One in six of the training images, 10,000, is held out for validation; the test set is the published one. Files
    with fewer images, or of another size, are split by the same rule.

    Shapes: ``train`` (50000, 1, 28, 28) grey, ``validation`` and ``test`` (10000, 1, 28, 28) binary; float32.

    Args:
        data_dir: A folder with the four IDX files, gzipped or plain. Without it, scikit-learn downloads MNIST from
            OpenML, once; that takes about a minute and 2 GB of memory.
        cache_dir: Where the download is kept; ``ppl-models`` in ``$XDG_CACHE_HOME`` or ``~/.cache`` if None. Not used
            when ``data_dir`` is given.
        seed: Decides which training images are held out, and how validation and test images are binarised.

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
    generator = seeded_generator(seed)
    if data_dir is not None:
        raw = _from_idx(Path(data_dir).expanduser())
    else:
        raw = _from_openml(_default_cache() if cache_dir is None else Path(cache_dir).expanduser())
    count = len(raw.images)
    held_out = count // _VALIDATION_SHARE
    train, validation = torch.split(torch.randperm(count, generator=generator), [count - held_out, held_out])
    return ImageData(
        name="mnist",
        train=_grey(raw.images[train]),
        validation=binarise(_grey(raw.images[validation]), generator),
        test=binarise(_grey(raw.test_images), generator),
        train_labels=raw.labels[train],
        validation_labels=raw.labels[validation],
        test_labels=raw.test_labels,
        grey_levels=_WHITE + 1,
    )


class _Raw(NamedTuple):
    """Bytes as published: images uint8 (N, H, W), labels int64 (N,)."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def _grey(images: Tensor) -> Tensor:
    return images.unsqueeze(1).to(torch.float32).div_(_WHITE)


def _from_idx(folder: Path) -> _Raw:
    rule = f"data_dir must be a folder with {', '.join(IDX_FILES)} (or the same without .gz)"
    if not folder.is_dir():
        raise DataError(f"{rule}; got {str(folder)!r}, which is not a folder.")
    paths = {name: _find(folder, name) for name in IDX_FILES}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise DataError(f"{rule}; got {str(folder)!r}, which lacks {', '.join(missing)}.")
    images, labels, test_images, test_labels = (path for path in paths.values() if path is not None)
    raw = _Raw(*_read_pair(images, labels), *_read_pair(test_images, test_labels))
    if raw.images.shape[1:] != raw.test_images.shape[1:]:
        raise DataError(
            f"{test_images}: must hold images of the same size as {images.name}, {tuple(raw.images.shape[1:])}; "
            f"got {tuple(raw.test_images.shape[1:])}. Give the files of one dataset."
        )
    if len(raw.images) < _VALIDATION_SHARE:
        raise DataError(
            f"{images}: must hold at least {_VALIDATION_SHARE} images, of which one in {_VALIDATION_SHARE} is held out "
            f"for validation; got {len(raw.images)}. Give a larger file."
        )
    return raw


def _find(folder: Path, name: str) -> Path | None:
    """Return the file, in whichever spelling it is there."""
    plain = name.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")
    spellings = (name, plain, f"{dotted}.gz", dotted)
    return next((folder / each for each in spellings if (folder / each).is_file()), None)


def _read_pair(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    images, labels = read_idx(images_path, kind="images"), read_idx(labels_path, kind="labels")
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: must hold one label per image of {images_path.name}, which has {len(images)}; "
            f"got {len(labels)}. Give the two files of one dataset."
        )
    if int(labels.max()) > 9:
        raise DataError(f"{labels_path}: labels must be digits from 0 to 9; got {int(labels.max())}.")
    return images, labels.to(torch.int64)


def _default_cache() -> Path:
    # The XDG specification tells readers to ignore a relative path.
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "ppl-models"


def _from_openml(cache: Path) -> _Raw:
    """Read the cached files, or download MNIST and leave it in the cache as the four files it is published in."""
    folder = cache / "mnist"
    if all(_find(folder, name) for name in IDX_FILES):
        return _from_idx(folder)
    raw = _download(cache)
    try:
        for name, values in zip(IDX_FILES, raw, strict=True):
            write_idx(folder / name.removesuffix(".gz"), values)
    except OSError as cause:
        _log.warning("MNIST could not be kept in %s, so the next run parses it anew: %s", folder, cause)
    return raw


def _download(cache: Path) -> _Raw:
    import numpy as np
    from sklearn.datasets import fetch_openml

    _log.info("downloading MNIST through OpenML into %s", cache)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A network error occurred")  # said once, below, if it lasts
            # Not the faster pandas parser: scikit-learn 1.9.1's fails on whole-number classes under pandas 3.1.
            bunch = fetch_openml("mnist_784", version=1, as_frame=False, parser="liac-arff", data_home=str(cache))
        pixels, labels = np.asarray(bunch.data), np.asarray(bunch.target).astype(np.int64)
    except Exception as cause:  # the network, the server, the parser and the disk each fail in their own way
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())
        raise DataError(f"MNIST could not be loaded from OpenML into {cache} ({reason}); {_INSTEAD}") from cause
    if pixels.shape != (_ROWS, _SIDE**2) or labels.shape != (_ROWS,):
        raise DataError(
            f"OpenML's MNIST must have {_ROWS} rows of {_SIDE**2} pixels and {_ROWS} labels; "
            f"got shapes {pixels.shape} and {labels.shape}; {_INSTEAD}"
        )
    if not (pixels.min() >= 0 and pixels.max() <= _WHITE and labels.min() >= 0 and labels.max() <= 9):
        raise DataError(
            f"OpenML's MNIST must have pixels from 0 to {_WHITE} and labels from 0 to 9; got pixels from "
            f"{pixels.min()} to {pixels.max()} and labels from {labels.min()} to {labels.max()}; {_INSTEAD}"
        )
    images = torch.from_numpy(pixels.astype(np.uint8)).reshape(_ROWS, _SIDE, _SIDE)
    digit = torch.from_numpy(labels)
    return _Raw(images[:_TRAIN_ROWS], digit[:_TRAIN_ROWS], images[_TRAIN_ROWS:], digit[_TRAIN_ROWS:])
