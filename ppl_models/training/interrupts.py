"""Signals that end a training, held back until its step is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "Signals"]


class Interrupted(BaseException):
    """Raised where a training stops because of a signal; no error, and so no Exception."""


class Signals:
    """Holds back an interrupt from the keyboard (SIGINT) or a request to end (SIGTERM): the first, not the second."""

    def __init__(self) -> None:
        #: The signal that came, if one did.
        self.received: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold them back inside the block. Outside the main thread, which alone gets signals, nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def receive(number: int, frame: FrameType | None) -> Any:
            if self.received is not None:
                raise KeyboardInterrupt  # the person does not want to wait
            self.received = number

        for number in before:
            signal.signal(number, receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def pass_on(self) -> None:
        """Do what the signal that came is for: the program ends with its exit code, 130 or 143.

        Raises:
            KeyboardInterrupt: For an interrupt from the keyboard.
            SystemExit: For a request to end.
        """
        if self.received == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt  # also where another process of the same training was interrupted
