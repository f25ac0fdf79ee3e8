"""Downloads that are complete or not there."""

from __future__ import annotations

import logging
import shutil
import urllib.request
from hashlib import md5
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from guides.errors import DataError
from ppl_models.files import atomic_path

__all__ = ["download"]

_log = logging.getLogger(__name__)

_TIMEOUT = 60.0  # seconds without an answer


def download(url: str, path: Path, *, checksum: str, instead: str) -> None:
    """Download one file. It appears under its name only if it is whole.

    Args:
        url: Where it is.
        path: Where it goes.
        checksum: Its MD5 checksum, as its publishers' users have it.
        instead: What to do where there is no network, as a sentence.

    Raises:
        DataError: If the server cannot be reached or refuses, or what it sends has another checksum.
    """
    _log.info("downloading %s", url)
    try:
        with atomic_path(path) as temporary:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, temporary.open("wb") as written:
                shutil.copyfileobj(answer, written)
            got = md5(temporary.read_bytes(), usedforsecurity=False).hexdigest()
            if got != checksum:
                raise DataError(
                    f"{url}: the download must have the MD5 checksum {checksum}; got {got} for "
                    f"{temporary.stat().st_size:,} bytes, which were not kept. Try again, or {instead}"
                )
    except (OSError, HTTPException) as cause:
        if isinstance(cause, HTTPError):
            cause.close()  # it is an open answer as well
        raise DataError(f"{url} could not be downloaded to {path} ({cause}); {instead}") from cause
