"""A camera that is lost comes back; nothing hangs, nothing piles up, nothing late is used."""

import threading
import time

import numpy as np
import pytest

from dartblur.errors import SourceError
from dartblur.frame import Frame
from dartblur.stream.base import Source, SourceInfo
from dartblur.stream.sources.live_clock import LiveClock
from dartblur.stream.sources.reconnecting import Reconnecting


class Camera(Source):
    """Gives so many frames of one value, then does what `end` says: return, raise, or block until released."""

    def __init__(self, value=0, frames=3, end=None, interval=0.01, start=0.0):
        super().__init__()
        self.info = SourceInfo("cam://***@x", 8, 6, None, live=True)
        self.value, self.frames, self.end, self.interval, self.start_time = value, frames, end, interval, start
        self.closed = threading.Event()

    def __iter__(self):
        for index in range(self.frames):
            time.sleep(self.interval)
            yield Frame(np.full((6, 8, 3), self.value, np.uint8), index, self.start_time + index * self.interval)
        if isinstance(self.end, threading.Event):
            self.end.wait()  # hangs, as C code does: it doesn't look at `stopping`
            yield Frame(np.full((6, 8, 3), 255, np.uint8), self.frames, 99.0)
        elif self.end is not None:
            raise self.end

    def close(self):
        self.closed.set()


def opener(*cameras):
    """Opens one after the other; what is an exception is raised."""
    left = list(cameras)

    def open_next():
        camera = left.pop(0) if left else Camera(9, frames=10**6)
        if isinstance(camera, Exception):
            raise camera
        return camera

    return open_next


def read(source, enough):
    """Frames until `enough(frames)`, and the events meanwhile."""
    events, frames = [], []
    source.observe = events.append
    with source:
        for frame in source:
            frames.append(frame)
            if enough(frames):
                break
    return frames, events


def kinds(events):
    return [event.kind for event in events if event.kind != "dropped"]


@pytest.mark.parametrize("end", [None, SourceError("rtsp://anna:geheim@x: gone"), RuntimeError("http://a:geheim@b")])
def test_it_connects_again_after_an_end_or_error(end):
    cameras = Camera(1, end=end, start=50.0), Camera(2, start=3.0), Camera(3, frames=10**6)
    frames, events = read(Reconnecting(opener(*cameras)), lambda frames: frames[-1].image[0, 0, 0] == 3)
    assert kinds(events) == ["connected", "reconnecting", "connected", "reconnecting", "connected"]
    assert not any("geheim" in event.message for event in events)
    assert sorted({frame.image[0, 0, 0] for frame in frames}) == [1, 2, 3]
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    times = [frame.time for frame in frames]
    assert times == sorted(set(times))
    assert times[0] == 0
    assert times[-1] == pytest.approx(frames[-1].captured - frames[0].captured, abs=0.2)
    assert all(camera.closed.wait(2) for camera in cameras)


def test_a_stall_is_noticed_though_the_read_hangs_and_its_late_frames_are_never_used():
    hang = threading.Event()
    stuck = Camera(1, end=hang)
    source = Reconnecting(opener(stuck, Camera(2, frames=10**6)), stall=0.3)
    began = time.monotonic()

    def enough(frames):
        if frames[-1].image[0, 0, 0] == 2 and not hang.is_set():
            hang.set()  # the hanging read returns now, with a frame
        return sum(frame.image[0, 0, 0] == 2 for frame in frames) > 20

    frames, events = read(source, enough)
    assert time.monotonic() - began < 3
    assert kinds(events) == ["connected", "stalled", "reconnecting", "connected"]
    assert all("no frame for 0.3 s" in event.message for event in events if event.kind in ("stalled", "reconnecting"))
    assert {frame.image[0, 0, 0] for frame in frames} == {1, 2}
    assert stuck.closed.wait(2)


def test_a_camera_that_always_hangs_does_not_fill_the_process_with_threads(monkeypatch):
    monkeypatch.setattr("dartblur.stream.sources.reconnecting._HANGING", 2)
    monkeypatch.setattr("dartblur.stream.sources.reconnecting._SHORTEST_S", 0.01)
    monkeypatch.setattr("dartblur.stream.sources.reconnecting._LONGEST_S", 0.02)
    hang = threading.Event()
    opened = []

    def open_stuck():
        opened.append(Camera(1, frames=1, end=hang, interval=0))
        return opened[-1]

    source = Reconnecting(open_stuck, stall=0.3)
    events = []
    source.observe = events.append
    timer = threading.Timer(2.5, source.stop)
    timer.start()
    for _ in source:
        pass
    timer.join()
    source.close()
    assert len(opened) == 2
    assert "2 earlier reads still hang" in events[-1].message
    hang.set()
    assert all(camera.closed.wait(2) for camera in opened)


@pytest.mark.parametrize("state", ["waiting", "hanging", "pausing", "giving"])
def test_stop_ends_it_within_a_second(state):
    hang = threading.Event()
    cameras = {
        "waiting": [Camera(frames=1, interval=0), Camera(frames=1, interval=30)],
        "hanging": [Camera(frames=1, end=hang)],
        "pausing": [Camera(frames=1), *[SourceError("gone")] * 100],
        "giving": [Camera(frames=10**6)],
    }[state]
    source = Reconnecting(opener(*cameras), stall=60)
    reader = threading.Thread(target=lambda: [None for _ in source])
    reader.start()
    time.sleep(0.5)
    began = time.monotonic()
    source.stop()
    reader.join(1)
    assert not reader.is_alive()
    source.close()
    assert time.monotonic() - began < 2.5
    hang.set()


def test_the_first_failure_is_an_error_at_once():
    began = time.monotonic()
    with pytest.raises(SourceError, match="no such camera"):
        Reconnecting(opener(SourceError("x: no such camera")))
    assert time.monotonic() - began < 1


def test_an_opening_that_hangs_is_an_error():
    hang = threading.Event()
    with pytest.raises(SourceError, match=r"no answer .* 0\.2 s"):
        Reconnecting(lambda: (hang.wait(), Camera())[1], connect=0.2)
    hang.set()


def test_without_reconnecting_a_loss_is_an_error():
    source = Reconnecting(opener(Camera(frames=2)), reconnect=False)
    seen = []
    with source, pytest.raises(SourceError, match="ended it"):
        seen.extend(frame.index for frame in source)
    assert seen[-1] == 1


def test_pauses_grow_and_are_bounded(monkeypatch):
    waits = []
    source = Reconnecting(opener(Camera(frames=1), *[SourceError("gone")] * 12), stall=5)
    monkeypatch.setattr(source.stopping, "wait", lambda seconds: waits.append(seconds) or len(waits) > 11)
    for _ in source:
        pass
    source.close()
    assert 0.1 <= waits[0] <= 0.4
    assert all(5 <= wait <= 10 for wait in waits[7:])
    assert max(waits) <= 10


def test_only_the_newest_frame_is_kept():
    source = Reconnecting(opener(Camera(frames=10**6, interval=0.001)))
    events = []
    source.observe = events.append
    with source:
        frames = iter(source)
        first = next(frames)
        time.sleep(0.3)
        second = next(frames)
        assert time.monotonic() - second.captured < 0.15
    assert second.index > first.index + 10
    assert sum(event.kind == "dropped" for event in events) == second.index - 1  # two of all were taken


def test_damage_adds_up():
    first, second = Camera(frames=2), Camera(frames=10**6)
    first.damaged, second.damaged = 3, 4
    source = Reconnecting(opener(first, second))
    read(source, lambda frames: frames[-1].index > 3)
    assert source.damaged == 7


def test_the_clock_follows_stamps_but_never_runs_ahead_or_back():
    clock = LiveClock()
    burst = [clock.time_of(index / 10, 100.0) for index in range(5)]
    assert burst == sorted(set(burst))
    assert burst[-1] < 0.01
    late = [clock.time_of(0.5 + index / 10, 100.1 + index / 10 + (0.05 if index % 2 else 0)) for index in range(20)]
    steps = np.diff(late[2:])
    assert np.allclose(steps, 0.1, atol=1e-6)
    jumped = clock.time_of(5000.0, 102.2)
    assert jumped == pytest.approx(2.2, abs=0.1)
    clock.restart()
    assert jumped < clock.time_of(0.0, 103.0) == pytest.approx(3.0)


def test_a_connection_that_is_begun_while_it_is_closed_is_given_up(monkeypatch):
    late = Camera(2, frames=10**6)
    source = Reconnecting(opener(Camera(1, frames=1), late))
    monkeypatch.setattr(source, "_pause", lambda why: source.close() is None)
    for _ in source:
        pass
    assert late.closed.wait(2)
