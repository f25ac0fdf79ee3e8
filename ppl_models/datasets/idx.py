"""IDX, the file format in which MNIST is published."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from guides.errors import DataError
from ppl_models.files import atomic_path

__all__ = ["IDX_FILES", "read_idx", "write_idx"]

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)

# Two zero bytes, 0x08 for unsigned bytes, and the number of dimensions.
_MAGIC = {"images": 0x00000803, "labels": 0x00000801}
_GZIP_START = b"\x1f\x8b"
_AGAIN = "Fetch the file again."


def read_idx(path: str | os.PathLike[str], *, kind: Literal["images", "labels"] | None = None) -> Tensor:
    """Read an IDX file of images or labels, gzipped or plain.

    Whether it is gzipped is read off its first bytes, not off its name.

    Shapes: uint8, (N, H, W) for images and (N,) for labels.

    Args:
        path: The file.
        kind: What it must hold; either is accepted if None.

    Raises:
        DataError: If the file is missing or unreadable, is not IDX, holds the other kind, is empty, or has more or
            fewer bytes than its header says.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "labels").write_bytes(struct.pack(">II3B", 0x00000801, 3, 7, 0, 9))
        ...     read_idx(Path(folder, "labels"))
        tensor([7, 0, 9], dtype=torch.uint8)

    References:
        LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998,
        http://yann.lecun.com/exdb/mnist ("File formats").
    """
    path = Path(path)
    content = _read_bytes(path)
    kind = _read_kind(path, content, kind)
    rank = _MAGIC[kind] & 0xFF
    header = 4 + 4 * rank
    if len(content) < header:
        raise DataError(f"{path}: the header of IDX {kind} must have {header} bytes; got {len(content)}. {_AGAIN}")
    shape = struct.unpack_from(f">{rank}I", content, offset=4)
    if 0 in shape:
        raise DataError(f"{path}: must hold at least one of its {kind}; its header says {_times(shape)}. {_AGAIN}")
    expected, got = math.prod(shape), len(content) - header
    if got != expected:
        what = "truncated" if got < expected else "too long"
        raise DataError(
            f"{path}: is {what}: {_times(shape)} {kind} need {expected} bytes after the header; got {got}. {_AGAIN}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(shape)


def write_idx(path: str | os.PathLike[str], values: Tensor) -> None:
    """Write whole numbers from 0 to 255 as a plain IDX file of unsigned bytes.

    Shapes: ``values`` (N, H, W) for images, (N,) for labels.

    Args:
        path: The file; it appears only when it is complete.
        values: The images or labels.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_idx(Path(folder, "labels"), torch.tensor([7, 0, 9]))
        ...     read_idx(Path(folder, "labels"))
        tensor([7, 0, 9], dtype=torch.uint8)
    """
    header = struct.pack(f">{1 + values.dim()}I", 0x00000800 + values.dim(), *values.shape)
    with atomic_path(path) as temporary:
        temporary.write_bytes(header + values.to(torch.uint8).numpy().tobytes())


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as cause:
        raise DataError(
            f"{path}: must be an IDX file; there is no such file. MNIST's four are {', '.join(IDX_FILES)}."
        ) from cause
    except OSError as cause:
        raise DataError(f"{path}: must be a readable IDX file; got {cause.strerror}.") from cause
    if not content.startswith(_GZIP_START):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as cause:
        raise DataError(f"{path}: must be an intact gzip file; got one that breaks off ({cause}). {_AGAIN}") from cause


def _read_kind(path: Path, content: bytes, kind: Literal["images", "labels"] | None) -> Literal["images", "labels"]:
    allowed = " or ".join(f"0x{_MAGIC[each]:08x} ({each})" for each in _MAGIC if kind in (None, each))
    if len(content) < 4:
        raise DataError(f"{path}: must begin with the magic number {allowed}; got {len(content)} bytes. {_AGAIN}")
    magic = int.from_bytes(content[:4], "big")
    found: Literal["images", "labels"]
    if magic == _MAGIC["images"]:
        found = "images"
    elif magic == _MAGIC["labels"]:
        found = "labels"
    else:
        raise DataError(
            f"{path}: magic number must be {allowed}; got 0x{magic:08x}. Give a file as published, gzipped or not."
        )
    if kind not in (None, found):
        raise DataError(
            f"{path}: magic number must be {allowed}; got 0x{magic:08x}, which marks {found}. "
            "The images file and the labels file look swapped: exchange their names."
        )
    return found
