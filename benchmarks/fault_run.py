"""A run of the pipeline that is watched while something breaks, and what came of it."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import fault_scene as scene
import numpy as np

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import DartBlurError
from dartblur.frame import Frame, RedactedFrame
from dartblur.protection.policy import Protection
from dartblur.stream import Sink, Source, open_sink, run
from dartblur.stream.observers import Event, Observer

LONGEST_S = 180.0
"""A run that takes longer hangs."""
GOODBYE_S = 12.0
"""How long threads may take to end: connecting to a camera takes up to ten seconds, and nothing cuts it short."""


@dataclass
class Row:
    """What a drill has shown.

    Attributes:
        frames_in: frames that the source has read, also those that gave way to newer ones.
        frames_out: frames handed to the sinks.
        fault_frames: those of them that are covered whole or repeat the picture before.
        faults: how often something was broken.
        looked_at: pictures that came out of the sinks: decoded from files, received from the page.
        clear: pictures of these in which the face is visible.
        recovery_s: from the end of each fault to the next anonymized frame that left.
        gap_s: the longest time without an anonymized frame, from the first one to the last.
        end: how the run ended.
        threads_s: until the last thread of the pipeline had ended.
        threads_left: those that hadn't after `GOODBYE_S`.
    """

    drill: str
    on_fault: str = "solid"
    lookahead: int = 0
    frames_in: int = 0
    frames_out: int = 0
    fault_frames: int = 0
    faults: int = 0
    looked_at: int = 0
    clear: int = 0
    recovery_s: list[float] = field(default_factory=list)
    never_recovered: int = 0
    gap_s: float = 0.0
    end: str = "ended"
    threads_s: float = 0.0
    threads_left: list[str] = field(default_factory=list)
    notes: str = ""

    @property
    def recovery(self) -> str:
        """Median and longest, for people."""
        if not self.recovery_s:
            return "-"
        return f"{statistics.median(self.recovery_s):.2f} / {max(self.recovery_s):.2f}"


class Left(NamedTuple):
    """A frame that left: when, when it was captured, and its fault."""

    left: float
    captured: float
    fault: str | None


class Diary(Observer):
    """Remembers when frames left, and the events."""

    def __init__(self) -> None:
        self.left: list[Left] = []
        self.events: list[Event] = []

    def on_frame(self, frame: RedactedFrame, source: str) -> None:
        """Writes it down."""
        self.left.append(Left(time.monotonic(), frame.captured, frame.fault))

    def on_event(self, event: Event) -> None:
        """Writes it down."""
        self.events.append(event)

    def recovered_after(self, moment: float) -> float | None:
        """Seconds to the first anonymized frame that was captured and left after a moment; None if there is none."""
        return next((each.left - moment for each in self.left if each.fault is None and each.captured > moment), None)

    def longest_gap(self) -> float:
        """Seconds between two anonymized frames, at most."""
        left = [each.left for each in self.left if each.fault is None]
        return round(max((later - before for before, later in pairwise(left)), default=0.0), 2)

    def wait_for(self, after: float, seconds: float) -> None:
        """Until an anonymized frame has left after a moment, but not for longer than this."""
        until = time.monotonic() + seconds
        while self.recovered_after(after) is None and time.monotonic() < until:
            time.sleep(0.01)


class Tally(Source):
    """A source whose frames are counted."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source, self.info, self.frames = source, source.info, 0

    def __iter__(self) -> Iterator[Frame]:
        self.source.observe = lambda event: self.observe(event)
        for frame in self.source:
            self.frames = max(self.frames, frame.index + 1)
            yield frame

    def stop(self) -> None:
        """Of both."""
        super().stop()
        self.source.stop()

    def close(self) -> None:
        """Closes the source."""
        self.source.close()


@dataclass
class Drill:
    """One run of a live source into a recording, a page with a viewer, and more sinks, while something breaks.

    Args:
        finder: what the detector does; by default it finds the face.
        faults: when each fault ended, on the clock of `time.monotonic`; whoever breaks things adds to it.
        trouble: breaks things from a thread of its own; when it returns the source is stopped.
        page: whether a page shows the stream too.
        also: further sinks, which are the caller's to finish and to look at.
        record: where the recording goes; None for a place of its own.
        observers: are told of frames before they are counted.
    """

    name: str
    source: Source
    protection: Protection = field(default_factory=Protection)
    finder: Callable[[np.ndarray], np.ndarray] = scene.find
    faults: list[float] = field(default_factory=list)
    trouble: Callable[[Diary], None] | None = None
    page: bool = False
    also: Sequence[Sink] = ()
    record: Path | None = None
    observers: Sequence[Observer] = ()

    def run(self) -> Row:
        """Runs it and looks at all that came out."""
        self._broken: BaseException | None = None
        row = Row(self.name, self.protection.on_fault, self.protection.lookahead)
        source, diary = Tally(self.source), Diary()
        with tempfile.TemporaryDirectory() as folder:
            record = Path(folder) / "out.mp4" if self.record is None else self.record
            viewer = self._go(row, source, diary, record)
            row.looked_at, row.clear = scene.look(record) if record.exists() else (0, 0)
            if viewer is not None:
                row.looked_at, row.clear = row.looked_at + viewer.pictures, row.clear + viewer.clear
        if self._broken is not None:
            raise RuntimeError(f"{self.name}: nothing was broken: {self._broken!r}") from self._broken
        row.frames_in, row.frames_out = source.frames, len(diary.left)
        row.fault_frames = sum(each.fault is not None for each in diary.left)
        row.faults, row.gap_s = len(self.faults), diary.longest_gap()
        recoveries = [diary.recovered_after(moment) for moment in self.faults]
        row.recovery_s = [round(seconds, 3) for seconds in recoveries if seconds is not None]
        row.never_recovered = len(recoveries) - len(row.recovery_s)
        ended = time.monotonic()
        row.threads_left = threads_left()
        row.threads_s = round(time.monotonic() - ended, 2)
        return row

    def _go(self, row: Row, source: Tally, diary: Diary, record: Path) -> PageViewer | None:
        began, viewer = time.monotonic(), PageViewer() if self.page else None
        hang = threading.Timer(LONGEST_S, source.stop)
        hang.start()
        try:
            with ExitStack() as stack:
                stack.callback(source.close)
                # The page says good-bye to its viewers first.
                stack.callback(viewer.close if viewer else source.close)
                sinks = [*self.also, stack.enter_context(open_sink(record, self.source))]
                if viewer:
                    page: Any = stack.enter_context(open_sink("http://127.0.0.1:0", self.source))
                    viewer.watch(page.url)
                    sinks.append(page)
                if self.trouble is not None:
                    threading.Thread(target=self._break, args=(source, diary), daemon=True).start()
                anonymizer = Anonymizer(backend=FakeBackend(self.finder))
                run(source, anonymizer, sinks, protection=self.protection, observers=[*self.observers, diary])
        except DartBlurError as error:
            later = time.monotonic() - (diary.left[-1].left if diary.left else began)
            row.end = f"{type(error).__name__}, {later:.2f} s after the last frame"
            row.notes = str(error)
        row.end = row.end if hang.is_alive() else "HANGS"
        hang.cancel()
        return viewer

    def _break(self, source: Source, diary: Diary) -> None:
        try:
            assert self.trouble is not None
            self.trouble(diary)
        except BaseException as error:  # the drill itself is broken: nothing that it says counts
            self._broken = error
        finally:
            source.stop()


def threads_left(seconds: float = GOODBYE_S) -> list[str]:
    """Names of the pipeline's threads that don't end within this time."""
    until = time.monotonic() + seconds
    while True:
        names = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("dartblur"))
        if not names or time.monotonic() > until:
            return names
        time.sleep(0.02)


class PageViewer:
    """A browser that watches the MJPEG stream of a page, and looks at each picture."""

    def __init__(self) -> None:
        self.pictures = self.clear = 0
        self._thread: threading.Thread | None = None

    def watch(self, url: str) -> None:
        """Begins; ends when the page does."""
        response = urllib.request.urlopen(f"{url}stream.mjpg", timeout=30)
        self._thread = threading.Thread(target=self._watch, args=(response,), daemon=True)
        self._thread.start()

    def _watch(self, response: Any) -> None:
        with response:
            for data in parts(response):
                self.pictures += 1
                self.clear += scene.is_clear(scene.unpacked(data))

    def close(self) -> None:
        """Waits for the end of the page."""
        if self._thread is not None:
            self._thread.join(5)


def parts(response: Any) -> Iterator[bytes]:
    """The bodies of a multipart answer, as they come; ends when it does."""
    length = 0
    try:
        while line := response.readline():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            elif not line.strip() and length:
                yield response.read(length)
                length = 0
    except (OSError, ValueError, AttributeError):
        return  # the server has gone
