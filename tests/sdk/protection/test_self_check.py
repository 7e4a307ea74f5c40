from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from dartblur import Anonymizer, BackendError, InputError, load_bundle
from dartblur.anonymizer import METHODS
from dartblur.backends.cpu import CpuBackend
from dartblur.backends.fake import FakeBackend
from dartblur.bundle import Bundle
from dartblur.frame import Frame, Image, RedactedFrame, cover_whole
from dartblur.protection.residue import alike, is_hidden, unchanged
from dartblur.protection.self_check import SURER, Finding, SecondLook, SelfCheck, covered_share, surer

FACE = np.array([[164, 50, 291, 235]], np.float32)
"""The astronaut's face with the usual margin."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> CpuBackend:
    return CpuBackend(bundle, threads=1)


@pytest.fixture(scope="module")
def astronaut() -> Image:
    """A real face, BGR, uint8 [512, 512, 3]."""
    return np.ascontiguousarray(skimage.data.astronaut()[..., ::-1])


def scaled(image: Image, side: int) -> tuple[Image, np.ndarray]:
    """The picture so small that the face's shorter side has so many pixels, and the covered box in it."""
    scale = side / 106
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return small, FACE * np.float32(scale)


def cut(image: Image, box: np.ndarray) -> Image:
    x0, y0, x1, y1 = box[0]
    return image[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]


def covered(backend: CpuBackend, image: Image, boxes: np.ndarray, method: str) -> Image:
    copy = image.copy()
    backend.redact(copy, np.asarray(boxes, np.float32), method)
    return copy


@pytest.mark.parametrize("side", [14, 24, 40, 106])
def test_every_method_hides_and_nothing_else_does(backend: CpuBackend, astronaut: Image, side: int) -> None:
    image, box = scaled(astronaut, side)
    clear = cut(image, box)
    for method in METHODS:
        assert is_hidden(clear, cut(covered(backend, image, box, method), box)), f"{method} is a proper cover"
    assert not is_hidden(clear, clear)
    if side >= 24:
        assert not is_hidden(clear, cv2.GaussianBlur(clear, (5, 5), 0)), "a fixed small blur is none"
    shift = np.tile((box[:, 2:] - box[:, :2]) * np.float32(0.3), 2)
    for method in METHODS:
        assert not is_hidden(clear, cut(covered(backend, image, box + shift, method), box)), f"{method} lies beside"


@pytest.mark.parametrize("noise", [1.3, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("level", [8, 120])
def test_a_covered_wall_is_no_alarm(backend: CpuBackend, noise: float, level: int) -> None:
    """A camera's noise on a plain surface, as a zone covers it, also where it is nearly black."""
    grain = np.random.default_rng(1).normal(level, noise, (160, 160, 1))
    wall = np.repeat(np.clip(np.round(grain), 0, 255), 3, 2).astype(np.uint8)
    box = np.array([[20, 20, 120, 140]], np.float32)
    for method in METHODS:
        assert is_hidden(cut(wall, box), cut(covered(backend, wall, box, method), box)), method


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from(["flat", "noise", "black"]))
def test_measures_take_any_picture(width: int, height: int, seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    if kind == "flat":
        first[:] = 77
    if kind == "black":
        second[:] = 0
    if min(width, height) > 2:
        assert 0 <= unchanged(first, second) <= 1
        assert -1.001 <= alike(first, second) <= 1.001
    assert isinstance(is_hidden(first, second), bool)
    if kind == "flat":
        assert is_hidden(first, first), "where there is no detail nothing shows"


def test_the_share_that_is_covered() -> None:
    faces = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [-10, 0, 10, 10], [90, 90, 99, 99]], np.float32)
    covers = np.array([[0, 0, 5, 10], [0, 0, 5, 5], [25, 0, 28, 10], [25, 0, 28, 10]], np.float32)
    shares = covered_share(faces, covers, 40, 40)
    assert shares.tolist() == [0.5, 0.3, 0.5, 1.0]


def test_a_face_outside_is_found_and_one_inside_is_not(bundle: Bundle, backend: CpuBackend, astronaut: Image) -> None:
    look = SecondLook(bundle)
    nothing = np.zeros((0, 4), np.float32)
    found = look(astronaut, nothing)
    assert covered_share(found.boxes[:1], FACE, 512, 512)[0] > 0.9
    for method in METHODS:
        assert not len(look(covered(backend, astronaut, FACE, method), FACE))
    small, _ = scaled(astronaut, 20)
    wide = cv2.copyMakeBorder(small, 200, 200, 300, 300, cv2.BORDER_CONSTANT, value=(90, 90, 90))
    assert len(look(wide, nothing)), "a small face in a large picture"


class Findings:
    """Collects what a check finds."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    def __call__(self, finding: Finding) -> None:
        self.all.append(finding)


def pass_through(check: SelfCheck, frame: Frame, anonymize: Callable[[Frame], RedactedFrame]) -> RedactedFrame:
    check.before(frame)
    redacted = anonymize(frame)
    check.after(redacted)
    return redacted


@pytest.mark.parametrize("threshold", [0.001, 0.3, 0.5, 0.7, 0.999])
def test_the_second_look_is_surer_than_the_first_whatever_that_takes(threshold: float) -> None:
    odds = [score / (1 - score) for score in (threshold, surer(threshold))]
    assert odds[1] == pytest.approx(SURER * odds[0])


def test_a_stream_is_checked(bundle: Bundle, backend: CpuBackend, astronaut: Image) -> None:
    findings = Findings()
    with SelfCheck(bundle, on_finding=findings) as check:
        pass_through(check, Frame(astronaut), Anonymizer(backend=backend))
    assert check.checked == 1
    assert not findings.all

    with SelfCheck(bundle, on_finding=findings) as check:
        pass_through(check, Frame(astronaut, 7, 0.5), Anonymizer(backend=FakeBackend()))
    (finding,) = findings.all
    assert (finding.kind, finding.index, finding.time) == ("uncovered", 7, 0.5)
    assert covered_share(finding.boxes[:1], FACE, 512, 512)[0] > 0.9
    assert finding.message.startswith("frame 7: ")


def test_a_cover_that_hides_nothing_is_found(bundle: Bundle, astronaut: Image) -> None:
    class Weak(FakeBackend):
        def redact(self, image: Image, boxes: np.ndarray, method: str) -> None:
            x0, y0, x1, y1 = boxes[0].astype(int)
            image[y0:y1, x0:x1] = cv2.GaussianBlur(image[y0:y1, x0:x1], (3, 3), 0)

    findings = Findings()
    with SelfCheck(bundle, on_finding=findings) as check:
        pass_through(check, Frame(astronaut.copy(), 3), Anonymizer(backend=Weak(lambda image: FACE)))
    assert [finding.kind for finding in findings.all] == ["not-hidden"]
    assert np.array_equal(findings.all[0].boxes, FACE)


def test_faces_that_are_left_clear_on_purpose_are_no_finding(bundle: Bundle, astronaut: Image) -> None:
    findings, asked = Findings(), []

    def allowed(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
        asked.append((width, height))
        return np.zeros(len(boxes), bool)

    with SelfCheck(bundle, allowed=allowed, on_finding=findings) as check:
        pass_through(check, Frame(astronaut[:400]), Anonymizer(backend=FakeBackend()))
    assert not findings.all
    assert asked == [(512, 400)]


def samples_of(check: SelfCheck, frames: list[Frame]) -> list[int]:
    """The frames of which a clear copy is taken."""
    taken = []
    for frame in frames:
        check.before(frame)
        if check._clear is not None:
            taken.append(frame.index)
        check.after(cover_whole(frame, "drill"))
        assert check._clear is None, "no clear pixel is kept after the frame has left"
    return taken


def test_one_frame_each_interval_is_a_sample(bundle: Bundle) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    check = SelfCheck(bundle, interval=0.5, on_finding=Findings())
    assert samples_of(check, [Frame(image, n, n / 10) for n in range(16)]) == [0, 5, 10, 15]
    assert samples_of(check, [Frame(image, 20, 0.2), Frame(image, 21, 0.3)]) == [20], "time has begun again"
    check.before(Frame(image, 30, 9.0))
    check.before(Frame(image, 31, 9.1))
    assert check._clear is None, "nor of one that was never redacted"
    pictures = SelfCheck(bundle, interval=0.5, on_finding=Findings())
    assert samples_of(pictures, [Frame(image, n) for n in range(25)]) == [0, 10, 20]


def test_a_stream_is_never_held_up_and_the_newest_sample_is_taken(bundle: Bundle, astronaut: Image) -> None:
    free, looked = threading.Event(), []

    def slow(finding: Finding) -> None:
        looked.append(finding.index)
        free.wait(10)

    anonymize = Anonymizer(backend=FakeBackend())
    with SelfCheck(bundle, interval=1.0, on_finding=slow) as check:
        pass_through(check, Frame(astronaut, 0, 0.0), anonymize)
        until = time.monotonic() + 10
        while not looked and time.monotonic() < until:
            time.sleep(0.01)
        began = time.monotonic()
        for index in range(1, 20):
            pass_through(check, Frame(astronaut, index, float(index)), anonymize)
        assert time.monotonic() - began < 1, "the check is stuck, the stream is not"
        free.set()
    assert looked == [0, 19]


def test_a_check_that_fails_is_not_silent(bundle: Bundle, astronaut: Image) -> None:
    def broken(finding: Finding) -> None:
        raise RuntimeError("no alarm")

    anonymize = Anonymizer(backend=FakeBackend())

    def stream(frames: int) -> None:
        with SelfCheck(bundle, on_finding=broken) as check:
            for index in range(frames):
                pass_through(check, Frame(astronaut, index), anonymize)
                if index == 0 and frames > 1:
                    check._thread.join(10)
            if frames > 1:
                raise AssertionError("the stream has gone on without its check")

    for frames in (1, 2):
        with pytest.raises(BackendError, match=r"self-check failed \(RuntimeError: no alarm\)"):
            stream(frames)


@pytest.mark.parametrize(
    "setting", [{"interval": 0.0}, {"interval": float("nan")}, {"threshold": 0.0}, {"threshold": 1}]
)
def test_bad_settings_are_named(bundle: Bundle, setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(setting))} of the self-check: expected"):
        SelfCheck(bundle, on_finding=Findings(), **setting)
