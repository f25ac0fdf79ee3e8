"""The four IDX files in which MNIST and sets like it are published."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from guides.errors import DataError
from ppl_models.datasets.idx import IDX_FILES, read_idx, write_idx

__all__ = ["VALIDATION_SHARE", "RawImages", "read_idx_folder", "write_idx_folder"]

VALIDATION_SHARE = 6  # one in six: 10,000 of MNIST's 60,000


class RawImages(NamedTuple):
    """Hold what the four files do: images uint8 (N, H, W), labels int64 (N,)."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def read_idx_folder(folder: Path) -> RawImages:
    """Read the four files of a folder, each gzipped or plain.

    Args:
        folder: Where they are.

    Raises:
        DataError: If it is not a folder, or a file is missing, damaged, or does not belong with the others.
    """
    rule = f"data_dir must be a folder with {', '.join(IDX_FILES)} (or the same without .gz)"
    if not folder.is_dir():
        raise DataError(f"{rule}; got {str(folder)!r}, which is not a folder.")
    paths = {name: _find(folder, name) for name in IDX_FILES}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise DataError(f"{rule}; got {str(folder)!r}, which lacks {', '.join(missing)}.")
    images, labels, test_images, test_labels = (path for path in paths.values() if path is not None)
    raw = RawImages(*_read_pair(images, labels), *_read_pair(test_images, test_labels))
    if raw.images.shape[1:] != raw.test_images.shape[1:]:
        raise DataError(
            f"{test_images}: must hold images of the same size as {images.name}, {tuple(raw.images.shape[1:])}; "
            f"got {tuple(raw.test_images.shape[1:])}. Give the files of one dataset."
        )
    if len(raw.images) < VALIDATION_SHARE:
        raise DataError(
            f"{images}: must hold at least {VALIDATION_SHARE} images, of which one in {VALIDATION_SHARE} is held out "
            f"for validation; got {len(raw.images)}. Give a larger file."
        )
    return raw


def write_idx_folder(folder: Path, raw: RawImages) -> list[str]:
    """Write the four files, plain, and return their names.

    Args:
        folder: Where they go.
        raw: What they hold.
    """
    names = [name.removesuffix(".gz") for name in IDX_FILES]
    for name, values in zip(names, raw, strict=True):
        write_idx(folder / name, values)
    return names


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
