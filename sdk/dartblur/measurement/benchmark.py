"""How long each stage of a frame takes alone, and how long frames take in the pipeline.

The stages are measured one after the other on a few frames at a time, so that none takes another's cores, and then
the pipeline, in which they overlap.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..anonymizer import Anonymizer, Pending
from ..backends.base import Backend
from ..errors import SourceError
from ..frame import Frame, RedactedFrame
from ..stream import Sink, Source, open_sink, open_source, run
from ..stream.image_files import ImageSource
from .timing import ClockedBackend, Watch, clocked_generator

WARM_UP = 3
"""Runs of the model that aren't counted."""
_CHUNK_BYTES = 256 << 20
"""Of frames that wait between two stages."""


@dataclass(slots=True)
class Times:
    """Seconds that frames took.

    Attributes:
        each: of every frame.
        total: of all together, when it isn't their sum.
    """

    each: list[float] = field(default_factory=list)
    total: float | None = None

    @property
    def seconds(self) -> float:
        """Of all frames together."""
        return sum(self.each) if self.total is None else self.total

    def figures(self) -> dict[str, float]:
        """Milliseconds of a frame (percentiles and mean), and frames a second."""
        p50, p95, p99 = np.percentile(self.each, (50, 95, 99)) * 1000
        mean = 1000 * float(np.mean(self.each))
        fps = len(self.each) / max(self.seconds, 1e-9)
        values = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "mean_ms": mean, "fps": fps}
        return {name: round(float(value), 3) for name, value in values.items()}


@dataclass(slots=True)
class Measurement:
    """What was measured.

    Attributes:
        frames, faces: how many there were.
        width, height: of the first frame, pixels.
        stages: by name, in the order of the work; ``anonymize`` is all of the backend's together.
        pipeline: all stages overlapping; from the moment a frame is asked for to when it is written, with the time it
            waits between stages.
        pipeline_cores: processor cores that the pipeline has kept busy, on average.
    """

    frames: int = 0
    faces: int = 0
    width: int = 0
    height: int = 0
    stages: dict[str, Times] = field(default_factory=dict)
    pipeline: Times = field(default_factory=Times)
    pipeline_cores: float = 0.0

    @property
    def slowest(self) -> str:
        """Of the pipeline's three stages, the one that takes longest alone."""
        return max(("decode", "anonymize", "encode"), key=lambda name: self.stages[name].seconds)

    @property
    def ratio(self) -> float:
        """Seconds of the pipeline over those of its slowest stage alone: 1 is all that overlapping can do."""
        return self.pipeline.seconds / max(self.stages[self.slowest].seconds, 1e-9)


def measure(uri: str, backend: Backend, folder: Path, frames: int) -> Measurement:
    """Times a source's first frames.

    Args:
        uri: as of `open_source`.
        backend: what runs the model.
        folder: where outputs go.
        frames: most frames.

    Raises:
        SourceError: it can't be read, or has no frame.
        SinkError: the folder isn't writable, or the disk full.
        FailClosedError, BackendError: as of an anonymizer.
    """
    anonymizer = Anonymizer(backend=backend)
    with open_source(uri) as source, _sink(source, folder / "stages") as sink:
        measured = _Stages(source, anonymizer, backend, sink, frames).measure()
        committing = time.perf_counter()
    encode = measured.stages["encode"]
    encode.total = sum(encode.each) + time.perf_counter() - committing
    before = time.process_time()
    with open_source(uri) as source:
        measured.pipeline = _pipeline(_Asked(source, measured.frames), source, anonymizer, folder / "pipeline")
    measured.pipeline_cores = (time.process_time() - before) / measured.pipeline.seconds
    return measured


def _sink(source: Source, folder: Path) -> Sink:
    """Where frames are encoded to: video for video, pictures for pictures."""
    folder.mkdir()
    if not isinstance(source, ImageSource):
        # Of a live source nothing but the frames is written, and a few frames need no sound of hours.
        source.info = replace(source.info, live=True)
        return open_sink(folder / "out.mp4", source)
    one = source.root is None
    return open_sink(folder / ("out" + source.paths[0].suffix if one else "out"), source)


class _Stages:
    """One stage after the other, a chunk of frames at a time."""

    def __init__(self, source: Source, anonymizer: Anonymizer, backend: Backend, sink: Sink, frames: int) -> None:
        self._source, self._sink = iter(source), sink
        self._anonymizer, self._backend, self._left = anonymizer, backend, frames
        self._found = Measurement()
        self._watch = Watch()
        self._clocked = Anonymizer(backend=ClockedBackend(backend, self._watch))

    def measure(self) -> Measurement:
        stages: dict[str, Times] = {}
        decode, anonymize, encode = Times(), Times(), Times()
        overlapped = 0.0
        with clocked_generator(self._backend, self._watch):
            while chunk := self._decode(decode):
                if not self._found.frames:
                    self._warm_up(chunk[0])
                # The anonymizer overwrites in place, so what is asked for twice is copied.
                deep = self._anonymizer.depth > 1
                again = [replace(frame, image=frame.image.copy()) for frame in chunk] if deep else []
                redacted = [self._anonymize(frame, stages, anonymize) for frame in chunk]
                overlapped += self._overlapped(again) if deep else 0.0
                for hidden in redacted:
                    started = time.perf_counter()
                    self._sink.write(hidden)
                    encode.each.append(time.perf_counter() - started)
                self._found.frames += len(chunk)
        if not self._found.frames:
            raise SourceError("expected a source with frames, got none that can be decoded: check the file")
        anonymize.total = overlapped or None
        self._found.stages = {"decode": decode, **stages, "anonymize": anonymize, "encode": encode}
        return self._found

    def _decode(self, times: Times) -> list[Frame]:
        chunk: list[Frame] = []
        size = 0
        while self._left > 0 and size < _CHUNK_BYTES:
            started = time.perf_counter()
            frame = next(self._source, None)
            if frame is None:
                break
            times.each.append(time.perf_counter() - started)
            chunk.append(frame)
            size += frame.image.nbytes
            self._left -= 1
        return chunk

    def _warm_up(self, frame: Frame) -> None:
        self._found.height, self._found.width = frame.image.shape[:2]
        for _ in range(WARM_UP):
            self._anonymizer(frame)

    def _anonymize(self, frame: Frame, stages: dict[str, Times], times: Times) -> RedactedFrame:
        self._watch.spent.clear()
        started = time.perf_counter()
        hidden = self._clocked(frame, in_place=True)
        times.each.append(time.perf_counter() - started)
        self._found.faces += len(hidden.detections)
        for name, seconds in self._watch.spent.items():
            stages.setdefault(name, Times()).each.append(seconds)
        return hidden

    def _overlapped(self, frames: Sequence[Frame]) -> float:
        """Seconds that frames take with as many in flight as the backend can have."""
        flight: deque[Pending] = deque()
        started = time.perf_counter()
        for frame in frames:
            flight.append(self._anonymizer.begin(frame, in_place=True))
            if len(flight) >= self._anonymizer.depth:
                flight.popleft().result()
        for pending in flight:
            pending.result()
        return time.perf_counter() - started


class _Asked(Source):
    """The first frames of a source, and when each was asked for."""

    def __init__(self, source: Source, frames: int) -> None:
        super().__init__()
        self._source, self._frames = source, frames
        self.info = source.info
        self.moments: dict[int, float] = {}

    def __iter__(self) -> Iterator[Frame]:
        frames = iter(self._source)
        for _ in range(self._frames):
            asked = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                return
            self.moments[frame.index] = asked
            yield frame

    def name_of(self, index: int) -> str:
        return self._source.name_of(index)


class _Written(Sink):
    """A sink, and when each frame was written."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink.uri)
        self._sink = sink
        self.moments: dict[int, float] = {}

    def _write(self, frame: RedactedFrame) -> None:
        self._sink.write(frame)
        self.moments[frame.index] = time.perf_counter()

    def commit(self) -> None:
        self._sink.commit()

    def discard(self) -> None:
        self._sink.discard()


def _pipeline(asked: _Asked, source: Source, anonymizer: Anonymizer, folder: Path) -> Times:
    with _Written(_sink(source, folder)) as written:
        started = time.perf_counter()
        run(asked, anonymizer, written)
    seconds = time.perf_counter() - started
    return Times([written.moments[index] - asked.moments[index] for index in written.moments], seconds)
