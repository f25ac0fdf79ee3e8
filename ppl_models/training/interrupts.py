"""Signals that end a training, held back until its step is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Signals"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """Raised where a training stops because of a signal; no error, and so no Exception."""


class Signals:
    """Holds back an interrupt from the keyboard (SIGINT) or a request to end (SIGTERM): the first, not the second."""

    def __init__(self) -> None:
        #: The signal that came, if one did.
        self.received: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold them back inside the block."""
        before = {number: signal.getsignal(number) for number in _NUMBERS}
        self.hold()
        try:
            yield
        finally:
            if _may_handle():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def hold(self) -> None:
        """Hold them back from here on, whoever did something else about them in between."""
        if _may_handle():
            for number in _NUMBERS:
                signal.signal(number, self._receive)

    def pass_on(self) -> None:
        """Do what the signal that came is for: end the program, if nobody catches what is raised.

        Raises:
            KeyboardInterrupt: For an interrupt from the keyboard.
            SystemExit: For a request to end, with the exit code 143.
        """
        if self.received == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt  # also where another process of the same training was interrupted

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted  # the person does not want to wait
        self.received = number


def _may_handle() -> bool:
    """Python gives signals to the main thread alone."""
    return threading.current_thread() is threading.main_thread()
