"""Sets of 70,000 small images, from OpenML."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from guides.errors import DataError
from ppl_models.datasets.idx import IDX_FILES
from ppl_models.datasets.idx_folder import RawImages

__all__ = ["download_openml"]

_log = logging.getLogger(__name__)

_ROWS, _TRAIN_ROWS, _SIDE, _WHITE = 70_000, 60_000, 28, 255


def download_openml(openml_name: str, *, title: str, cache: Path) -> RawImages:
    """Download a set through scikit-learn: 60,000 images to train on, then 10,000 to test on, 28 x 28.

    If it fails, nothing of what was downloaded stays in the cache.

    Args:
        openml_name: What OpenML calls it.
        title: What to call it in messages.
        cache: Where scikit-learn keeps what it downloads.

    Raises:
        DataError: If the download fails, or is not of this form.
    """
    import numpy as np
    from sklearn.datasets import fetch_openml

    instead = f"give data_dir, a folder with {', '.join(IDX_FILES)}, instead."
    _log.info("downloading %s through OpenML into %s", title, cache)
    with _only_if_whole(cache):
        try:
            with warnings.catch_warnings():
                # Both are said once, below, if they last.
                warnings.filterwarnings("ignore", message="A network error occurred")
                warnings.filterwarnings("ignore", message="Invalid cache, redownloading")
                # Not the faster pandas parser: scikit-learn 1.9.1's fails on whole-number classes under pandas 3.1.
                bunch = fetch_openml(openml_name, version=1, as_frame=False, parser="liac-arff", data_home=str(cache))
            pixels, labels = np.asarray(bunch.data), np.asarray(bunch.target).astype(np.int64)
        except Exception as cause:  # the network, the server, the parser and the disk each fail in their own way
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())
            raise DataError(f"{title} could not be loaded from OpenML into {cache} ({reason}); {instead}") from cause
        if pixels.shape != (_ROWS, _SIDE**2) or labels.shape != (_ROWS,):
            raise DataError(
                f"OpenML's {title} must have {_ROWS} rows of {_SIDE**2} pixels and {_ROWS} labels; "
                f"got shapes {pixels.shape} and {labels.shape}; {instead}"
            )
        if not (pixels.min() >= 0 and pixels.max() <= _WHITE and labels.min() >= 0 and labels.max() <= 9):
            raise DataError(
                f"OpenML's {title} must have pixels from 0 to {_WHITE} and labels from 0 to 9; got pixels from "
                f"{pixels.min()} to {pixels.max()} and labels from {labels.min()} to {labels.max()}; {instead}"
            )
    images = torch.from_numpy(pixels.astype(np.uint8)).reshape(_ROWS, _SIDE, _SIDE)
    kinds = torch.from_numpy(labels)
    return RawImages(images[:_TRAIN_ROWS], kinds[:_TRAIN_ROWS], images[_TRAIN_ROWS:], kinds[_TRAIN_ROWS:])


@contextmanager
def _only_if_whole(folder: Path) -> Iterator[None]:
    """Remove the files that scikit-learn put below ``folder`` if what it downloaded cannot be used.

    It downloads a file with a wrong checksum a second time, and leaves that where the next call takes it for good.
    """
    before = _stamps(folder)
    try:
        yield
    except BaseException:
        for path, stamp in _stamps(folder).items():
            if before.get(path) != stamp:
                path.unlink(missing_ok=True)
        raise


def _stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    files = [path for path in (folder / "openml").rglob("*") if path.is_file()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
