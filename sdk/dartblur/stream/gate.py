"""The gate: what has been anonymized leaves in order, and something else leaves in place of what hasn't.

Each frame is announced when work on it begins, and settled once: by its redacted picture, by its fault, or by the watch
when the anonymizer takes too long. A result that comes later than that is thrown away.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import FailClosedError
from ..frame import Frame, RedactedFrame, cover_whole, repeat
from ..protection.guard import Fault, Outcome
from ..protection.policy import Protection
from .observers import Event


class Gate:
    """Lets redacted frames out, one by one and in order; for several threads.

    Args:
        protection: says what leaves in place of a frame that can't be anonymized.
        leave: called with each frame that leaves.
        leave_out: called with the reason why a frame doesn't.
        observe: is told of faults.
        name_of: names a frame, by its index, in messages.
        remains: what there is of the output when the stream is stopped, for messages.
    """

    def __init__(
        self,
        protection: Protection,
        leave: Callable[[RedactedFrame], None],
        leave_out: Callable[[str], None],
        observe: Callable[[Event], None],
        name_of: Callable[[int], str],
        remains: str,
    ) -> None:
        self._protection, self._leave, self._leave_out, self._observe = protection, leave, leave_out, observe
        self._name_of, self._remains = name_of, remains
        self._lock = threading.RLock()
        self._expected: deque[Frame] = deque()
        self._busy_since: float | None = None
        self._last: RedactedFrame | None = None
        self._failing = ""
        self._ended = False
        self.epoch = 0
        """Counts how often frames were taken away from the anonymizer; it then gives up those that it has begun."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """In this block the anonymizer is at work."""
        with self._lock:
            self._busy_since = time.monotonic()
        try:
            yield
        finally:
            # Not while its frames are taken away, so that none of a later time leaves before them.
            with self._lock:
                self._busy_since = None

    @property
    def stuck(self) -> bool:
        """Whether the anonymizer has been at work for longer than it may."""
        return self._late_by(0.0)

    @property
    def hangs(self) -> bool:
        """Whether it has been at work for so long that it won't come back."""
        return self._late_by(max(_PATIENCE_S, self._protection.timeout or 0.0))

    def _late_by(self, seconds: float) -> bool:
        since, timeout = self._busy_since, self._protection.timeout
        return since is not None and timeout is not None and time.monotonic() - since > timeout + seconds

    def expect(self, frame: Frame) -> None:
        """The anonymizer begins with this frame."""
        with self._lock:
            self._expected.append(frame)

    def settle(self, outcome: Outcome) -> None:
        """Lets a frame out, or what stands in for it, unless that has been done.

        Raises:
            FailClosedError: the frame can't be anonymized, and the stream is to stop.
        """
        frame = outcome.frame if isinstance(outcome, Fault) else outcome
        with self._lock:
            if all(expected.index != frame.index for expected in self._expected):
                return  # late: something else has left in its place
            while (clear := self._expected.popleft()).index != frame.index:
                self._stand_in(clear, "time-out", FailClosedError("its result was given up"))
            if self._ended:
                return
            if isinstance(outcome, Fault):
                self._stand_in(clear, outcome.reason, outcome.error)
                return
            self._last = outcome
            if self._failing:
                self._failing = ""
                self._observe(Event("recovered", "frames are anonymized again"))
            self._leave(outcome)

    def settle_all(self) -> None:
        """Settles what is still expected when the anonymizer has nothing more."""
        with self._lock:
            while self._expected:
                self._stand_in(self._expected.popleft(), "time-out", FailClosedError("its result was given up"))

    def end(self) -> None:
        """Nothing leaves any more, whoever is still at work.

        What is just leaving is waited for, but not for ever: its observer may hang, or wait for the end itself.
        """
        self._ended = True
        if self._lock.acquire(timeout=_END_S):
            self._lock.release()

    def take_away(self, more: Callable[[], list[Frame]]) -> None:
        """Settles all frames that the anonymizer has begun with, and more that it hasn't, without it; nothing where it
        has come back meanwhile.
        """
        error = FailClosedError(f"no result within {self._protection.timeout} s")
        with self._lock:
            if not self.stuck:
                return
            reason = "time-out" if self._last else "start-up"
            if self._expected:
                self.epoch += 1
            self._expected.extend(more())
            while self._expected:
                self._stand_in(self._expected.popleft(), reason, error)

    def _stand_in(self, frame: Frame, reason: str, error: Exception) -> None:
        if self._ended:
            return
        on_fault, last = self._protection.on_fault, self._last
        what = f"{self._name_of(frame.index)}: frame {frame.index}: anonymization failed ({_told(error)})"
        if on_fault == "stop":
            raise FailClosedError(f"{what}: stopped, {self._remains}") from error
        if self._failing != reason:
            self._failing = reason
            self._observe(Event("fault", f"{what}: {_INSTEAD[on_fault]}", reason))
        if on_fault == "drop":
            self._leave_out(reason)
            return
        if on_fault == "hold" and last is not None and self._is_fresh(last, frame):
            self._leave(repeat(last, frame, reason))
        else:
            self._leave(cover_whole(frame, reason))

    def _is_fresh(self, last: RedactedFrame, frame: Frame) -> bool:
        """Whether the picture before may be shown once more; of a source whose time stands still by the clock."""
        hold = self._protection.hold
        passed = frame.time - last.time or frame.captured - last.captured
        return hold > 0 and abs(passed) <= hold


_END_S = 1.0
"""How long the end waits for a frame that is just leaving."""
_PATIENCE_S = 2.0
"""How much longer than it may the anonymizer can take before the stream is ended because of it."""

_INSTEAD = {
    "solid": "frames are covered whole",
    "hold": "the picture before it is shown, later one colour",
    "drop": "frames are left out",
}


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, FailClosedError) else f"{type(error).__name__}: {error}"
