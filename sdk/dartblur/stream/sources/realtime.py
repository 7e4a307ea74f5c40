"""Files at the speed of a camera, to try out with a file what will run on a camera."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path
from time import monotonic

from ...errors import SourceError
from ...frame import Frame
from ..base import Source
from ..image_files import ImageSource

PICTURE_S = 1.0
"""How long a picture is shown, which has no time of its own."""
_LATE_S = 1.0
"""A reader that is later than this isn't chased with all frames at once: the clock waits for it."""


class Paced(Source):
    """A source of files as a live one: each frame comes when its time has come.

    In a loop `time` goes on growing from one round to the next, and `index` goes on counting. `pts` is None.

    Args:
        source: a video file or pictures.
        again: opens them anew at their end, for a loop; None: it ends there.
        picture_s: seconds that a picture is shown.

    Raises:
        SourceError: `picture_s` isn't above 0.
    """

    def __init__(
        self, source: Source, *, again: Callable[[], Source] | None = None, picture_s: float = PICTURE_S
    ) -> None:
        super().__init__()
        if not (picture_s > 0 and isfinite(picture_s)):
            raise SourceError(f"{source.info.uri}: expected seconds above 0 for a picture, got {picture_s}")
        self._source, self._again, self._picture_s = source, again, picture_s
        self.info = replace(source.info, live=True, frames=None if again else source.info.frames)
        self.notices, self.skipped = source.notices, source.skipped
        # The round before is kept, since frames of it are still on their way. Replaced whole: other threads read it.
        self._rounds: tuple[tuple[int, Source], ...] = ()
        self._began = 0.0
        self._damaged_before = 0

    def __iter__(self) -> Iterator[Frame]:
        """The frames, each not before its time; `captured` is when it came.

        Raises:
            SourceError: the file can't be read on, or holds no frame at the next round.
        """
        self._began = monotonic()
        index, start = 0, 0.0
        while True:
            self._rounds = (*self._rounds[-1:], (index, self._source))
            frame, step, last = None, self._picture_s, start
            for frame in self._source:
                time = start + self._time_of(frame)
                step, last = (time - last if time > last else step), time
                if not self._wait(time):
                    return
                yield replace(frame, index=index + frame.index, time=time, pts=None, captured=monotonic())
            self.damaged = self._damaged_before + self._source.damaged
            if frame is None or self._again is None or self.stopping.is_set():
                return
            index, start = index + frame.index + 1, last + step
            self._reopen(self._again)

    @property
    def files(self) -> list[Path]:
        """Those that are read."""
        return self._source.files

    def name_of(self, index: int) -> str:
        """The file of this frame."""
        for first, source in reversed(self._rounds):
            if index >= first:
                return source.name_of(index - first)
        return self.info.uri

    def close(self) -> None:
        """Closes the files."""
        self.stop()
        self._source.close()

    def _time_of(self, frame: Frame) -> float:
        if isinstance(self._source, ImageSource):
            return frame.index * self._picture_s
        return max(0.0, frame.time)

    def _wait(self, time: float) -> bool:
        """Until a time of the source has come; whether to go on."""
        ahead = self._began + time - monotonic()
        if ahead < -_LATE_S:
            self._began -= ahead
        return not self.stopping.wait(max(0.0, ahead))

    def _reopen(self, again: Callable[[], Source]) -> None:
        self._damaged_before = self.damaged
        self._source.close()
        self._source = again()
