"""Three stages work together, and end together."""

import threading
import time
import typing
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import FailClosedError, SinkError, SourceError
from dartblur.frame import Frame
from dartblur.stream import Sink, Source, SourceInfo, run
from dartblur.stream.observers import Observer
from dartblur.stream.sources.pushed import PushSource


class Numbers(Source):
    """Black pictures; raises at one of them, if told."""

    def __init__(self, count=20, fail_at=None, wait=0.0):
        super().__init__()
        self.info = SourceInfo("numbers", 8, 8, count)
        self._count, self._fail_at, self._wait = count, fail_at, wait

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            if index == self._fail_at:
                raise SourceError("numbers: can't be read on")
            time.sleep(self._wait)
            yield Frame(np.zeros((8, 8, 3), np.uint8), index)


class Shelf(Sink):
    """Keeps the indices of what it gets; raises at one of them, if told."""

    def __init__(self, fail_at=None, wait=0.0):
        super().__init__("shelf")
        self.indices: list[int] = []
        self.end = ""
        self._fail_at, self._wait = fail_at, wait

    def _write(self, frame):
        time.sleep(self._wait)
        if frame.index == self._fail_at:
            raise SinkError("shelf: can't be written")
        self.indices.append(frame.index)

    def commit(self):
        self.end = "committed"

    def discard(self):
        self.end = "discarded"


def anonymizer(fail_at=None, wait=0.0):
    count = iter(range(1000))

    def finder(image):
        time.sleep(wait)
        if next(count) == fail_at:
            raise RuntimeError("detector broke")
        return np.array([[0, 0, 4, 4]], np.float32)

    return Anonymizer(backend=FakeBackend(finder))


@pytest.mark.parametrize("slow", ["source", "anonymizer", "sink"])
def test_no_frame_is_lost_and_order_is_kept(slow):
    wait = {slow: 0.005}
    source = Numbers(wait=wait.get("source", 0))
    with Shelf(wait=wait.get("sink", 0)) as shelf:
        seen = []
        summary = run(
            source,
            anonymizer(wait=wait.get("anonymizer", 0)),
            shelf,
            on_progress=lambda so_far: seen.append(so_far.frames),
        )
    assert shelf.indices == list(range(20))
    assert shelf.end == "committed"
    assert seen == list(range(1, 21))
    assert (summary.frames, summary.faces, summary.frames_with_faces) == (20, 20, 20)
    assert summary.fps > 0


@pytest.mark.parametrize("others_wait", [0.0, 0.01])
@pytest.mark.parametrize(
    ("stage", "error"), [("source", SourceError), ("anonymizer", FailClosedError), ("sink", SinkError)]
)
@pytest.mark.parametrize("at", [0, 10])
def test_an_error_of_any_stage_ends_all_at_once(stage, error, at, others_wait, left_threads):
    fail = {stage: at}
    source = Numbers(1000, fail.get("source"), wait=others_wait)
    shelf = Shelf(fail.get("sink"), wait=others_wait)
    began = time.monotonic()
    with pytest.raises(error), shelf:
        run(source, anonymizer(fail.get("anonymizer")), shelf)
    assert time.monotonic() - began < 1
    assert shelf.end == "discarded"
    assert not left_threads()


def test_the_frame_that_failed_is_named_and_does_not_leave():
    shelf = Shelf()
    with pytest.raises(FailClosedError, match=r"frame 3: anonymization failed \(RuntimeError: detector broke\)"):
        run(Numbers(), anonymizer(fail_at=3), shelf)
    assert 3 not in shelf.indices


def test_an_interrupt_in_the_callers_thread_ends_all():
    def interrupt(so_far):
        if so_far.frames == 5:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(Numbers(1000, wait=0.001), anonymizer(), Shelf(), on_progress=interrupt)
    assert time.monotonic() - began < 1


def test_stop_ends_reading_and_keeps_what_was_read():
    stop = threading.Event()
    with Shelf() as shelf:
        summary = run(
            Numbers(10_000, wait=0.001),
            anonymizer(),
            shelf,
            on_progress=lambda so_far: stop.set() if so_far.frames == 5 else None,
            stop=stop,
        )
    assert 5 <= summary.frames < 50
    assert shelf.indices == list(range(summary.frames))
    assert shelf.end == "committed"


@pytest.mark.parametrize("clear", [Frame(np.zeros((8, 8, 3), np.uint8)), np.zeros((8, 8, 3), np.uint8), None])
def test_a_sink_takes_nothing_clear(clear):
    with pytest.raises(TypeError, match="takes RedactedFrame only"):
        Shelf().write(typing.cast(typing.Any, clear))


def test_all_pixels_are_the_frames_own_overwritten():
    """The clear pixels are gone when a frame has been anonymized: there is one copy of it, the redacted one."""
    clear = [np.full((8, 8, 3), 200, np.uint8)]

    class One(Numbers):
        def __iter__(self):
            yield Frame(clear[0], 0)

    run(One(1), anonymizer(), Shelf())
    assert not clear[0][:4, :4].any()
    assert (clear[0][4:] == 200).all()


def stopped(how, source, *sinks):
    """A run that is stopped after some frames: by whoever runs it, or by whoever looks at the first sink."""
    stop = threading.Event()
    end = {"stop": stop.set, "viewer": lambda: sinks[0].on_end(), "source": source.stop}[how]

    def progress(so_far):
        if so_far.frames == 5:
            end()

    return run(source, anonymizer(), sinks, on_progress=progress, stop=stop)


@pytest.mark.parametrize("how", ["stop", "viewer", "source"])
def test_a_file_that_is_stopped_early_leaves_nothing_that_looks_finished(how):
    whole, viewer = Shelf(), Shelf()
    whole.whole = True
    message = r"^shelf: numbers was stopped before its end, after \d+ frames: nothing was written$"
    with pytest.raises(SinkError, match=message), whole, viewer:
        stopped(how, Numbers(10_000, wait=0.001), viewer, whole)
    assert whole.end == viewer.end == "discarded"


@pytest.mark.parametrize("how", ["stop", "viewer", "source"])
def test_a_live_source_that_is_stopped_is_finished(how):
    source, whole = Numbers(10_000, wait=0.001), Shelf()
    source.info = replace(source.info, live=True)
    whole.whole = True
    with whole:
        stopped(how, source, whole)
    assert whole.end == "committed"


def test_a_stop_that_comes_when_all_was_read_changes_nothing():
    source, whole = Numbers(), Shelf(wait=0.01)
    whole.whole = True

    def progress(so_far):
        if so_far.frames == 20:
            for thread in threading.enumerate():
                if thread.name == "dartblur-read":
                    thread.join(10)
            source.stop()

    with whole:
        run(source, anonymizer(), whole, on_progress=progress)
    assert whole.end == "committed"
    assert whole.indices == list(range(20))


class Hanging(Sink):
    """Takes its first frame for ever."""

    def __init__(self, released):
        super().__init__("hanging")
        self.released = released
        self.end = ""

    def _write(self, frame):
        self.released.wait()

    def commit(self):
        self.end = "committed"

    def discard(self):
        self.end = "discarded"

    def _abandon(self):
        self.end = "abandoned"


def test_a_sink_that_hangs_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr("dartblur.stream.pipeline._SINK_PATIENCE_S", 1.5)
    released, slow, left = threading.Event(), Shelf(wait=0.2), Left()
    source, hanging = PushSource("camera"), Hanging(released)
    pusher = threading.Thread(target=push_until_stopped, args=(source,))
    pusher.start()
    began = time.monotonic()
    with pytest.raises(SinkError, match=r"^hanging: no frame taken for 1\.5 s: "), slow, hanging:
        run(
            source,
            anonymizer(),
            [hanging, slow],
            on_progress=lambda so_far: so_far.frames >= 8 and source.stop(),
            observers=[left],
        )
    released.set()
    pusher.join()
    assert time.monotonic() - began < 8
    assert hanging.end == "abandoned"
    assert len(left.indices) >= 8
    assert slow.indices[-8:] == left.indices[-8:], "what waited was written"


class Left(Observer):
    """Keeps the indices of the frames that left."""

    def __init__(self):
        self.indices = []

    def on_frame(self, frame, source):
        self.indices.append(frame.index)


def push_until_stopped(source):
    while not source.stopping.is_set():
        time.sleep(0.02)
        source.push(np.zeros((8, 8, 3), np.uint8))
