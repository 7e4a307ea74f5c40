"""Source to guard to sinks: stages that work at the same time.

::

    source --lane--> guard --gate--lane--> sink
                                  `--lane--> sink ...

Lanes are short and bounded. Of a file nothing is lost: a stage that is ahead waits. A live source goes on: of its clear
frames the newest is anonymized and older ones are dropped, and each sink has a lane of its own, from which the oldest
redacted frame is dropped, so that no sink holds up another. When any stage fails, all end within a second and its error
is raised. A sink that hangs when a live source has ended is left behind, once the others have all of their frames.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..anonymizer import Anonymizer
from ..errors import FailClosedError, SinkError
from ..frame import Frame, RedactedFrame
from ..protection.guard import Guard, Outcome
from ..protection.policy import Protection
from .base import Sink, Skipped, Source, SourceInfo
from .gate import Gate
from .lanes import Crew, Lane, StoppedError
from .observers import Event, Observer, Observers

_LANE_LENGTH = 4
_LIVE_SINK_LANE_LENGTH = 8
"""Redacted frames that may wait for a sink of a live stream: a keyframe's or a disk's hiccup."""

_SINK_PATIENCE_S = 10.0
"""How long a sink may take for a frame of a live source that has ended."""

_STUCK_POLL_S = 0.02
"""While the anonymizer hangs, frames of a live source are covered whole this often: 50 a second at most."""


class Stage(Protocol):
    """What makes redacted frames of clear ones: a `Guard`, or what renders an audit log again."""

    @property
    def full(self) -> bool: ...  # noqa: D102

    def __len__(self) -> int: ...

    def begin(self, frame: Frame) -> None: ...  # noqa: D102

    def finish(self) -> Iterator[Outcome]: ...  # noqa: D102

    def drain(self) -> Iterator[Outcome]: ...  # noqa: D102

    def abandon(self) -> None: ...  # noqa: D102


@dataclass
class Summary:
    """What a run has done.

    Attributes:
        frames: frames handed to the sinks.
        faces: faces in all frames together.
        frames_with_faces: frames that had at least one.
        seconds: wall-clock time.
        damaged: packets that couldn't be decoded.
        dropped: clear frames of a live source that gave way to newer ones.
        faults: frames that couldn't be anonymized, by reason; none of their pixels has left.
        skipped: pictures that couldn't be read.
        losses: what pictures have lost beside their faces, and how many of them.
    """

    frames: int = 0
    faces: int = 0
    frames_with_faces: int = 0
    seconds: float = 0.0
    damaged: int = 0
    dropped: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.frames / self.seconds if self.seconds else 0.0

    def add(self, frame: RedactedFrame) -> None:
        """Counts a frame."""
        self.frames += 1
        self.faces += frame.detections.faces
        self.frames_with_faces += len(frame.detections) > 0
        if frame.fault is not None:
            self.faults[frame.fault] = self.faults.get(frame.fault, 0) + 1


def protection_for(info: SourceInfo) -> Protection:
    """What a source of this kind gets unless told otherwise."""
    if info.live:
        return Protection.of_camera()
    return Protection.of_file() if info.moving else Protection.of_pictures()


def run(
    source: Source,
    anonymizer: Anonymizer | Stage,
    sinks: Sink | Sequence[Sink],
    *,
    protection: Protection | None = None,
    observers: Iterable[Observer] = (),
    on_progress: Callable[[Summary], None] | None = None,
    stop: threading.Event | None = None,
    abort: threading.Event | None = None,
) -> Summary:
    """Anonymizes all frames of a source into sinks.

    Args:
        source: where the frames come from.
        anonymizer: overwrites the faces; of a plain `Anonymizer` a `Guard` is made.
        sinks: where they go. Their blocks, not this function, finish or discard them.
        protection: how faces are kept covered; None: as `protection_for` says.
        observers: are told of every frame before a sink gets it, and of events.
        on_progress: called with the numbers so far, after every frame.
        stop: set it to end reading early, as whoever looks at a sink may do too; what was read is still written. A file
            that is to become another one as a whole can't be ended so.
        abort: set it to end at once; raises `StoppedError`.

    Raises:
        FailClosedError: a frame can't be anonymized, and `Protection.on_fault` is ``stop``; nothing of it has left.
        SourceError, SinkError: a file can't be read on or written on; a sink hangs when a live source has ended; or a
            file was stopped before its end, and a sink needs all of it (`Sink.whole`).
    """
    protection = protection_for(source.info) if protection is None else protection
    apart = protection.apart and not source.info.moving
    stage = Guard(anonymizer, protection, apart=apart) if isinstance(anonymizer, Anonymizer) else anonymizer
    sinks = [sinks] if isinstance(sinks, Sink) else list(sinks)
    return _Run(source, stage, sinks, protection, Observers(observers), on_progress).go(stop, abort)


class _Run:
    """One run: its stages as methods, each in a thread of its own."""

    def __init__(
        self,
        source: Source,
        stage: Stage,
        sinks: list[Sink],
        protection: Protection,
        observers: Observers,
        on_progress: Callable[[Summary], None] | None,
    ) -> None:
        self._source, self._stage, self._sinks = source, stage, sinks
        self._observers, self._on_progress = observers, on_progress
        self._summary = Summary(skipped=source.skipped, losses=source.losses)
        self._live, self._protection = source.info.live, protection
        self._clear: Lane[Frame] = Lane(1, self._dropped) if self._live else Lane(_LANE_LENGTH)
        self._deliveries = [_Delivery(sink, self._lane_to(sink)) for sink in sinks]
        self._read_all = self._cut = False
        remains = "; ".join(sink.remains for sink in sinks) or "nothing has left"
        self._gate = Gate(protection, self._leave, self._leave_out, observers.on_event, source.name_of, remains)
        self._began = time.monotonic()
        source.observe = observers.on_event
        for sink in sinks:
            sink.observe = observers.on_event

    def go(self, stop: threading.Event | None, abort: threading.Event | None) -> Summary:
        source, clear = self._source, self._clear

        def look_around() -> None:
            if stop is not None and stop.is_set():
                source.stop()
            if abort is not None and abort.is_set():
                crew.fail(StoppedError())
            ending = not self._live or source.stopping.is_set() or (self._read_all and not len(clear))
            if ending and self._gate.hangs and not crew.stopped:
                crew.fail(FailClosedError(f"{source.info.uri}: the anonymizer hangs: stopped"))
            if self._live and not worker.is_alive() and not crew.stopped:
                self._leave_behind(crew)

        try:
            with Crew([clear, *(delivery.lane for delivery in self._deliveries)], source.stop) as crew:
                for sink in self._sinks:
                    sink.on_end = source.stop
                crew.start(lambda: self._read(stop), "read")
                worker = crew.start(self._anonymize, "anonymize")
                for delivery in self._deliveries:
                    crew.start(delivery.work, "deliver")
                if self._protection.timeout is not None:
                    crew.start(lambda: self._watch(crew, worker), "watch")
                crew.wait(look_around)
        finally:
            self._gate.end()
        self._check_end()
        self._summary.damaged = source.damaged
        self._summary.seconds = time.monotonic() - self._began
        return self._summary

    def _leave_behind(self, crew: Crew) -> None:
        """Ends all by an error when every sink has its frames, but for some that hang."""
        hanging = [delivery for delivery in self._deliveries if delivery.hangs]
        if hanging and not any(delivery.busy for delivery in self._deliveries if delivery not in hanging):
            names = ", ".join(delivery.sink.uri for delivery in hanging)
            crew.fail(SinkError(f"{names}: no frame taken for {_SINK_PATIENCE_S:g} s: look at the disk or server"))

    def _check_end(self) -> None:
        """Nothing may look finished that isn't."""
        wholes = [] if self._live or not self._cut else [sink for sink in self._sinks if sink.whole]
        if wholes:
            what = f"{self._source.info.uri} was stopped before its end, after {self._summary.frames} frames"
            raise SinkError("; ".join(f"{sink.uri}: {what}: {sink.remains}" for sink in wholes))

    def _read(self, stop: threading.Event | None) -> None:
        """Stage 1."""
        size: tuple[int, ...] | None = None
        for frame in self._source:
            if stop is not None and stop.is_set():
                self._source.stop()
            if self._source.stopping.is_set():
                break
            if self._live and size is not None and size != frame.image.shape[:2]:
                height, width = frame.image.shape[:2]
                self._observers.on_event(Event("resized", f"{self._source.info.uri}: frames are now {width}x{height}"))
            size = frame.image.shape[:2]
            self._clear.put(frame)
        self._cut = self._source.stopping.is_set()
        self._clear.end()
        self._read_all = True

    def _anonymize(self) -> None:
        """Stage 2."""
        stage, gate, epoch = self._stage, self._gate, self._gate.epoch

        def settle(outcomes: Callable[[], Iterator[Outcome]]) -> None:
            coming = outcomes()
            while True:
                with gate.working():  # each frame by itself: it has its own time
                    outcome = next(coming, None)
                if outcome is not None:
                    gate.settle(outcome)
                give_up()
                if outcome is None:
                    return

        def give_up() -> None:
            nonlocal epoch
            if gate.epoch != epoch:
                epoch = gate.epoch
                with gate.working():
                    stage.abandon()

        try:
            for frame in self._clear:
                gate.expect(frame)
                with gate.working():
                    stage.begin(frame)
                give_up()
                # When no frame waits, the oldest is finished at once: a camera's picture isn't held back.
                while len(stage) and (stage.full or not len(self._clear)):
                    settle(stage.finish)
            settle(stage.drain)
            gate.settle_all()
        finally:
            with gate.working():
                stage.abandon()
        for delivery in self._deliveries:
            delivery.lane.end()

    def _watch(self, crew: Crew, worker: threading.Thread) -> None:
        """Lets something else out while the anonymizer hangs."""
        pause = min(0.1, (self._protection.timeout or 1) / 4)
        while worker.is_alive() and not crew.stopped:
            time.sleep(_STUCK_POLL_S if self._gate.stuck else pause)
            if self._gate.stuck:
                self._gate.take_away(self._clear.take_all if self._live else list)

    def _leave(self, frame: RedactedFrame) -> None:
        """A frame that has passed the gate; by one thread at a time."""
        self._summary.add(frame)
        self._summary.seconds = time.monotonic() - self._began
        self._observers.on_frame(frame, self._source.name_of(frame.index))
        for delivery in self._deliveries:
            delivery.lane.put(frame)
        if self._on_progress is not None:
            self._on_progress(self._summary)

    def _leave_out(self, reason: str) -> None:
        self._summary.faults[reason] = self._summary.faults.get(reason, 0) + 1

    def _dropped(self, frame: Frame) -> None:
        self._summary.dropped += 1
        self._observers.on_event(Event("dropped", f"frame {frame.index} gave way to a newer one"))

    def _lane_to(self, sink: Sink) -> Lane[RedactedFrame]:
        if not self._live:
            return Lane(_LANE_LENGTH)

        def dropped(frame: RedactedFrame) -> None:
            self._observers.on_event(Event("sink-dropped", f"{sink.uri}: too slow for frame {frame.index}", sink.uri))

        return Lane(_LIVE_SINK_LANE_LENGTH, dropped)


class _Delivery:
    """Stage 3, one for each sink: takes frames from its lane to it."""

    def __init__(self, sink: Sink, lane: Lane[RedactedFrame]) -> None:
        self.sink, self.lane = sink, lane
        self._since: float | None = None

    def work(self) -> None:
        """Until the lane ends."""
        for frame in self.lane:
            self._since = time.monotonic()
            self.sink.write(frame)
            self._since = None

    @property
    def busy(self) -> bool:
        """Whether there are frames that the sink hasn't written."""
        return self._since is not None or len(self.lane) > 0

    @property
    def hangs(self) -> bool:
        """Whether it has been at a frame for so long that it won't come back."""
        since = self._since
        return since is not None and time.monotonic() - since > _SINK_PATIENCE_S
