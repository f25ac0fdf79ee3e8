"""Drawings of characters, in a zip file of pictures or a file of arrays."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from guides.errors import DataError
from ppl_models.files import atomic_path

__all__ = ["Drawings", "read_drawings", "resize", "write_drawings"]

_SIDE, _PUBLISHED_SIDE, _WHITE = 28, 105, 255
_KEYS = ("images", "alphabet", "character")
_AT_ONCE = 1000
_LEAST = 25  # of a single file a fifth goes to test, and a fifth of the rest to validation


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Hold drawings: uint8 (N, 28, 28), strokes 255 on 0, and the alphabet and number of the character of each."""

    images: Tensor
    characters: list[tuple[str, int]]


def read_drawings(path: Path) -> Drawings:
    """Read a zip file of pictures, or a file of arrays; which it is, its suffix says.

    The pictures are 105 x 105 pixels, black on white, named ``.../ALPHABET/characterNN/....png``.

    Args:
        path: A ``.zip`` file as published, or an ``.npz`` file with ``images``, ``alphabet`` and ``character``.

    Raises:
        DataError: If it cannot be read as what its suffix says, or images or names break the rules.
    """
    try:
        drawings = _read_zip(path) if path.suffix == ".zip" else _read_arrays(path)
    except DataError:
        raise
    except Exception as cause:  # zip, Pillow and NumPy fail in many ways: encrypted members, headers that tell nonsense
        raise DataError(f"{path}: must be an intact {path.suffix} file; got {cause}. Fetch it again.") from cause
    if len(drawings.images) < _LEAST:
        raise DataError(f"{path}: must hold at least {_LEAST} drawings; got {len(drawings.images)}.")
    return drawings


def write_drawings(path: Path, drawings: Drawings) -> None:
    """Write a file of arrays.

    Args:
        path: An ``.npz`` file; it appears only when it is complete.
        drawings: What to write.
    """
    import numpy as np

    alphabet, character = zip(*drawings.characters, strict=True)
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary, images=drawings.images.numpy(), alphabet=np.array(alphabet), character=np.array(character)
        )


def resize(images: Tensor) -> Tensor:
    """Make images 28 x 28, each pixel a weighted mean of all that it covers (bilinear, antialiased).

    Shapes: uint8 (N, H, W) to uint8 (N, 28, 28).

    Args:
        images: Grey values from 0 to 255.

    Example:
        >>> resize(torch.full((1, 105, 105), 200, dtype=torch.uint8)).unique().tolist()
        [200]
    """
    parts = [
        interpolate(part.unsqueeze(1).to(torch.float32), size=(_SIDE, _SIDE), mode="bilinear", antialias=True)
        for part in images.split(_AT_ONCE)
    ]
    return torch.cat(parts).squeeze(1).round_().clamp_(0, _WHITE).to(torch.uint8)


def _read_zip(path: Path) -> Drawings:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    pictures, characters = [], []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            place = PurePosixPath(name)
            if place.suffix != ".png" or place.parts[0] == "__MACOSX":
                continue
            try:
                with Image.open(io.BytesIO(archive.read(name))) as picture:
                    pixels = np.asarray(picture.convert("L"))
            except (UnidentifiedImageError, SyntaxError) as cause:
                raise DataError(f"{path}: {name} must be a picture; got something else. Fetch it again.") from cause
            if pixels.shape != (_PUBLISHED_SIDE, _PUBLISHED_SIDE):
                raise DataError(
                    f"{path}: {name} must be {_PUBLISHED_SIDE} x {_PUBLISHED_SIDE} pixels; got {pixels.shape}. "
                    "Give the file as published."
                )
            pictures.append(_WHITE - pixels)
            characters.append(_character(path, place))
    if not pictures:
        raise DataError(f"{path}: must hold pictures named .../ALPHABET/characterNN/....png; got none.")
    return Drawings(images=resize(torch.from_numpy(np.stack(pictures))), characters=characters)


def _character(path: Path, place: PurePosixPath) -> tuple[str, int]:
    number = place.parts[-2].removeprefix("character") if len(place.parts) > 2 else ""
    if not number.isdecimal():
        raise DataError(f"{path}: pictures must be named .../ALPHABET/characterNN/....png; got {str(place)!r}.")
    return place.parts[-3], int(number)


def _read_arrays(path: Path) -> Drawings:
    import numpy as np

    try:
        # Opened here, for NumPy leaves a file open that it cannot read.
        with path.open("rb") as opened:
            archive = np.load(opened)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: must be an .npz file with {', '.join(_KEYS)}; got a single array.")
            missing = [key for key in _KEYS if key not in archive]
            if missing:
                raise DataError(
                    f"{path}: must have the arrays {', '.join(_KEYS)}; got {', '.join(archive.files) or 'none'}. "
                    f"Write it with numpy.savez(path, {', '.join(f'{key}=...' for key in _KEYS)})."
                )
            images, alphabet, character = (np.asarray(archive[key]) for key in _KEYS)  # bytes, if not NumPy's
    except DataError:
        raise
    except ValueError as cause:  # objects that would have to be unpickled, or nothing of NumPy's
        raise DataError(f"{path}: must be an .npz file of plain arrays; got {cause}.") from cause
    if images.ndim == 1:
        raise DataError(f"{path}: images must have shape (N, {_SIDE}, {_SIDE}); got {images.shape}: are they labels?")
    if images.shape[1:] != (_SIDE, _SIDE) or images.dtype != np.uint8:
        raise DataError(
            f"{path}: images must be uint8 of shape (N, {_SIDE}, {_SIDE}); got {images.dtype} of shape {images.shape}."
        )
    if alphabet.dtype.kind != "U" or character.dtype.kind not in "iu":
        raise DataError(
            f"{path}: alphabet must be names and character whole numbers; got {alphabet.dtype} and {character.dtype}."
        )
    if not alphabet.shape == character.shape == images.shape[:1]:
        raise DataError(
            f"{path}: alphabet and character must have one entry per image, {len(images)}; got shapes "
            f"{alphabet.shape} and {character.shape}."
        )
    pairs = [(str(name), int(number)) for name, number in zip(alphabet, character, strict=True)]
    return Drawings(images=torch.from_numpy(images), characters=pairs)
