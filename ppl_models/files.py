"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

__all__ = ["OF_THE_DISK", "atomic_path", "make_folder", "remove_leftovers"]

#: What the system says of a write without naming the file: no space, over quota, too large, broken.
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary path that takes the place of ``path`` when the block ends well.

    The temporary file stands in the same folder under a hidden name with the same suffix. It reaches the disk before
    it is renamed, and the folder after: what stands there when the block has ended survives a restart of the machine.
    Any exception in the block, an interrupt too, removes the temporary file and leaves an older ``path`` as it was.

    Args:
        path: The final name. Its folder is made if it is missing.

    Raises:
        FileNotFoundError: If the block wrote nothing.
        OSError: If the disk is full or broken; it names ``path``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder, "results", "table.txt")) as temporary:
        ...         _ = temporary.write_text("complete")
        ...     Path(folder, "results", "table.txt").read_text()
        'complete'
    """
    final = Path(path)
    make_folder(final.parent)
    # The random part keeps threads of one process apart as well.
    temporary = final.with_name(f".{os.getpid()}-{uuid4().hex[:8]}.{final.name}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, final)
        _sync_folder(final.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            error.filename = os.fspath(path)
        raise


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it stands in, so that a restart of the machine does not lose them."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _sync_folder(each.parent)


def remove_leftovers(folder: Path, names: str) -> None:
    """Remove the temporary files of writers that were killed, where nobody writes now.

    Args:
        folder: Where they wrote.
        names: The final names, as a pattern.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("table.csv", ".7-0123abcd.table.csv", ".mine"):
        ...         Path(folder, name).touch()
        ...     remove_leftovers(Path(folder), "*.csv")
        ...     sorted(os.listdir(folder))
        ['.mine', 'table.csv']
    """
    for path in folder.glob(f".[0-9]*-????????.{names}"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system has a way to."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder; elsewhere one may be written to that is not to be read
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system's folders are not synced by hand
            raise
    finally:
        os.close(opened)
