from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st

from dartblur import Anonymizer, BackendError, FrameError, InputError, RedactedFrame, load_bundle
from dartblur.anonymizer import METHODS, outermost, scale_boxes
from dartblur.backends.cpu import CpuBackend
from dartblur.backends.fake import FakeBackend
from dartblur.coverage import Coverage
from dartblur.detections import Detections
from dartblur_ops import solid

FACE = (170, 60, 285, 225)
"""Where the astronaut's face is: x0, y0, x1, y1."""


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    """A real face, BGR, uint8 [512, 512, 3]."""
    return np.ascontiguousarray(skimage.data.astronaut()[..., ::-1])


def covers(box: np.ndarray) -> bool:
    """Does the box hold the eyes, the nose and the mouth?"""
    return bool(box[0] < 195 and box[1] < 95 and box[2] > 255 and box[3] > 170)


@pytest.mark.parametrize("method", METHODS)
def test_a_real_face_is_found_and_overwritten(astronaut: np.ndarray, method: str) -> None:
    result = Anonymizer(method=method)(astronaut)  # type: ignore[arg-type]
    assert result.method == method
    best = result.detections.boxes[0]
    assert covers(best), f"{best} does not hold the face"
    inner = (slice(95, 170), slice(195, 255))
    # The fine detail (what stays after a light blur is taken away) is gone.
    assert detail(result.image[inner]) < 0.5 * detail(astronaut[inner])
    changed = (result.image != astronaut).any(2)
    assert not changed[300:, :100].any(), "pixels far from the face stay"
    assert not changed[:50, 400:].any()


def detail(image: np.ndarray) -> float:
    import cv2

    smooth = cv2.GaussianBlur(image, (0, 0), 2)
    return float(np.abs(image.astype(np.float32) - smooth).mean())


def test_the_callers_frame_is_copied_once_or_not_at_all(astronaut: np.ndarray) -> None:
    anonymize = Anonymizer()
    untouched = astronaut.copy()
    redacted = anonymize(untouched)
    assert np.array_equal(untouched, astronaut)
    assert not np.shares_memory(redacted.image, untouched)
    same = anonymize(untouched, in_place=True)
    assert same.image is untouched
    assert np.array_equal(same.image, redacted.image)


def test_any_layout_gives_the_same_picture(astronaut: np.ndarray) -> None:
    anonymize = Anonymizer()
    expected = anonymize(astronaut).image
    flipped = astronaut[::-1].copy()[::-1]
    for frame in (np.asfortranarray(astronaut), flipped):
        assert np.array_equal(anonymize(frame).image, expected)
        assert np.array_equal(frame, astronaut), "the caller's own are untouched"


def test_in_place_a_view_is_overwritten_where_it_lies(astronaut: np.ndarray) -> None:
    anonymize = Anonymizer()
    expected = anonymize(astronaut).image
    whole = np.zeros((700, 700, 3), np.uint8)
    height, width = astronaut.shape[:2]
    window = whole[50 : 50 + height, 60 : 60 + width]
    for view in (window, np.zeros_like(astronaut)[::-1], np.asfortranarray(astronaut)):
        view[:] = astronaut
        redacted = anonymize(view, in_place=True)
        assert np.array_equal(view, expected), "whoever goes on with the view finds no clear face"
        assert np.array_equal(redacted.image, expected)


def test_in_place_what_cannot_be_written_is_refused(astronaut: np.ndarray) -> None:
    read_only = astronaut.copy()
    read_only.flags.writeable = False
    with pytest.raises(FrameError, match="in_place: expected pixels that can be written, got a read-only array"):
        Anonymizer()(read_only, in_place=True)
    assert np.array_equal(Anonymizer()(read_only).image, Anonymizer()(astronaut).image)


def test_faces_at_every_border_are_covered_to_the_border() -> None:
    """The box is found partly outside; no pixel that it touches stays."""
    frame = np.full((120, 160, 3), 200, np.uint8)
    for box in ([-20, 30, 30, 90], [130, 30, 180, 90], [50, -30, 100, 30], [50, 100, 100, 150], [-5, -5, 500, 500]):
        for method in METHODS:
            random = np.random.default_rng(0)
            noisy = random.integers(0, 256, frame.shape, np.uint8)
            anonymize = Anonymizer(method=method)
            picture = noisy.copy()
            anonymize.redact(picture, Detections(np.array([box], np.float32), np.ones(1, np.float32)))
            x0, y0, x1, y1 = (max(0, box[0]), max(0, box[1]), min(160, box[2]), min(120, box[3]))
            # A pixel of noise survives by chance in a channel, but no line of them does.
            same = (picture == noisy).all(2)[y0:y1, x0:x1]
            for edge in (same[0], same[-1], same[:, 0], same[:, -1], same):
                assert edge.mean() < 0.1, (method, box)


@pytest.mark.parametrize("side", [3, 6, 10, 20])
def test_small_faces_are_overwritten_by_every_method(side: int) -> None:
    noisy = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    face = Detections(np.array([[8, 8, 8 + side, 8 + side]], np.float32), np.ones(1, np.float32))
    for method in METHODS:
        picture = noisy.copy()
        Anonymizer(method=method).redact(picture, face)
        same = (picture == noisy).all(2)[8 : 8 + side, 8 : 8 + side]
        assert same.mean() < 0.2, method


def test_no_face_no_change() -> None:
    frame = np.full((90, 120, 3), 127, np.uint8)
    result = Anonymizer()(frame)
    assert len(result.detections) == 0
    assert np.array_equal(result.image, frame)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (33, 640), (2000, 40)])
def test_frames_of_any_size(shape: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert Anonymizer()(frame).image.shape == frame.shape


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        "frame.png",
    ],
)
def test_what_is_not_a_frame_is_named(frame: object) -> None:
    with pytest.raises(FrameError, match=r"expected .*uint8 BGR, got "):
        Anonymizer(backend=FakeBackend())(frame)  # type: ignore[arg-type]


def test_arguments_out_of_range_are_named() -> None:
    with pytest.raises(InputError, match="method: expected one of dart, gaussian, pixelate, solid, got 'blur'"):
        Anonymizer(method="blur", backend=FakeBackend())  # type: ignore[arg-type]
    for threshold in (0, 1, -1, float("nan")):
        with pytest.raises(InputError, match="threshold: expected"):
            Anonymizer(threshold=threshold, backend=FakeBackend())
    with pytest.raises(InputError, match="box_scale: expected"):
        Anonymizer(box_scale=0.9, backend=FakeBackend())


def test_only_the_anonymizer_makes_redacted_frames(astronaut: np.ndarray) -> None:
    with pytest.raises(TypeError, match="made by Anonymizer only"):
        RedactedFrame(astronaut, 0, 0.0, None, 0.0, Detections.empty(), Coverage.empty(), "none", gate=None)
    redacted = Anonymizer(backend=FakeBackend())(astronaut)
    with pytest.raises(TypeError, match="made by Anonymizer only"):
        dataclasses.replace(redacted, image=astronaut)


def test_a_box_over_the_border_is_pixelated_where_it_is_seen() -> None:
    noisy = np.random.default_rng(2).integers(0, 256, (100, 100, 3), np.uint8)
    picture = noisy.copy()
    Anonymizer(method="pixelate").redact(
        picture, Detections(np.array([[-90, 0, 8, 100]], np.float32), np.ones(1, np.float32))
    )
    assert (picture == noisy).all(2)[:, :8].mean() < 0.05


@pytest.mark.parametrize(
    ("boxes", "message"),
    [([[5, 5, 5, 9]], "no area"), ([[9, 9, 5, 5]], "no area"), ([[0, 0, float("nan"), 5]], "finite")],
)
def test_detections_that_could_not_be_covered_are_refused(boxes: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detections(np.array(boxes, np.float32), np.ones(1, np.float32))


class Broken:
    """A network that says what it is told."""

    def __init__(self, boxes: list[list[float]], scores: list[float]) -> None:
        self.answer = [np.array([boxes], np.float32), np.array([scores], np.float32)]

    def run(self, *_: object) -> list[np.ndarray]:
        return self.answer


def test_a_broken_network_fails_closed() -> None:
    """An inverted or flat box is covered, a score or box that is no number stops."""
    backend = CpuBackend(load_bundle())
    frame = np.full((640, 640, 3), 200, np.uint8)
    backend._detector = Broken([[300, 300, 100, 100], [500, 500, 500, 520]], [0.9, 0.8])
    redacted = Anonymizer(method="solid", backend=backend)(frame)
    assert len(redacted.detections) == 2
    assert not redacted.image[100:300, 100:300].any()
    assert not redacted.image[500:520, 500].any()
    for boxes, scores in (([[0, 0, 9, 9]], [float("nan")]), ([[0, 0, float("inf"), 9]], [0.9])):
        backend._detector = Broken(boxes, scores)
        with pytest.raises((BackendError, ValueError), match="finite"):
            Anonymizer(backend=backend)(frame)


def test_a_lower_threshold_finds_no_fewer(astronaut: np.ndarray) -> None:
    counts = [len(Anonymizer(threshold=threshold)(astronaut).detections) for threshold in (0.9, 0.5, 0.1)]
    assert counts == sorted(counts)


def test_scaling_boxes() -> None:
    assert scale_boxes(np.array([[10, 20, 30, 60]], np.float32), 1.5).tolist() == [[5, 10, 35, 70]]
    assert scale_boxes(np.zeros((0, 4), np.float32), 2).shape == (0, 4)


boxes_lists = st.lists(st.tuples(*[st.integers(-4, 20)] * 4), max_size=8)


@given(boxes_lists)
def test_boxes_inside_others_go_and_the_same_area_is_covered(drawn: list[tuple[int, int, int, int]]) -> None:
    boxes = np.array(drawn, np.float32).reshape(-1, 4)
    kept = outermost(boxes)

    def area(some: np.ndarray) -> np.ndarray:
        image = np.zeros((16, 16, 3), np.uint8)
        solid(image, some, (1, 1, 1))
        return image

    assert np.array_equal(area(kept), area(boxes))
    assert len(outermost(kept)) == len(kept)


def test_a_box_that_is_found_twice_stays_once() -> None:
    boxes = np.array([[2, 2, 4, 4], [0, 0, 9, 9], [0, 0, 9, 9], [5, 5, 12, 9]], np.float32)
    assert outermost(boxes).tolist() == [[0, 0, 9, 9], [5, 5, 12, 9]]


@pytest.mark.parametrize("broken", ["boxes", "scores"])
def test_a_model_that_says_nan_is_an_error_and_no_missed_face(broken: str, astronaut: np.ndarray) -> None:
    backend = CpuBackend(load_bundle())

    class Broken:
        def run(self, names: None, inputs: dict[str, np.ndarray], *, real=backend._detector) -> list[np.ndarray]:
            boxes, scores = real.run(names, inputs)
            (boxes if broken == "boxes" else scores)[0, 0] = np.nan
            return [boxes, scores]

    backend._detector = Broken()
    with pytest.raises(BackendError, match="boxes or scores are not finite"):
        Anonymizer(backend=backend)(astronaut)
