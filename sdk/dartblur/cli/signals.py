"""Ctrl-C, SIGTERM and a terminal that goes away end a run cleanly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """The run was told to end; `signal` says by which signal."""

    def __init__(self, signal: int) -> None:
        self.signal = signal


class Stopper:
    """What a signal does: it ends a camera's recording and aborts everything else.

    Attributes:
        event: set when a recording shall end.
        recording: whether the run is one; a second signal aborts it all the same.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.recording = False

    def __call__(self, number: int, at: FrameType | None) -> None:
        """The signal handler."""
        if self.recording and not self.event.is_set():
            self.event.set()
            return
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # tidying up isn't to be interrupted
        raise Interrupted(number)


@contextmanager
def on_signals() -> Iterator[Stopper]:
    """In this block the signals go to a `Stopper`, but for those that the caller has switched off, as nohup does."""
    stopper = Stopper()
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stopper) for number in heard}
    try:
        yield stopper
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
