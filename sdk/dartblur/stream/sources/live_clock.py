"""One clock for a live stream, whatever happens to the time stamps of its camera."""

from __future__ import annotations

_BEHIND_S = 1.0
"""How far a stream's time may be behind the clock of the machine: more is a jump of the time stamps."""
_STEP_S = 0.001


class LiveClock:
    """Times that follow the time stamps of a camera, grow with every frame, and never run ahead of the machine's clock.

    Frames come in bursts; their time stamps are even. But a camera's clock jumps, drifts, and begins anew with every
    connection. So the time stamps count from frame to frame only, as long as they go with the clock of the machine.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._offset: float | None = None
        self._last = -_STEP_S

    def restart(self) -> None:
        """From the next frame on the time stamps are those of another connection."""
        self._offset = None

    def time_of(self, stamp: float, captured: float) -> float:
        """Seconds since the stream began, at a frame.

        Args:
            stamp: the camera's time stamp, in seconds from anywhere.
            captured: when the frame came, on the clock of `time.monotonic`.
        """
        self._began = captured if self._began is None else self._began
        now = captured - self._began
        if self._offset is None or not now - _BEHIND_S <= stamp + self._offset <= now:
            self._offset = now - stamp
        self._last = max(self._last + _STEP_S, stamp + self._offset)
        return self._last
