"""What a source and a sink are.

A source gives clear `Frame` objects, upright; a sink takes `RedactedFrame` objects and nothing else. Both are context
managers. A sink's file appears under its final name when its block ends without an error, and never otherwise.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ..errors import SinkError
from ..frame import Frame, RedactedFrame
from .observers import Event

_Source = TypeVar("_Source", bound="Source")
_Sink = TypeVar("_Sink", bound="Sink")

_PATIENCE_S = 1.0
"""How long the end of a sink's block waits for a thread that is writing."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source before it is read.

    Attributes:
        uri: what the source was opened by.
        width, height: pixels of the upright picture; 0 where pictures differ in size.
        frames: how many frames it says it has, an estimate; None if it doesn't say.
        rotation: degrees clockwise from the stored picture to the upright one: 0, 90, 180 or 270.
        live: true for a camera, which ends when it is told to.
        moving: whether frames follow one another in time; false for a folder of pictures.
    """

    uri: str
    width: int
    height: int
    frames: int | None
    rotation: int = 0
    live: bool = False
    moving: bool = True


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture that couldn't be read, and why. It is never copied through."""

    name: str
    reason: str


def _ignore(event: Event) -> None:
    """Nobody listens."""


def _go_on() -> None:
    """Nobody ends the stream."""


class Source(ABC):
    """Where clear frames come from. Iterate it once.

    Attributes:
        info: what is known before reading.
        notices: what was left out on purpose (other video streams, cover pictures, ...), one line each.
        skipped: whole pictures of a folder that couldn't be read.
        damaged: packets of a video that couldn't be decoded; their frames are missing in the output.
        losses: what pictures have lost beside their faces, and how many of them.
        observe: is told of events; whoever runs the source sets it.
        stopping: set by `stop`: iteration ends soon.
    """

    info: SourceInfo

    def __init__(self) -> None:
        self.observe: Callable[[Event], None] = _ignore
        self.stopping = threading.Event()
        self.notices: list[str] = []
        self.skipped: list[Skipped] = []
        self.damaged = 0
        self.losses: Counter[str] = Counter()

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """The frames, upright, in order; each has memory of its own, which is overwritten."""

    @property
    def files(self) -> list[Path]:
        """The files that it reads, which nothing may be written over."""
        return []

    def name_of(self, index: int) -> str:
        """The file that this frame came from."""
        return self.info.uri

    def stop(self) -> None:
        """Makes iteration end soon, without an error; from any thread."""
        self.stopping.set()

    def close(self) -> None:  # noqa: B027 (most sources hold nothing open)
        """Lets go of files and devices."""

    def __enter__(self: _Source) -> _Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Sink(ABC):
    """Where redacted frames go.

    Attributes:
        uri: what the sink was opened by.
        notices: what the output does not carry, one line each.
        remains: what there is of it after a run that failed, for messages.
        whole: whether its output is finished only with all frames of a file: stopping the file early is then an error.
        observe: is told of events; whoever runs the sink sets it.
        on_end: to be called when whoever looks at the sink wants the stream to end; whoever runs the sink sets it.
    """

    remains = "nothing was written"
    whole = False

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.observe: Callable[[Event], None] = _ignore
        self.on_end: Callable[[], None] = _go_on
        self.notices: list[str] = []
        self._writing = threading.Lock()

    def write(self, frame: RedactedFrame) -> None:
        """Takes one frame.

        Raises:
            TypeError: this is not a `RedactedFrame`. Clear frames never pass.
            SinkError: it can't be written.
        """
        if not isinstance(frame, RedactedFrame):
            raise TypeError(f"a sink takes RedactedFrame only, got {type(frame).__name__}: anonymize it first")
        with self._writing:
            self._write(frame)

    @abstractmethod
    def _write(self, frame: RedactedFrame) -> None:
        """Writes a frame that has passed the gate."""

    @abstractmethod
    def commit(self) -> None:
        """Finishes the output and gives it its final name."""

    @abstractmethod
    def discard(self) -> None:
        """Removes what isn't finished."""

    def _abandon(self) -> None:  # noqa: B027 (most sinks leave nothing behind)
        """Removes what isn't finished while a thread that hangs still writes: nothing that it uses may be closed."""

    def __enter__(self: _Sink) -> _Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # A writer that hangs was left behind: to close an encoder under its feet would crash the process.
        if not self._writing.acquire(timeout=_PATIENCE_S):
            self._abandon()
            if kind is None:
                raise SinkError(f"{self.uri}: still writes after its stream has ended: look at the disk or server")
            return
        try:
            self._commit_or_discard(failed=kind is not None)
        finally:
            self._writing.release()

    def _commit_or_discard(self, failed: bool) -> None:
        if failed:
            self.discard()
            return
        try:
            self.commit()
        except BaseException:
            self.discard()
            raise
