"""When the frames of a live stream are shown."""

from __future__ import annotations

from ...frame import RedactedFrame

_LEAST_STEP_S = 0.001
"""Matroska counts milliseconds."""

_LEAP_S = 3600.0
"""A camera that sets its clock leaps; a gap in the pictures is never that long without time going by here too."""


class Timeline:
    """Seconds since the first frame, by the source's own clock, which may be broken.

    Where that clock stands still, goes back or leaps, the clock of this machine says how long it took.
    """

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._now = 0.0

    def at(self, frame: RedactedFrame) -> float:
        """When to show this frame: always later than the one before it by a millisecond or more."""
        if self._last is not None:
            last_time, last_captured = self._last
            step, elapsed = frame.time - last_time, frame.captured - last_captured
            if not 0 < step < elapsed + _LEAP_S:  # nor is NaN
                step = elapsed
            self._now += max(step, _LEAST_STEP_S)
        self._last = frame.time, frame.captured
        return self._now
