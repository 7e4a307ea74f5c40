"""Frames that the program pushes itself."""

import threading
import time

import numpy as np
import pytest

from dartblur.errors import FrameError
from dartblur.stream.sources.pushed import PushSource


def image(value=0, size=(6, 8)):
    return np.full((*size, 3), value, np.uint8)


def test_the_newest_wins_and_push_never_waits():
    source = PushSource("robot")
    events = []
    source.observe = events.append
    for value in range(5):
        assert source.push(image(value))
    source.end()
    assert [(frame.index, frame.image[0, 0, 0]) for frame in source] == [(4, 4)]
    assert [event.kind for event in events] == ["dropped"] * 4
    assert source.info.live
    assert source.info.uri == "robot"


def test_without_live_nothing_is_lost():
    source = PushSource(live=False)
    pusher = threading.Thread(target=lambda: ([source.push(image(value)) for value in range(50)], source.end()))
    pusher.start()
    time.sleep(0.1)
    assert pusher.is_alive()  # it waits for the reader
    frames = list(source)
    pusher.join(2)
    assert [frame.image[0, 0, 0] for frame in frames] == list(range(50))
    assert [frame.index for frame in frames] == list(range(50))
    times = [frame.time for frame in frames]
    assert times == sorted(set(times))


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_waiting_push_and_a_waiting_reader_are_woken(how):
    source, other = PushSource(live=False), PushSource()
    results = []
    threads = [
        threading.Thread(target=lambda: [results.append(source.push(image())) for _ in range(9)]),
        threading.Thread(target=lambda: results.append(list(other))),
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    getattr(source, how)()
    getattr(other, how)()
    for thread in threads:
        thread.join(1)
        assert not thread.is_alive()
    assert [] in results
    assert False in results
    assert source.push(image()) is False


def test_pixels_are_copied_unless_handed_over():
    source, mine = PushSource(), image(7)
    source.push(mine)
    mine[:] = 0
    assert next(iter(source)).image[0, 0, 0] == 7
    handed = image(8)
    source.push(handed, copy=False)
    assert next(iter(source)).image is handed


def test_frames_own_their_memory_whatever_comes():
    source = PushSource()
    frozen, flipped = image(3), image(4)[::-1, ::-1]
    frozen.flags.writeable = False
    for strange in (frozen, flipped):
        source.push(strange, copy=False)
        taken = next(iter(source)).image
        assert taken.flags.c_contiguous
        assert taken.flags.writeable
        assert np.array_equal(taken, strange)


class OnGpu:
    """As CuPy has it."""

    __cuda_array_interface__ = None

    def get(self):
        return image(5)


def test_an_array_of_a_gpu_library_is_taken():
    source = PushSource()
    source.push(OnGpu())
    assert next(iter(source)).image[0, 0, 0] == 5


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "x",
        [[1]],
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_wrong_arrays_are_refused_at_push(wrong):
    source = PushSource()
    with pytest.raises(FrameError, match=r"expected .* uint8 BGR, got"):
        source.push(wrong)


def test_times_are_kept_and_must_grow():
    source = PushSource()
    source.push(image(), time=2.0)
    assert next(iter(source)).time == 2.0
    for wrong in (2.0, 1.0, float("nan"), float("inf")):
        with pytest.raises(FrameError, match="later than"):
            source.push(image(), time=wrong)
