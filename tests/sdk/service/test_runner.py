from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import TracebackType

import pytest

from dartblur.errors import BackendError, FailClosedError, InputError, SinkError, SourceError
from dartblur.service import runner as module
from dartblur.service.runner import StreamRunner
from dartblur.session import StreamSettings
from dartblur.stream.observers import Event

from .conftest import until


class Stub:
    """A session that does what it is told."""

    def __init__(self, work: Callable[[threading.Event], None]) -> None:
        self.work = work
        self.closed: list[type[BaseException] | None] = []

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closed.append(kind)

    def run(self, *, stop: threading.Event) -> None:
        self.work(stop)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHORTEST_S", 0.02)
    monkeypatch.setattr(module, "_LONGEST_S", 0.08)


@contextmanager
def running(
    open: Callable[[], Stub], *, source: str = "in.mp4", strict: bool = True, events: list[Event] | None = None
) -> Iterator[StreamRunner]:
    ended: list[bool] = []
    tell = (lambda event: None) if events is None else events.append
    settings = StreamSettings(source, ("d",), name="door")
    runner = StreamRunner(settings, lambda runner: open(), strict=strict, tell=tell, at_end=lambda: ended.append(True))
    runner.start()
    try:
        yield runner
    finally:
        runner.stop()
        assert runner.join(5)
        assert ended == [True]


def wait_for_stop(stop: threading.Event) -> None:
    assert stop.wait(10)


def test_a_stream_runs_until_it_is_told_to_stop() -> None:
    session = Stub(wait_for_stop)
    with running(lambda: session) as runner:
        until(runner.decided.is_set)
        assert runner.phase == "running"
        assert not runner.over
        assert not runner.hangs
        runner.stop()
        assert runner.join(1)
        assert runner.phase in ("stopped", "ended")
        assert runner.over
        assert not runner.hangs
    assert session.closed == [None]


def test_a_source_that_ends_is_not_begun_anew() -> None:
    opened: list[Stub] = []

    def open() -> Stub:
        opened.append(Stub(lambda stop: None))
        return opened[-1]

    with running(open) as runner:
        until(lambda: runner.over)
        assert runner.phase == "ended"
        time.sleep(0.1)
    assert len(opened) == 1


@pytest.mark.parametrize(
    "error", [SourceError("gone"), SinkError("full"), FailClosedError("late"), RuntimeError("bug")]
)
def test_a_stream_that_fails_is_begun_anew_for_ever(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    sessions: list[Stub] = []

    def fail(stop: threading.Event) -> None:
        raise error

    def open() -> Stub:
        sessions.append(Stub(fail if len(sessions) < 4 else wait_for_stop))
        return sessions[-1]

    with running(open, events=events) as runner:
        until(lambda: len(sessions) == 5 and runner.phase == "running")
    assert [each.closed for each in sessions] == [[type(error)]] * 4 + [[None]]
    assert [event.kind for event in events] == ["reconnecting"] * 4
    assert all(str(error) in event.message and "trying again in" in event.message for event in events)
    assert runner.metrics.snapshot()["events"][0]["kind"] == "reconnecting"
    known = not isinstance(error, RuntimeError)
    assert known == (not [record for record in caplog.records if record.levelno == logging.ERROR])


def test_the_pauses_grow_and_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []
    longest: list[float] = []

    def uniform(low: float, high: float) -> float:
        longest.append(high)
        return high

    monkeypatch.setattr(module.random, "uniform", uniform)

    def fail(stop: threading.Event) -> None:
        times.append(time.monotonic())
        raise SourceError("gone")

    with running(lambda: Stub(fail)):
        until(lambda: len(times) >= 6)
    assert longest[:5] == [0.02, 0.04, 0.08, 0.08, 0.08]
    longer = [later - earlier - pause for (earlier, later), pause in zip(pairwise(times), longest, strict=False)]
    assert min(longer) >= 0
    assert statistics.median(longer) < 0.1


def test_a_steady_stream_starts_with_the_shortest_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEADY_S", 0.05)
    monkeypatch.setattr(module, "_LONGEST_S", 100.0)
    count = 0

    def fail(stop: threading.Event) -> None:
        nonlocal count
        count += 1
        time.sleep(0.06)
        raise SourceError("gone")

    with running(lambda: Stub(fail)):
        until(lambda: count >= 10)


@pytest.mark.parametrize(
    ("source", "error", "final"),
    [
        ("in.mp4", SourceError("no such file"), True),
        ("gst:nonsense", SourceError("not a pipeline"), True),
        ("rtsp://cam/1", SourceError("no answer"), False),
        ("rtsp://cam/1", SinkError("exists"), True),
        ("rtsp://cam/1", InputError("zone outside"), True),
        ("0", SourceError("no such camera"), False),
        ("0?size=1280x720&fps=30", SourceError("no such camera"), False),
        ("v4l2:///dev/video7", SourceError("no such camera"), False),
        ("0", BackendError("no TensorRT"), True),
        ("0", RuntimeError("a bug"), True),
    ],
)
def test_an_error_at_the_start_is_final_but_for_a_camera_that_is_away(
    source: str, error: Exception, final: bool
) -> None:
    def open() -> Stub:
        raise error

    with running(open, source=source) as runner:
        until(runner.decided.is_set)
        if final:
            until(lambda: runner.phase == "refused")
            assert runner.error is error
        else:
            assert runner.error is None
            assert not runner.over
            assert runner.metrics.state == "reconnecting"


def test_an_error_at_the_start_of_a_later_stream_is_not_final() -> None:
    attempts: list[int] = []

    def open() -> Stub:
        attempts.append(1)
        raise SinkError("exists")

    with running(open, strict=False) as runner:
        until(lambda: len(attempts) > 3)
        assert runner.error is None


@pytest.mark.parametrize(
    ("source", "final"), [("in.mp4", True), ("gst:nonsense", True), ("rtsp://cam/1", False), ("0?fps=30", False)]
)
def test_of_a_later_stream_only_a_camera_is_waited_for(source: str, final: bool) -> None:
    attempts: list[int] = []
    events: list[Event] = []

    def open() -> Stub:
        attempts.append(1)
        raise SourceError("in.mp4: no such file")

    with running(open, source=source, strict=False, events=events) as runner:
        if final:
            until(lambda: runner.phase == "refused")
            assert len(attempts) == 1
            assert runner.metrics.state == "stalled"
            assert [(event.kind, event.message) for event in events] == [
                ("stalled", "the stream can't be as it is described: in.mp4: no such file: mend it and reload")
            ]
        else:
            until(lambda: len(attempts) > 3)
            assert runner.error is None


def test_a_file_that_is_gone_after_it_was_read_is_waited_for() -> None:
    opened: list[int] = []

    def fail(stop: threading.Event) -> None:
        raise SinkError("full")

    def open() -> Stub:
        opened.append(1)
        if len(opened) > 1:
            raise SourceError("no such file")
        return Stub(fail)

    with running(open) as runner:
        until(lambda: len(opened) > 3)
        assert runner.error is None


def test_passwords_are_not_told() -> None:
    events: list[Event] = []

    def fail(stop: threading.Event) -> None:
        raise SourceError("rtsp://me:sesame@cam/1 is gone")

    with running(lambda: Stub(fail), events=events):
        until(lambda: events)
    assert "sesame" not in events[0].message
    assert "\n" not in events[0].message


def test_an_error_at_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def end(stop: threading.Event) -> None:
        stop.wait(10)
        raise SinkError("out.mp4: no frame came")

    with running(lambda: Stub(end)) as runner:
        until(lambda: runner.phase == "running")
    assert runner.phase == "stopped"
    assert "no frame came" in caplog.text


def test_it_can_be_stopped_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHORTEST_S", 100.0)
    monkeypatch.setattr(module, "_LONGEST_S", 100.0)

    def fail(stop: threading.Event) -> None:
        raise SourceError("gone")

    with running(lambda: Stub(fail)) as runner:
        until(lambda: runner.phase == "waiting")
        assert not runner.hangs, "a camera that is away is no reason to restart the process"
        runner.stop()
        assert runner.join(1)


def test_a_stream_without_results_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(lambda: Stub(wait_for_stop)) as runner:
        until(lambda: runner.phase == "running")
        runner.metrics.on_event(Event("fault", "no result", "time-out"))
        assert not runner.hangs, "not at once"
        monkeypatch.setattr(module, "HUNG_S", 0.05)
        time.sleep(0.1)
        assert runner.hangs
        runner.metrics.on_event(Event("recovered", "fine"))
        assert not runner.hangs
        runner.metrics.on_event(Event("fault", "broken", "detector-error"))
        time.sleep(0.1)
        assert not runner.hangs, "it gets results, if bad ones"


def test_a_stream_that_is_opened_for_too_long_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def open() -> Stub:
        asked.set()
        go_on.wait(10)
        return Stub(wait_for_stop)

    with running(open) as runner:
        assert asked.wait(10)
        assert runner.phase == "opening"
        assert not runner.hangs
        monkeypatch.setattr(module, "HUNG_S", 0.05)
        time.sleep(0.1)
        assert runner.hangs
        go_on.set()
        until(lambda: runner.phase == "running")
        assert not runner.hangs


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_hangs() -> None:
    def die(stop: threading.Event) -> None:
        raise SystemExit

    settings = StreamSettings("in.mp4", ("d",), name="door")
    runner = StreamRunner(settings, lambda runner: Stub(die), strict=True)
    runner.start()
    assert runner.join(5)
    assert runner.hangs
