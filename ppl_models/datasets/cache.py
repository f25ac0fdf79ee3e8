"""Where files that were fetched are kept, with their checksums."""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from guides.errors import DataError
from ppl_models.files import atomic_path

__all__ = ["SUMS", "cache_folder", "kept_files", "seal", "unseal"]

SUMS = "SHA256SUMS"


def cache_folder(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Name the folder in which the files of a dataset are kept.

    Args:
        name: The dataset's name.
        cache_dir: The folder of all datasets; ``ppl-models`` in ``$XDG_CACHE_HOME`` or ``~/.cache`` if None.

    Example:
        >>> cache_folder("mnist", "data").parts
        ('data', 'mnist')
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser() / name
    # The XDG specification tells readers to ignore a relative path.
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "ppl-models" / name


def seal(folder: Path, names: Iterable[str]) -> None:
    """Write the checksums of the files that ``folder`` holds. Only then do they count as kept.

    Args:
        folder: The dataset's folder.
        names: The files in it; others that an earlier seal named are no longer counted.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "images").write_bytes(b"...")
        ...     seal(Path(folder), ["images"])
        ...     [path.name for path in kept_files(Path(folder))]
        ['images']
    """
    lines = [f"{_checksum(folder / name)}  {name}\n" for name in names]
    with atomic_path(folder / SUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def unseal(folder: Path) -> None:
    """Forget the checksums, before files are written anew: what an interrupt leaves does not count as kept.

    Args:
        folder: The dataset's folder, which need not exist.
    """
    (folder / SUMS).unlink(missing_ok=True)


def kept_files(folder: Path) -> list[Path]:
    """Return the files that ``folder`` keeps, each checked; none if it was never sealed or a file is missing.

    Args:
        folder: The dataset's folder.

    Raises:
        DataError: If a file is not what it was when it was sealed.
    """
    if not (folder / SUMS).is_file():
        return []
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    sums = {folder / name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    if not all(path.is_file() for path in sums):
        return []
    for path, checksum in sums.items():
        if _checksum(path) != checksum:
            raise DataError(
                f"{path}: must have the SHA-256 checksum that stands in {SUMS} beside it; got another, so it has been "
                f"damaged. Fetch it again: ppl-models data fetch {folder.name}."
            )
    return list(sums)


def _checksum(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
