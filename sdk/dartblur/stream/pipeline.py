"""Source to anonymizer to sink: three stages that work at the same time.

::

    source --lane--> anonymizer --lane--> sink, audit

Lanes are short and bounded: a stage that is ahead waits, and no frame is lost. When any stage fails, all of them end
and its error is raised. Where the anonymizer's backend can have several frames in flight, the next ones are begun
before the first is finished.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import FailClosedError
from ..frame import Frame, RedactedFrame
from .base import Sink, Skipped, Source

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer, Pending
    from ..audit import AuditLog

T = TypeVar("T")

_LANE_LENGTH = 4
_PATIENCE_S = 5.0
"""How long a stage may take to notice that all has ended: one frame of a slow camera or encoder."""


@dataclass
class Summary:
    """What a run has done.

    Attributes:
        frames: frames written.
        faces: faces in all frames together.
        frames_with_faces: frames that had at least one.
        seconds: wall-clock time.
        damaged: packets that couldn't be decoded.
        skipped: pictures that couldn't be read.
    """

    frames: int = 0
    faces: int = 0
    frames_with_faces: int = 0
    seconds: float = 0.0
    damaged: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.frames / self.seconds if self.seconds else 0.0


def run(
    source: Source,
    anonymizer: Anonymizer,
    sink: Sink,
    *,
    audit: AuditLog | None = None,
    on_progress: Callable[[Summary], None] | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Anonymizes all frames of a source into a sink.

    Args:
        source: where the frames come from.
        anonymizer: overwrites the faces; it runs in the calling thread.
        sink: where they go. Its block, not this function, finishes or discards it.
        audit: is told of every frame that was written.
        on_progress: called in the calling thread with the numbers so far, after every frame.
        stop: set it to end reading early; what was read is still written. For cameras.

    Raises:
        FailClosedError: the anonymizer failed; nothing of this frame has left.
        SourceError, SinkError: a file can't be read on or written on.
    """
    began = time.monotonic()
    summary = Summary(skipped=source.skipped)
    clear: _Lane[Frame] = _Lane()
    redacted: _Lane[RedactedFrame] = _Lane()
    crew = _Crew(clear, redacted)

    def read() -> None:
        for frame in source:
            if stop is not None and stop.is_set():
                break
            clear.put(frame)
        clear.end()

    def write() -> None:
        for frame in redacted:
            sink.write(frame)
            if audit is not None:
                audit.record(frame, source.name_of(frame.index))

    def failed(frame: Frame, error: Exception) -> FailClosedError:
        return FailClosedError(
            f"{source.name_of(frame.index)}: frame {frame.index}: anonymization failed "
            f"({type(error).__name__}: {error}): stopped, {sink.remains}"
        )

    crew.start(read, "read")
    crew.start(write, "write")
    with crew, _Flight(anonymizer, failed) as flight:
        for frame in clear:
            flight.begin(frame)
            # When no frame waits, the oldest is finished at once: a camera's picture isn't held back for its successor.
            while flight and (flight.full or not clear):
                hidden = flight.finish()
                redacted.put(hidden)
                summary.frames += 1
                summary.faces += len(hidden.detections)
                summary.frames_with_faces += len(hidden.detections) > 0
                summary.seconds = time.monotonic() - began
                if on_progress is not None:
                    on_progress(summary)
        redacted.end()
        crew.wait()
        if audit is not None:
            audit.flush()
    summary.damaged = source.damaged
    summary.seconds = time.monotonic() - began
    return summary


class _Flight:
    """Frames that the anonymizer has begun with and not finished, in order; the block's end gives up what is left.

    Args:
        anonymizer: of the frames.
        failed: makes of a frame and its error what is raised.
    """

    def __init__(self, anonymizer: Anonymizer, failed: Callable[[Frame, Exception], FailClosedError]) -> None:
        self._anonymizer, self._failed = anonymizer, failed
        self._frames: deque[tuple[Frame, Pending]] = deque()

    def begin(self, frame: Frame) -> None:
        """Starts on a frame; not when `full`."""
        try:
            # The redacted pixels are the clear frame's own, overwritten: no clear copy stays behind.
            self._frames.append((frame, self._anonymizer.begin(frame, in_place=True)))
        except Exception as error:
            raise self._failed(frame, error) from error

    def finish(self) -> RedactedFrame:
        """The oldest frame; waits for it."""
        frame, pending = self._frames.popleft()
        try:
            return pending.result()
        except Exception as error:
            raise self._failed(frame, error) from error

    @property
    def full(self) -> bool:
        """Whether the oldest is to be finished first."""
        return len(self._frames) >= self._anonymizer.depth

    def __len__(self) -> int:
        return len(self._frames)

    def __enter__(self) -> _Flight:
        return self

    def __exit__(self, *_: object) -> None:
        for _frame, pending in self._frames:
            pending.discard()


class _StoppedError(Exception):
    """Another stage has failed: this one has nothing left to do."""


class _Lane(Generic[T]):
    """Hands things from one thread to another, in order, a few at a time."""

    def __init__(self) -> None:
        self._things: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._stopped = False

    def put(self, thing: T) -> None:
        """Hands over one thing; waits while the lane is full."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._things) < _LANE_LENGTH or self._stopped)
            if self._stopped:
                raise _StoppedError
            self._things.append(thing)
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Drops what is there and wakes everybody who waits."""
        with self._changed:
            self._stopped = True
            self._things.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        """Things that wait."""
        return len(self._things)

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._things or self._ended or self._stopped)
                if self._stopped:
                    raise _StoppedError
                if not self._things:
                    return
                thing = self._things.popleft()
                self._changed.notify_all()
            yield thing


class _Crew:
    """Threads that end together: the first error of any of them stops all and is raised at the end of the block."""

    def __init__(self, *lanes: _Lane[Any]) -> None:
        self._lanes = lanes
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None], name: str) -> None:
        """Runs the work in a thread."""

        def guarded() -> None:
            try:
                work()
            except _StoppedError:
                pass
            except BaseException as error:
                self._error = self._error or error
                self._stop()

        thread = threading.Thread(target=guarded, name=f"dartblur-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Until all have done their work."""
        for thread in self._threads:
            thread.join()

    def _stop(self) -> None:
        for lane in self._lanes:
            lane.stop()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if kind is not None:
            self._stop()
            for thread in self._threads:
                thread.join(_PATIENCE_S)
        # The first error is the cause; what the others report follows from it.
        if self._error is not None and (kind is None or kind is _StoppedError):
            raise self._error from None
