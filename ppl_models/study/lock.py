"""Whose a folder is: that of one study, which alone writes to it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guides.errors import OptionError
from ppl_models.study.records import CONFIGURATION

__all__ = ["LOCK", "locked", "see_whose"]

#: The file of the lock.
LOCK = ".lock"


def see_whose(folder: Path) -> None:
    """See that a folder without a study has nothing else: a study clears up in its own, and believes its records.

    Raises:
        OptionError: If it has.
    """
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if names and CONFIGURATION not in names:
        raise OptionError(
            f"folder must be empty or a study's; {folder} has no {CONFIGURATION}, but {', '.join(sorted(names)[:3])}. "
            "Write another folder."
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock inside the block.

    The lock is the system's, on a file that says whose it is. It ends with the process that holds it, however that
    ends, so that one which is left over on this machine does no harm. Of one from another machine nobody can know
    whether it is left over, and so it is respected until its file is removed.

    Raises:
        OptionError: If another process holds it.
        OSError: If the disk is full; it names the file.
    """
    path = folder / LOCK
    with path.open("ab", buffering=0) as file:  # what does not fit on the disk is not tried again by closing it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OptionError(f"folder {folder} is being written by {_holder(path)}. Write another folder.") from None
        before = _read(path)
        if before.get("host", socket.gethostname()) != socket.gethostname():
            raise OptionError(f"folder {folder} is being written by {_holder(path)}. If that has ended, remove {path}.")
        file.truncate(0)
        try:
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        except OSError as error:
            error.filename = os.fspath(path)
            raise
        try:
            yield
        finally:
            file.truncate(0)  # not removed: another process may have opened it already


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # empty, or cut short when its process was killed
        return {}
    return content


def _holder(path: Path) -> str:
    holder = _read(path)
    return f"a study of process {holder.get('pid', 'unknown')} on {holder.get('host', 'this machine')}"
