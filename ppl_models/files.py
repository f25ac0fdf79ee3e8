"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

__all__ = ["OF_THE_DISK", "atomic_path"]

#: What the system says of a write without naming the file: no space, over quota, too large, broken.
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary path that takes the place of ``path`` when the block ends well.

    The temporary file stands in the same folder under a hidden name with the same suffix. It reaches the disk before
    it is renamed; any exception in the block, an interrupt too, removes it and leaves an older ``path`` as it was.

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
    final.parent.mkdir(parents=True, exist_ok=True)
    # The random part keeps threads of one process apart as well.
    temporary = final.with_name(f".{os.getpid()}-{uuid4().hex[:8]}.{final.name}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, final)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            error.filename = os.fspath(path)
        raise
