"""A face stays covered through missed detections, and a frame that can't be anonymized is a fault."""

from __future__ import annotations

import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import InputError, TooManyFacesError
from dartblur.frame import Frame, RedactedFrame
from dartblur.protection.guard import Fault, Guard, Outcome
from dartblur.protection.policy import Protection
from dartblur.protection.self_check import Finding
from dartblur.protection.zones import Zones, parse_zone

FACE = (10.0, 10.0, 30.0, 34.0)


def white(index: int, width: int = 80, height: int = 60) -> Frame:
    return Frame(np.full((height, width, 3), 255, np.uint8), index, index / 25)


def guarded(found: list[object], protection: Protection, frames: list[Frame] | None = None) -> list[Outcome]:
    """What leaves when the detector finds this in one frame after another: boxes, or an error."""
    answers = iter(found)

    def finder(_image: np.ndarray) -> np.ndarray:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return np.array(answer, np.float32).reshape(-1, 4)

    guard = Guard(Anonymizer(backend=FakeBackend(finder)), protection)
    out: list[Outcome] = []
    for frame in frames or [white(index) for index in range(len(found))]:
        guard.begin(frame)
        while len(guard) and guard.full:
            out += guard.finish()
    out += guard.drain()
    return out


def black(outcome: Outcome, box: tuple[float, ...] = FACE) -> bool:
    """Whether the box is covered to the last pixel."""
    assert isinstance(outcome, RedactedFrame)
    x0, y0, x1, y1 = map(int, box)
    return not outcome.image[y0:y1, x0:x1].any()


def test_a_face_that_is_missed_stays_covered_for_as_long_as_it_is_held():
    out = guarded([[FACE]] * 3 + [[]] * 40, Protection(hold=0.5))
    covered = [black(frame) for frame in out]
    assert all(covered[: 3 + 12])
    assert not any(covered[3 + 14 :])
    held = out[4]
    assert isinstance(held, RedactedFrame)
    assert held.coverage.reasons == ("held",)
    assert held.coverage.ids.tolist() == [1]
    assert len(held.detections) == 0


def test_without_a_hold_each_frame_stands_alone():
    out = guarded([[FACE], [], [FACE]], Protection(hold=0))
    assert [black(frame) for frame in out] == [True, False, True]


def test_a_face_keeps_its_id():
    out = guarded([[FACE], [], [[12, 10, 32, 34]]], Protection())
    ids = [frame.coverage.ids.tolist() for frame in out if isinstance(frame, RedactedFrame)]
    assert ids == [[1], [1], [1]]


@pytest.mark.parametrize("lookahead", [1, 3, 5])
def test_a_lookahead_covers_a_face_before_it_is_found(lookahead):
    out = guarded([[]] * 10 + [[FACE]] * 3, Protection(lookahead=lookahead))
    assert [frame.index for frame in out if isinstance(frame, RedactedFrame)] == list(range(13))
    assert [black(frame) for frame in out] == [False] * (10 - lookahead) + [True] * (3 + lookahead)
    first = out[10 - lookahead]
    assert isinstance(first, RedactedFrame)
    assert first.coverage.reasons == ("ahead",)


def test_a_lookahead_follows_a_face_backward():
    """It comes from the left by 4 pixels a frame and is found late; from two frames one knows how it moves."""
    at = [(float(x), 10.0, float(x) + 20, 34.0) for x in range(0, 52, 4)]
    found: list[object] = [[box] if index >= 5 else [] for index, box in enumerate(at)]
    out = guarded(found, Protection(lookahead=4))
    assert all(black(frame, box) for frame, box in list(zip(out, at, strict=True))[2:])


def test_a_lookahead_covers_a_face_that_is_held_where_it_no_longer_is():
    """It stands still, is missed while it leaps, and is found again under its id beside its held box."""
    at = [(10.0, 10.0, 30.0, 34.0)] * 12 + [(46.0, 10.0, 66.0, 34.0)] * 3
    found: list[object] = [[] if index in (12, 13) else [box] for index, box in enumerate(at)]
    out = guarded(found, Protection(lookahead=3))
    assert {number for frame in out if isinstance(frame, RedactedFrame) for number in frame.coverage.ids} == {1}
    assert all(black(frame, box) for frame, box in zip(out, at, strict=True))
    missed = out[12]
    assert isinstance(missed, RedactedFrame)
    assert missed.coverage.reasons == ("held", "ahead")


def test_what_the_self_check_finds_is_covered_in_the_frames_that_wait():
    guard = Guard(Anonymizer(backend=FakeBackend(lambda image: np.zeros((0, 4), np.float32))), Protection(lookahead=3))
    out = []
    for index in range(10):
        if index == 5:
            guard.cover_from_now_on(Finding("uncovered", np.array([FACE], np.float32), 1, 1 / 25, "clear"))
        guard.begin(white(index))
        out += guard.finish()
    out += guard.drain()
    assert [black(frame) for frame in out] == [False] * 2 + [True] * 8


def test_a_frame_whose_detector_fails_is_a_fault_and_the_next_ones_are_not():
    out = guarded([[FACE], RuntimeError("broke"), [FACE]], Protection())
    assert isinstance(out[0], RedactedFrame)
    assert isinstance(out[2], RedactedFrame)
    fault = out[1]
    assert isinstance(fault, Fault)
    assert (fault.frame.index, fault.reason, str(fault.error)) == (1, "detector-error", "broke")


@pytest.mark.parametrize("lookahead", [0, 2])
def test_faults_come_out_in_order(lookahead):
    found: list[object] = [[FACE], TooManyFacesError("33"), [FACE], RuntimeError("broke"), []]
    out = guarded(found, Protection(lookahead=lookahead))
    kinds = [outcome.reason if isinstance(outcome, Fault) else outcome.index for outcome in out]
    assert kinds == [0, "too-many-faces", 2, "detector-error", 4]


def test_a_face_is_held_through_a_fault():
    out = guarded([[FACE], RuntimeError("broke"), []], Protection())
    assert black(out[2])


def test_zones_are_covered_always_and_faces_in_the_others_never():
    zones = Zones(always=[parse_zone("0,0,8,8")], never=[parse_zone("40,0,80,60")])
    out = guarded([[FACE, (50, 10, 70, 30)]], Protection(zones=zones))
    frame = out[0]
    assert isinstance(frame, RedactedFrame)
    assert black(frame)
    assert black(frame, (0, 0, 8, 8))
    assert (frame.image[10:30, 50:70] == 255).all()
    assert frame.coverage.reasons == ("detected", "zone")
    assert len(frame.detections) == 1


def test_a_zone_outside_the_picture_is_a_fault():
    zones = Zones(always=[parse_zone("0,0,100,8")])
    out = guarded([[]], Protection(zones=zones))
    assert isinstance(out[0], Fault)
    assert isinstance(out[0].error, InputError)


def test_a_picture_of_another_size_begins_anew():
    frames = [white(0), white(1, 40, 40), white(2, 40, 40)]
    out = guarded([[FACE], [], []], Protection(), frames)
    assert [black(frame) for frame in out] == [True, False, False]


def test_what_is_given_up_does_not_come_out():
    guard = Guard(Anonymizer(backend=FakeBackend(lambda image: np.array([FACE], np.float32))), Protection(lookahead=3))
    for index in range(3):
        guard.begin(white(index))
        assert list(guard.finish()) == []
    guard.abandon()
    assert list(guard.drain()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold": -1}, "hold"),
        ({"lookahead": 1000}, "lookahead"),
        ({"on_fault": "clear"}, "on_fault: expected one of solid, hold, drop, stop, got 'clear'"),
        ({"timeout": 0.0}, "timeout"),
        ({"self_check": -1.0}, "self_check"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Protection(**options)


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_fault_leaves_room_for_other_streams(lookahead):
    """Whatever fails: the frame's look is closed, or nobody else would get a turn at a shared model."""

    class Broken:
        def before(self, frame: Frame) -> None:
            raise RuntimeError("the self-check has died")

        def after(self, redacted: RedactedFrame) -> None:
            raise AssertionError

    model = Anonymizer(backend=FakeBackend(lambda image: np.array([FACE], np.float32)), shared=True)
    guard = Guard(model, Protection(lookahead=lookahead), Broken())  # type: ignore[arg-type]
    out: list[Outcome] = []
    for index in range(5):
        guard.begin(white(index))
        out += guard.finish()
    out += guard.drain()
    assert all(isinstance(outcome, Fault) for outcome in out)
    assert black(model(white(9)))
