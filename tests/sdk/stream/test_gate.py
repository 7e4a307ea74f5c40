"""What leaves in place of a frame that can't be anonymized, and how a live stream goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import FailClosedError, SinkError
from dartblur.frame import FAULT_COLOUR, Frame, RedactedFrame, cover_whole
from dartblur.protection.policy import Protection
from dartblur.stream import Sink, Source, SourceInfo, run
from dartblur.stream.gate import Gate
from dartblur.stream.observers import Event, Observer

CLEAR = 255
"""Grey level of what must never leave: the pictures are all of it, and the detector finds the whole picture."""


class Camera(Source):
    """White pictures in real time."""

    def __init__(self, count: int = 30, interval: float = 0.01, live: bool = True) -> None:
        super().__init__()
        self.info = SourceInfo("camera", 32, 24, None, live=live)
        self._count, self._interval = count, interval

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            if self.stopping.wait(self._interval):
                return
            yield Frame(np.full((24, 32, 3), CLEAR, np.uint8), index, index * self._interval)


class Shelf(Sink):
    """Keeps what it gets."""

    def __init__(self, wait: float = 0.0) -> None:
        super().__init__("shelf")
        self.frames: list[RedactedFrame] = []
        self._wait = wait

    def _write(self, frame: RedactedFrame) -> None:
        time.sleep(self._wait)
        self.frames.append(frame)

    def commit(self) -> None:
        """Nothing is left to do."""

    def discard(self) -> None:
        """Nothing is left behind."""


class Diary(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.frames: list[RedactedFrame] = []

    def on_frame(self, frame: RedactedFrame, source: str) -> None:
        self.frames.append(frame)

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def anonymizer(before: Callable[[int], None] = lambda number: None) -> Anonymizer:
    """Covers the whole picture, after a function of the picture's number."""
    numbers = iter(range(100_000))

    def finder(image: np.ndarray) -> np.ndarray:
        before(next(numbers))
        return np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)

    return Anonymizer(backend=FakeBackend(finder))


def fails(*at: int) -> Callable[[int], None]:
    def before(number: int) -> None:
        if number in at:
            raise RuntimeError("detector broke")

    return before


def sleeps(seconds: float, *at: int) -> Callable[[int], None]:
    return lambda number: time.sleep(seconds if number in at else 0)


@pytest.fixture
def hang(left_threads: Callable[[], list[threading.Thread]]) -> Iterator[Callable[[int], None]]:
    """Hangs at the sixth picture until the test is over."""
    over = threading.Event()
    yield lambda number: over.wait(60) and None if number == 5 else None
    over.set()
    deadline = time.monotonic() + 5
    while left_threads():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def clear_pixels(frames: list[RedactedFrame]) -> int:
    return sum(int((frame.image == CLEAR).all(2).sum()) for frame in frames)


def go(source: Source, model: Anonymizer, **options: Any) -> tuple[Shelf, Diary]:
    diary = Diary()
    with Shelf() as shelf:
        run(source, model, shelf, observers=[diary], protection=Protection(**options))
    assert clear_pixels(shelf.frames) == 0
    return shelf, diary


def test_a_fault_is_one_colour_and_the_stream_goes_on():
    shelf, diary = go(Camera(live=False, interval=0), anonymizer(fails(3, 4)), on_fault="solid", timeout=None)
    assert [frame.index for frame in shelf.frames] == list(range(30))
    assert [frame.index for frame in shelf.frames if frame.fault] == [3, 4]
    assert (shelf.frames[3].image == FAULT_COLOUR).all()
    assert shelf.frames[3].fault == "detector-error"
    assert diary.kinds() == ["fault", "recovered"]  # once, not for every frame
    assert "frame 3: anonymization failed (RuntimeError: detector broke)" in diary.events[0].message
    assert diary.events[0].of == "detector-error"


def test_hold_shows_the_picture_before_and_then_one_colour():
    source = Camera(live=False, interval=0.01)
    shelf, _ = go(source, anonymizer(fails(*range(5, 12))), on_fault="hold", hold=0.035, timeout=None)
    assert all(frame.image is shelf.frames[4].image for frame in shelf.frames[5:8])
    assert all((frame.image == FAULT_COLOUR).all() for frame in shelf.frames[8:12])
    assert [frame.index for frame in shelf.frames] == list(range(30))


def test_hold_has_nothing_to_show_at_the_start():
    shelf, _ = go(Camera(live=False, interval=0), anonymizer(fails(0)), on_fault="hold", timeout=None)
    assert (shelf.frames[0].image == FAULT_COLOUR).all()


def test_drop_leaves_the_frame_out():
    shelf, _ = go(Camera(live=False, interval=0), anonymizer(fails(3)), on_fault="drop", timeout=None)
    assert [frame.index for frame in shelf.frames] == [index for index in range(30) if index != 3]


@pytest.mark.parametrize(("live", "frame"), [(False, "3"), (True, r"\d+")])
def test_stop_ends_the_stream(live, frame):
    with pytest.raises(
        FailClosedError, match=rf"camera: frame {frame}: anonymization failed .*: stopped, nothing was written"
    ):
        go(Camera(live=live), anonymizer(fails(3)), on_fault="stop")


def test_while_the_detector_hangs_frames_are_covered_whole_in_real_time():
    shelf, diary = go(Camera(60, 0.03), anonymizer(sleeps(1.2, 5)), timeout=0.15)
    faults = [frame for frame in shelf.frames if frame.fault]
    # One frame was at work, and the others came meanwhile: they aren't held back until the detector is there again.
    assert len(faults) >= 10
    assert {frame.fault for frame in faults} == {"time-out"}
    assert [frame.index for frame in shelf.frames] == sorted({frame.index for frame in shelf.frames})
    assert diary.kinds().count("fault") == 1
    assert "recovered" in diary.kinds()
    assert not shelf.frames[-1].fault


def test_a_model_that_is_not_warm_is_a_fault_of_the_start():
    shelf, _ = go(Camera(40, 0.03), anonymizer(sleeps(0.6, 0)), timeout=0.15)
    assert shelf.frames[0].fault == "start-up"
    assert not shelf.frames[-1].fault


def test_a_hanging_detector_stops_the_stream_where_that_is_wanted(hang):
    began = time.monotonic()
    with pytest.raises(FailClosedError, match=r"no result within 0.05 s"):
        go(Camera(1000), anonymizer(hang), timeout=0.05, on_fault="stop")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("on_fault", ["hold", "drop"])
def test_a_hanging_detector_and_the_other_ways(on_fault):
    shelf, _ = go(Camera(60), anonymizer(sleeps(0.3, 5)), timeout=0.05, on_fault=on_fault)
    assert not shelf.frames[-1].fault


def test_a_detector_that_never_returns_does_not_hold_up_the_end(hang):
    began = time.monotonic()
    with pytest.raises(FailClosedError, match="hangs"):
        go(Camera(20), anonymizer(hang), timeout=0.05)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("lookahead", [0, 3])
def test_random_hangs_and_errors_never_let_a_clear_pixel_out(lookahead):
    random = np.random.default_rng(0)

    def before(number: int) -> None:
        draw = random.random()
        if draw < 0.2:
            raise RuntimeError("detector broke")
        if draw < 0.3:
            time.sleep(0.06)

    shelf, _ = go(Camera(150, 0.005), anonymizer(before), timeout=0.03, lookahead=lookahead)
    indices = [frame.index for frame in shelf.frames]
    assert indices == sorted(set(indices))
    assert any(frame.fault == "detector-error" for frame in shelf.frames)
    assert any(frame.fault == "time-out" for frame in shelf.frames)
    assert any(frame.fault is None for frame in shelf.frames)


def test_a_live_source_drops_the_oldest_and_stays_up_to_date():
    shelf, diary = go(Camera(100, 0.002), anonymizer(lambda number: time.sleep(0.01)))
    dropped = diary.kinds().count("dropped")
    assert dropped + len(diary.frames) == 100
    assert diary.kinds().count("sink-dropped") + len(shelf.frames) == len(diary.frames)
    assert dropped > 20
    assert shelf.frames[-1].index == 99


def test_a_slow_sink_holds_up_no_other():
    """The slow one is at its first frame until the quick one has the last."""
    last = threading.Event()

    class Quick(Shelf):
        def _write(self, frame: RedactedFrame) -> None:
            super()._write(frame)
            if frame.index == 79:
                last.set()

    class Slow(Shelf):
        def _write(self, frame: RedactedFrame) -> None:
            assert last.wait(20), "the quick sink is held up"
            super()._write(frame)

    quick, slow, diary = Quick(), Slow(), Diary()
    with quick, slow:
        run(Camera(80, 0.02), anonymizer(), [quick, slow], observers=[diary])
    sink_dropped = [event.of for event in diary.events if event.kind == "sink-dropped"]
    assert [frame.index for frame in quick.frames] == [frame.index for frame in diary.frames]
    assert len(quick.frames) + diary.kinds().count("dropped") == 80
    assert len(slow.frames) < 40
    assert len(slow.frames) + len(sink_dropped) == len(quick.frames)
    assert sink_dropped


def test_of_a_file_a_slow_sink_loses_nothing():
    quick, slow = Shelf(), Shelf(wait=0.005)
    with quick, slow:
        run(Camera(40, 0, live=False), anonymizer(), [quick, slow])
    assert [frame.index for frame in slow.frames] == [frame.index for frame in quick.frames] == list(range(40))


def test_a_sink_that_fails_ends_the_others_within_a_second(left_threads):
    class Full(Shelf):
        def _write(self, frame: RedactedFrame) -> None:
            raise SinkError("full: no space left")

    began = time.monotonic()
    with pytest.raises(SinkError, match="no space left"), Shelf() as shelf:
        run(Camera(100_000, 0.01), anonymizer(), [shelf, Full()])
    assert time.monotonic() - began < 2
    assert not left_threads()


def test_an_observer_that_fails_lets_nothing_more_out():
    class Broken(Observer):
        def on_frame(self, frame: RedactedFrame, source: str) -> None:
            if frame.index >= 3:
                raise SinkError("audit: disk full")

    with pytest.raises(SinkError, match="disk full"), Shelf() as shelf:
        run(Camera(), anonymizer(), shelf, observers=[Broken()])
    assert all(frame.index < 3 for frame in shelf.frames)


def test_a_sink_can_end_the_stream():
    class Window(Shelf):
        def _write(self, frame: RedactedFrame) -> None:
            super()._write(frame)
            if len(self.frames) == 5:
                self.on_end()

    with Window() as window:
        summary = run(Camera(100_000, 0.03), anonymizer(), window)
    assert 5 <= summary.frames < 20


def test_another_size_is_told():
    class Turning(Camera):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield (
                    frame if frame.index < 10 else Frame(np.full((32, 24, 3), CLEAR, np.uint8), frame.index, frame.time)
                )

    shelf, diary = go(Turning(), anonymizer())
    assert [event.message for event in diary.events if event.kind == "resized"] == ["camera: frames are now 24x32"]
    assert shelf.frames[-1].image.shape == (32, 24, 3)


@pytest.mark.parametrize("live", [False, True])
def test_each_frame_of_the_end_has_its_own_time(live):
    """With a lookahead many frames are redacted when the source has ended."""

    class Slow(FakeBackend):
        def redact(self, image: np.ndarray, boxes: np.ndarray, method: str) -> None:
            time.sleep(0.09)
            super().redact(image, boxes, method)

    model = Anonymizer(backend=Slow(lambda image: np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)))
    shelf, _ = go(Camera(12, 0.06, live=live), model, timeout=0.6, lookahead=10)
    assert [frame.fault for frame in shelf.frames] == [None] * len(shelf.frames)
    assert len(shelf.frames) >= 10


def test_a_file_whose_anonymizer_hangs_ends(hang):
    began = time.monotonic()
    with pytest.raises(FailClosedError, match="hangs"):
        go(Camera(1000, 0, live=False), anonymizer(hang), timeout=0.05, on_fault="solid")
    assert time.monotonic() - began < 5


def test_a_slow_last_frame_is_covered_and_no_error():
    class Turning(Camera):
        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            yield Frame(np.full((32, 24, 3), CLEAR, np.uint8), 6, 0.06)

    def finder(image: np.ndarray) -> np.ndarray:
        last = image.shape[0] == 32
        time.sleep(0.8 if last else 0)
        return np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)

    shelf, _ = go(Turning(6), Anonymizer(backend=FakeBackend(finder)), timeout=0.1)
    assert shelf.frames[-1].index == 6
    assert shelf.frames[-1].fault == "time-out"


def test_hold_does_not_repeat_for_ever_where_time_stands_still():
    class Still(Camera):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield Frame(frame.image, frame.index, 0.0)

    shelf, _ = go(Still(40, 0.01), anonymizer(fails(*range(5, 40))), on_fault="hold", hold=0.05)
    assert (shelf.frames[-1].image == FAULT_COLOUR).all()


def test_hold_of_pictures_shows_no_other_picture():
    class Pictures(Camera):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield Frame(frame.image, frame.index)

    shelf, _ = go(Pictures(4, 0, live=False), anonymizer(fails(2)), on_fault="hold", hold=0, timeout=None)
    assert (shelf.frames[2].image == FAULT_COLOUR).all()


def test_frames_that_are_left_out_are_counted():
    with Shelf() as shelf:
        protection = Protection(on_fault="drop", timeout=None)
        summary = run(Camera(30, 0, live=False), anonymizer(fails(3, 4)), shelf, protection=protection)
    assert (summary.frames, summary.faults) == (28, {"detector-error": 2})


def test_a_sink_that_hangs_is_left_alone_when_another_fails():
    """An encoder that is closed while it works crashes the process."""
    over, closed = threading.Event(), threading.Event()

    class Hanging(Shelf):
        def _write(self, frame: RedactedFrame) -> None:
            over.wait(30)

        def discard(self) -> None:
            closed.set()

    class Full(Shelf):
        def _write(self, frame: RedactedFrame) -> None:
            time.sleep(0.05)
            raise SinkError("full: no space left")

    began = time.monotonic()
    with pytest.raises(SinkError, match="no space left"), Hanging() as hanging, Full() as full:
        run(Camera(1000, 0.01), anonymizer(), [hanging, full])
    assert time.monotonic() - began < 4
    assert not closed.is_set()
    over.set()


def test_an_observer_that_waits_for_the_end_does_not_hold_it_up() -> None:
    """It may close the stream from within, which waits for the end while the gate waits for it."""
    leaving, ended, left = threading.Event(), threading.Event(), []

    def leave(frame: RedactedFrame) -> None:
        leaving.set()
        left.append(frame.index if ended.wait(5) else -1)

    gate = Gate(Protection(), leave, lambda reason: None, lambda event: None, str, "nothing")
    frames = [Frame(np.zeros((24, 32, 3), np.uint8), index, index / 25) for index in range(3)]
    for frame in frames:
        gate.expect(frame)
    worker = threading.Thread(target=lambda: [gate.settle(cover_whole(frame, "input")) for frame in frames])
    worker.start()
    assert leaving.wait(5)
    gate.end()
    ended.set()
    worker.join(10)
    gate.settle_all()
    assert left == [0], "what was just leaving, and the end didn't wait for it"
