"""Pictures are anonymized several at a time, and come out as if it had been one after another."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends import cpu
from dartblur.backends.cpu import CpuBackend
from dartblur.backends.fake import FakeBackend
from dartblur.backends.scan import Scan
from dartblur.bundle import load_bundle
from dartblur.errors import FailClosedError
from dartblur.frame import Frame, RedactedFrame
from dartblur.protection.guard import Fault, Guard, Outcome
from dartblur.protection.guarding import guarded
from dartblur.protection.policy import Protection
from dartblur.protection.side_by_side import SideBySide
from dartblur.protection.zones import Zones, parse_zone
from dartblur.stream import Sink, Source, SourceInfo, run

PICTURES = Protection.of_pictures()
PATIENCE_S = 20.0


class ThreeAtOnce(FakeBackend):
    at_once = 3


def picture(index: int) -> Frame:
    """A bright picture, whose first pixel tells its number."""
    image = np.full((60, 80, 3), 255, np.uint8)
    image[0, 0] = index
    return Frame(image, index)


def number(image: np.ndarray) -> int:
    return int(image[0, 0, 0])


def face_of(image: np.ndarray) -> np.ndarray:
    """Another face in each picture, and none in each fifth."""
    index = number(image)
    return np.array([[10 + index, 10, 30 + index, 34]] if index % 5 else np.zeros((0, 4)), np.float32)


def side_by_side(finder: Callable[[np.ndarray], np.ndarray], protection: Protection = PICTURES) -> SideBySide:
    return SideBySide(Anonymizer(backend=ThreeAtOnce(finder)), protection)


def all_of(stage: Guard | SideBySide, frames: list[Frame]) -> list[Outcome]:
    out: list[Outcome] = []
    for frame in frames:
        stage.begin(frame)
        while len(stage) and stage.full:
            out += stage.finish()
    out += stage.drain()
    return out


def test_the_pictures_are_those_of_one_guard_in_the_same_order() -> None:
    zones = Zones([parse_zone("40,40,60,60")])
    protection = Protection(hold=0, zones=zones)
    guard = Guard(Anonymizer(backend=FakeBackend(face_of)), protection, apart=True)
    alone = all_of(guard, [picture(i) for i in range(20)])
    with side_by_side(face_of, protection) as stage:
        together = all_of(stage, [picture(i) for i in range(20)])
    assert len(together) == 20
    for index, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert isinstance(one, RedactedFrame)
        assert isinstance(other, RedactedFrame)
        assert other.index == index
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.covered, other.covered)
        assert one.coverage.reasons == other.coverage.reasons
        assert one.coverage.ids.tolist() == other.coverage.ids.tolist() == ([1, 0] if index % 5 else [0])


def test_a_picture_is_begun_while_another_is_under_way() -> None:
    """The first picture's faces are only found once those of the second and third are."""
    others = threading.Barrier(3)

    def finder(image: np.ndarray) -> np.ndarray:
        others.wait(PATIENCE_S)
        return face_of(image)

    with side_by_side(finder) as stage:
        out = all_of(stage, [picture(i) for i in range(3)])
    assert [frame.index for frame in out if isinstance(frame, RedactedFrame)] == [0, 1, 2]


def test_a_picture_that_fails_is_a_fault_in_its_place() -> None:
    def finder(image: np.ndarray) -> np.ndarray:
        if number(image) == 4:
            raise RuntimeError("broke")
        return face_of(image)

    with side_by_side(finder) as stage:
        out = all_of(stage, [picture(i) for i in range(9)])
    assert [isinstance(outcome, Fault) for outcome in out] == [i == 4 for i in range(9)]
    fault = out[4]
    assert isinstance(fault, Fault)
    assert (fault.frame.index, fault.reason, str(fault.error)) == (4, "detector-error", "broke")


def test_what_is_given_up_does_not_come_out_and_the_next_do() -> None:
    go_on = threading.Event()

    def finder(image: np.ndarray) -> np.ndarray:
        go_on.wait(PATIENCE_S)
        return face_of(image)

    with side_by_side(finder) as stage:
        for index in range(4):
            stage.begin(picture(index))
        stage.abandon()
        assert len(stage) == 0
        go_on.set()
        out = all_of(stage, [picture(i) for i in range(4, 8)])
    assert [outcome.index for outcome in out if isinstance(outcome, RedactedFrame)] == [4, 5, 6, 7]


ENDS_IN_A_NETWORK = """
import time
import numpy as np
from dartblur.anonymizer import Anonymizer
from dartblur.backends.cpu import CpuBackend
from dartblur.backends.scan import Scan
from dartblur.bundle import load_bundle
from dartblur.frame import Frame
from dartblur.protection.policy import Protection
from dartblur.protection.side_by_side import SideBySide

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(2)  # while the interpreter ends, so that the thread comes back meanwhile

slow = Slow()
anonymizer = Anonymizer(backend=CpuBackend(load_bundle(), scan=Scan(1280)))
with SideBySide(anonymizer, Protection.of_pictures()) as stage:
    stage.begin(Frame(np.zeros((1280, 1280, 3), np.uint8), 0))
    time.sleep(0.05)
"""

ENDS_BESIDE_A_THREAD = """
import atexit, sys, threading
from dartblur.cli import main

threading.Thread(target=threading.Event().wait, name="dartblur-guard", daemon=True).start()
atexit.register(print, "the interpreter ends")
sys.argv = ["dartblur", "run", "/nowhere.jpg", "/tmp/x.jpg"]
main()
"""


def test_the_end_waits_for_a_network_that_is_at_work() -> None:
    """An interpreter that ends before it would be aborted."""
    result = subprocess.run([sys.executable, "-c", ENDS_IN_A_NETWORK], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_command_does_not_wait_for_one_that_was_left_behind() -> None:
    result = subprocess.run([sys.executable, "-c", ENDS_BESIDE_A_THREAD], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "nowhere" in result.stderr
    assert "interpreter ends" not in result.stdout


@pytest.mark.parametrize(("size", "most"), [(None, 8), (640, 8), (1280, 2), (1920, 1), (4096, 1), ("auto", 1)])
def test_larger_scans_get_fewer_pictures_at_once(size: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "usable_cores", lambda: 64)
    assert CpuBackend(load_bundle(), scan=Scan(size)).at_once == most


def test_the_end_does_not_wait_for_one_that_hangs() -> None:
    for_ever = threading.Event()
    with side_by_side(lambda image: np.zeros((0, 4), np.float32) if for_ever.wait(PATIENCE_S) else image) as stage:
        stage.begin(picture(0))
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE_S / 2
    for_ever.set()


@pytest.mark.parametrize(
    ("protection", "at_once", "moving", "several"),
    [
        (PICTURES, 3, False, True),
        (PICTURES, 3, True, False),
        (PICTURES, 1, False, False),
        (Protection(hold=0, lookahead=1), 3, False, False),
        (Protection(hold=0.1), 3, False, False),
        (Protection(hold=0, self_check=1.0), 3, False, False),
        (Protection.of_file(), 3, True, False),
        (Protection.of_camera(), 3, True, False),
    ],
)
def test_only_pictures_that_are_apart_are_done_side_by_side(
    protection: Protection, at_once: int, moving: bool, several: bool
) -> None:
    backend = FakeBackend()
    backend.at_once = at_once
    with guarded(Anonymizer(backend=backend), protection, moving=moving) as stage:
        assert isinstance(stage, SideBySide if several else Guard)


class Pictures(Source):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.info = SourceInfo("pictures", 0, 0, count, moving=False)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return map(picture, range(self.info.frames or 0))


class Kept(Sink):
    def __init__(self) -> None:
        super().__init__("kept")
        self.frames: list[RedactedFrame] = []

    def _write(self, frame: RedactedFrame) -> None:
        self.frames.append(frame)

    def commit(self) -> None: ...

    def discard(self) -> None: ...


def test_a_folder_ends_when_one_of_its_pictures_hangs_and_nothing_of_it_leaves() -> None:
    for_ever = threading.Event()

    def finder(image: np.ndarray) -> np.ndarray:
        if number(image) == 3:
            for_ever.wait(PATIENCE_S)
        return face_of(image)

    protection, sink = Protection(hold=0, on_fault="stop", timeout=2.0), Kept()
    with (
        side_by_side(finder, protection) as stage,
        pytest.raises(FailClosedError, match=r"frame 3: .*no result within"),
    ):
        run(Pictures(8), stage, sink, protection=protection)
    assert [frame.index for frame in sink.frames] == [0, 1, 2]
    for_ever.set()


def test_threads_of_the_cpu_backend_do_not_touch_one_anothers_pictures() -> None:
    """Pictures of two sizes, several at once: pixel for pixel what each gives alone."""
    random = np.random.default_rng(0)
    sizes = [(30, 40), (30, 40), (30, 40), (40, 30)] * 6
    images = [np.kron(random.integers(0, 256, (*size, 3)), np.ones((8, 8, 1))).astype(np.uint8) for size in sizes]
    backend = CpuBackend(load_bundle())
    backend.at_once = 4
    anonymizer = Anonymizer(backend=backend, threshold=0.001)
    expected = [anonymizer(image).image for image in images]
    with SideBySide(anonymizer, PICTURES) as stage:
        out = all_of(stage, [Frame(image.copy(), index) for index, image in enumerate(images)])
    assert any(len(outcome.covered) for outcome in out if isinstance(outcome, RedactedFrame))
    for outcome, image in zip(out, expected, strict=True):
        assert isinstance(outcome, RedactedFrame)
        assert np.array_equal(outcome.image, image)
