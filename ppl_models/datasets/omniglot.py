"""Omniglot, from its two zip files, from arrays, or from GitHub."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from guides.errors import DataError
from ppl_models.datasets.binarise import binarise
from ppl_models.datasets.cache import cache_folder, kept_files, seal, unseal
from ppl_models.datasets.download import download
from ppl_models.datasets.drawings import Drawings, read_drawings, write_drawings
from ppl_models.datasets.image_data import ImageData
from ppl_models.seeds import seeded_generator

__all__ = ["fetch_omniglot", "kept_omniglot", "omniglot"]

_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
#: The two files with the MD5 checksums that torchvision gives for them, and how many drawings are in them.
_PARTS = {
    "images_background": ("68d2efa1b9178cc56df9314c21c6e718", 19_280),
    "images_evaluation": ("6b91aef0f799c5bb55b94e3f2daec811", 13_180),
}
_WHOLE = "omniglot.npz"
_WHITE = 255
_SHARE = 5


def omniglot(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    binary: bool = True,
) -> ImageData:
    """Load Omniglot's 32,460 drawings of 1,623 characters, made 28 x 28 pixels.

    A drawing of 105 x 105 pixels is turned to white on black, then resized (bilinear, antialiased), and binarised
    after that: what a model sees is binary. The background set is divided by the seed: one in five drawings is held out
    for validation. The evaluation set, of other alphabets, is the test set. The drawings of a single file of arrays
    are divided by the seed into a fifth for test, a fifth of the rest for validation, and what is left.

    Shapes: ``train`` (15424, 1, 28, 28) grey, ``validation`` (3856, 1, 28, 28) and ``test`` (13180, 1, 28, 28)
    binary; float32. A label is the number of a character among all that are there, in alphabetical order.

    Args:
        data_dir: A folder with ``images_background.zip`` and ``images_evaluation.zip``, or a file of arrays, which
            ``numpy.savez`` has written: ``images``, uint8 (N, 28, 28) with strokes 255 on 0, ``alphabet``, names (N,),
            and ``character``, whole numbers (N,). Without it, the cache answers; if it has no Omniglot, the zip files
            are downloaded, once, from the repository of the authors.
        cache_dir: Where the download is kept; ``ppl-models`` in ``$XDG_CACHE_HOME`` or ``~/.cache`` if None. Not used
            when ``data_dir`` is given.
        seed: Decides which drawings are held out, and how validation and test images are binarised.
        binary: Whether validation and test images are binarised. With ``False`` all images stay grey, with the values
            0, 1/255, ..., 1, as likelihoods of grey levels and ``FlowDensity.images(levels=256)`` need them.

    Raises:
        DataError: If a file is missing, damaged or holds something else, or the download fails.
        OptionError: If ``seed`` is not a whole number of at least 0.

    Example:
        >>> omniglot("no-such-folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        guides.errors.DataError: data_dir must be a folder with ...; got 'no-such-folder', which is not there.

    References:
        Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction",
        2015, https://doi.org/10.1126/science.aab3050.
    """
    generator = seeded_generator(seed)
    if data_dir is not None:
        parts = _read(Path(data_dir).expanduser())
    else:
        folder = cache_folder("omniglot", cache_dir)
        kept = kept_files(folder)
        if not kept:
            fetch_omniglot(None, folder)
            kept = kept_files(folder)
        parts = [read_drawings(path) for path in kept]
    return _split(parts, generator, binary=binary)


def fetch_omniglot(source: Path | None, folder: Path) -> None:
    """Put Omniglot into ``folder``, from ``source`` or, if None, from GitHub; see ``fetch``."""
    if source is None:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            for name, (checksum, _) in _PARTS.items():
                download(
                    f"{_URL}{name}.zip",
                    Path(temporary, f"{name}.zip"),
                    checksum=checksum,
                    instead="fetch it elsewhere, put it and the other of "
                    f"{' and '.join(f'{part}.zip' for part in _PARTS)} into a folder, and give that folder: data_dir "
                    "in Python, --from on the command line.",
                )
            parts = _read(Path(temporary))
    else:
        parts = _read(source)
    if len(parts) == 2:
        for (name, (_, count)), part in zip(_PARTS.items(), parts, strict=True):
            if len(part.images) != count:
                raise DataError(f"{name}.zip must hold {count:,} drawings; got {len(part.images):,}. Fetch it again.")
    names = [f"{name}.npz" for name in _PARTS] if len(parts) == 2 else [_WHOLE]
    unseal(folder)
    for name, part in zip(names, parts, strict=True):
        write_drawings(folder / name, part)
    seal(folder, names)


def kept_omniglot(files: list[Path]) -> tuple[int, ...]:
    """Say how many drawings of the cache's files are in the three parts: one file of arrays may hold any number."""
    import numpy as np

    counts = []
    for path in files:
        with np.load(path) as archive:
            counts.append(len(archive["character"]))
    if len(counts) == 1:
        counts = [counts[0] - counts[0] // _SHARE, counts[0] // _SHARE]
    rest, test = counts
    return rest - rest // _SHARE, rest // _SHARE, test


def _read(source: Path) -> list[Drawings]:
    """Read the two parts from a folder, or the only one from a file."""
    files = [f"{name}.zip" for name in _PARTS]
    rule = f"data_dir must be a folder with {' and '.join(files)}, or one .npz file"
    if not source.exists():
        raise DataError(f"{rule}; got {str(source)!r}, which is not there.")
    if source.is_file():
        if source.suffix == ".zip":
            raise DataError(f"{rule}; got {str(source)!r}, one zip file. Give the folder that holds both.")
        return [read_drawings(source)]
    missing = [name for name in files if not (source / name).is_file()]
    if missing:
        raise DataError(f"{rule}; got {str(source)!r}, which lacks {', '.join(missing)}.")
    return [read_drawings(source / name) for name in files]


def _split(parts: list[Drawings], generator: torch.Generator, *, binary: bool) -> ImageData:
    characters = sorted({pair for part in parts for pair in part.characters})
    number = {pair: index for index, pair in enumerate(characters)}
    images = [part.images for part in parts]
    labels = [torch.tensor([number[pair] for pair in part.characters], dtype=torch.int64) for part in parts]
    if len(parts) == 1:
        test, rest = _held_out(len(images[0]), generator)
        images, labels = [images[0][rest], images[0][test]], [labels[0][rest], labels[0][test]]
    validation, train = _held_out(len(images[0]), generator)
    held_out, test_images = _grey(images[0][validation]), _grey(images[1])
    return ImageData(
        name="omniglot",
        train=_grey(images[0][train]),
        validation=binarise(held_out, generator) if binary else held_out,
        test=binarise(test_images, generator) if binary else test_images,
        train_labels=labels[0][train],
        validation_labels=labels[0][validation],
        test_labels=labels[1],
        grey_levels=_WHITE + 1,
        binary=binary,
    )


def _held_out(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    order = torch.randperm(count, generator=generator)
    held_out, rest = torch.split(order, [count // _SHARE, count - count // _SHARE])
    return held_out, rest


def _grey(images: Tensor) -> Tensor:
    return images.unsqueeze(1).to(torch.float32).div_(_WHITE)
