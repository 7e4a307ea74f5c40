"""`dartblur.open(...).anonymize()`: redacted frames in a loop of one's own."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import dartblur
from dartblur.backends.fake import FakeBackend
from dartblur.stream import Source, SourceInfo
from dartblur.stream.sources.pushed import PushSource

FACE = np.array([[2, 2, 20, 20]], np.float32)


def picture(grey: int = 255) -> np.ndarray:
    return np.full((24, 32, 3), grey, np.uint8)


def anonymizer(**options: bool) -> dartblur.Anonymizer:
    return dartblur.Anonymizer(backend=FakeBackend(lambda image: FACE), **options)


class Pictures(Source):
    """A file of so many white pictures, which notes whether it was closed."""

    def __init__(self, count: int, live: bool = False) -> None:
        super().__init__()
        self.info = SourceInfo("pictures", 32, 24, count, live=live)
        self.count, self.closed = count, False

    def __iter__(self):
        for index in range(self.count):
            yield dartblur.Frame(picture(), index, index / 25)

    def close(self) -> None:
        self.closed = True


def test_a_loop_gets_every_frame_of_a_file_redacted(left_threads):
    source = Pictures(30)
    stream = dartblur.open(source).anonymize(anonymizer())
    frames = list(stream)
    assert [frame.index for frame in frames] == list(range(30))
    assert all(not frame.image[2:20, 2:20].any() and frame.image[21:].all() for frame in frames)
    assert stream.summary.frames == 30
    assert source.closed
    assert not left_threads()


@pytest.mark.parametrize("live", [False, True])
def test_leaving_the_loop_ends_the_stream(live, left_threads):
    source = Pictures(100_000, live)
    began = time.monotonic()
    for frame in dartblur.open(source).anonymize(anonymizer()):
        if frame.index >= 5:
            break
    deadline = time.monotonic() + 2
    while left_threads() and time.monotonic() < deadline:  # a generator that isn't referred to is closed at once
        time.sleep(0.01)
    assert not left_threads()
    assert source.closed
    assert time.monotonic() - began < 3


def test_closing_from_two_threads_closes_the_source_once(left_threads):
    class Slow(Pictures):
        closings = 0

        def close(self) -> None:
            self.closings += 1
            time.sleep(0.05)
            self.closed = True

    for _ in range(5):
        source = Slow(100_000, live=True)
        stream = dartblur.open(source).anonymize(anonymizer())
        loop = threading.Thread(target=lambda stream=stream: sum(1 for _ in stream))
        loop.start()
        time.sleep(0.05)
        stream.close()
        assert source.closed
        loop.join()
        assert source.closings == 1
    assert not left_threads()


def test_closing_ends_a_stream_whose_detector_hangs():
    over = threading.Event()

    def hang(image):
        over.wait(30)
        return FACE

    stream = dartblur.open(Pictures(1000)).anonymize(dartblur.Anonymizer(backend=FakeBackend(hang)), on_fault="solid")
    loop = threading.Thread(target=lambda: list(stream))
    loop.start()
    time.sleep(0.2)
    began = time.monotonic()
    stream.close()
    loop.join(5)
    over.set()
    assert not loop.is_alive()
    assert time.monotonic() - began < 4


def test_a_block_ends_the_stream_too(left_threads):
    source = Pictures(100_000)
    with dartblur.open(source).anonymize(anonymizer()) as frames:
        assert next(iter(frames)).index == 0
    assert source.closed
    assert not left_threads()


def test_an_error_comes_out_of_the_loop(left_threads):
    def broken(image):
        raise RuntimeError("detector broke")

    model = dartblur.Anonymizer(backend=FakeBackend(broken))
    with pytest.raises(dartblur.FailClosedError, match="detector broke"):
        list(dartblur.open(Pictures(3)).anonymize(model))
    assert not left_threads()
    out = list(dartblur.open(Pictures(3)).anonymize(model, on_fault="solid"))
    assert [frame.fault for frame in out] == ["detector-error"] * 3


def test_frames_that_are_pushed_come_back():
    source = PushSource("robot", live=False)

    def push() -> None:
        for grey in (100, 150, 200):
            source.push(picture(grey))
        source.end()

    thread = threading.Thread(target=push)
    thread.start()
    frames = list(dartblur.open(source).anonymize(anonymizer()))
    thread.join()
    assert [int(frame.image[-1, -1, 0]) for frame in frames] == [100, 150, 200]


def test_async_iteration_leaves_the_event_loop_free(left_threads):
    async def main() -> tuple[int, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        clock = asyncio.create_task(tick())
        count = 0
        async for _frame in dartblur.open(Pictures(20)).anonymize(anonymizer()):
            count += 1
            await asyncio.sleep(0.002)
        clock.cancel()
        return count, ticks

    count, ticks = asyncio.run(main())
    assert count == 20
    assert ticks > 5
    assert not left_threads()


def test_several_streams_share_a_model():
    model = anonymizer(shared=True)
    counts = {}

    def watch(name: str) -> None:
        counts[name] = sum(1 for _ in dartblur.open(Pictures(40)).anonymize(model))

    cameras = [threading.Thread(target=watch, args=(name,)) for name in "abc"]
    for camera in cameras:
        camera.start()
    for camera in cameras:
        camera.join(10)
    assert counts == {"a": 40, "b": 40, "c": 40}


def test_to_sends_all_to_sinks(tmp_path: Path):
    target = tmp_path / "frames"
    summary = dartblur.open(Pictures(3)).anonymize(anonymizer()).to(target)
    assert summary.frames == 3
    assert len(list(target.iterdir())) == 3


def test_a_stream_is_read_once():
    stream = dartblur.open(Pictures(2)).anonymize(anonymizer())
    list(stream)
    with pytest.raises(dartblur.InputError, match="once"):
        list(stream)


def test_bad_options_close_the_source():
    source = Pictures(2)
    with pytest.raises(dartblur.InputError, match="hold"):
        dartblur.open(source).anonymize(anonymizer(), hold=-1)
    assert source.closed
    with pytest.raises(dartblur.InputError, match="got both"):
        dartblur.open(Pictures(2)).anonymize(anonymizer(), threshold=0.5)
    with pytest.raises(dartblur.SourceError, match="no such file"):
        dartblur.open("/nowhere/in.mp4")
