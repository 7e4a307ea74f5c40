"""The fused graph of the default model finds and paints what the CPU backend does, and never leaves a box clear."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from dartblur import Anonymizer, BackendError, BundleError, FailClosedError, FrameError, load_bundle
from dartblur.anonymizer import METHODS
from dartblur.backends.cpu import CpuBackend
from dartblur.backends.fused import FusedLook, Layout, check_boxes, covered_rows, found_faces, slots_of
from dartblur.backends.fused_cpu import FusedCpuBackend
from dartblur.boxes import scale_boxes
from dartblur.detections import Detections
from dartblur.errors import InputError

BOX_TOLERANCE, SCORE_TOLERANCE = 0.05, 1e-3
"""Of boxes in pixels, between the fused graph and the CPU backend."""
PIXEL_TOLERANCE = 2
"""Of painted pixels, of 255."""


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    """A real face in three sizes, BGR, 1280x720."""
    face = skimage.data.astronaut()[..., ::-1]
    picture = np.full((720, 1280, 3), 90, np.uint8)
    picture[100:612, 300:812] = face
    picture[50:306, 1000:1256] = face[::2, ::2]
    picture[500:628, 1100:1228] = face[::4, ::4]
    return picture


@pytest.fixture(scope="module")
def fused() -> FusedCpuBackend:
    return FusedCpuBackend(load_bundle())


@pytest.fixture(scope="module")
def cpu() -> CpuBackend:
    return CpuBackend(load_bundle())


def close(image: np.ndarray, expected: np.ndarray) -> bool:
    """Alike but for single rows or columns at a box's edge, which a hundredth of a pixel can decide."""
    off = np.abs(image.astype(int) - expected).max(2) > PIXEL_TOLERANCE
    return bool(off.mean() < 1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("box_scale", [None, 1.0, 1.6])
def test_it_agrees_with_the_cpu_backend_on_real_faces(
    frame: np.ndarray, fused: FusedCpuBackend, cpu: CpuBackend, method: Any, box_scale: float | None
) -> None:
    expected = Anonymizer(backend=cpu, method=method, box_scale=box_scale)(frame)
    result = Anonymizer(backend=fused, method=method, box_scale=box_scale)(frame)
    assert len(expected.detections) >= 3
    assert len(result.detections) == len(expected.detections)
    assert np.abs(result.detections.boxes - expected.detections.boxes).max() < BOX_TOLERANCE
    assert np.abs(result.detections.scores - expected.detections.scores).max() < SCORE_TOLERANCE
    assert np.abs(result.covered - expected.covered).max() < 2 * BOX_TOLERANCE
    assert close(result.image, expected.image)
    assert (expected.image != frame).any(2).mean() > 0.01


def test_held_boxes_and_a_callers_own_are_painted_as_on_the_cpu(
    frame: np.ndarray, fused: FusedCpuBackend, cpu: CpuBackend
) -> None:
    """More of them than the graph has room for."""
    most = load_bundle().manifest.fused["held"]
    places = [(40 + 70 * (i % 16), 20 + 330 * (i // 16)) for i in range(most + 3)]
    boxes = np.array([(x, y, x + 50, y + 60 + i) for i, (x, y) in enumerate(places)], np.float32)
    faces = Detections(boxes, np.ones(len(boxes), np.float32))
    for box_scale in (None, 1.4):
        image, expected = frame.copy(), frame.copy()
        covered = Anonymizer(backend=fused, box_scale=box_scale).redact(image, faces)
        assert np.array_equal(covered, Anonymizer(backend=cpu, box_scale=box_scale).redact(expected, faces))
        assert close(image, expected)
        assert (image != frame).any(2).sum() > 0.5 * len(boxes) * 50 * 60
    held = Anonymizer(backend=fused).begin(frame, held=boxes).result()
    assert len(held.detections) >= 3, "boxes that are held are no detections"
    for x0, y0, x1, y1 in boxes.astype(int):
        assert (held.image != frame).any(2)[y0:y1, x0:x1].mean() > 0.9


def test_a_box_that_comes_late_is_covered(frame: np.ndarray, fused: FusedCpuBackend) -> None:
    image = frame.copy()
    look = fused.begin(image, 0.35)
    first = scale_boxes(look.detections().boxes, 1.2)
    look.redact(first, "dart")
    late = np.array([[600, 640, 700, 715]], np.float32)
    random = np.random.default_rng(0)
    image[640:715, 600:700] = noise = random.integers(0, 256, (75, 100, 3), np.uint8)
    look.redact(late, "dart")
    look.finish()
    assert (image[640:715, 600:700] == noise).all(2).mean() < 0.01


def test_sizes_that_the_graph_does_not_take_are_refused_with_advice(fused: FusedCpuBackend) -> None:
    class Fixed:
        def get_inputs(self) -> list[Any]:
            return [type("Input", (), {"shape": [1, 720, 1280, 3]})]

    other = FusedCpuBackend.__new__(FusedCpuBackend)
    other._session, other._layout, other.defaults = Fixed(), fused._layout, fused.defaults
    with pytest.raises(FrameError, match="expected frames of 1280x720, got 640x480: scale them, or export"):
        Anonymizer(backend=other)(np.zeros((480, 640, 3), np.uint8))


def test_a_graph_that_fails_is_named(fused: FusedCpuBackend, frame: np.ndarray) -> None:
    class Failing:
        get_inputs = fused._session.get_inputs

        def run(self, *_: Any) -> None:
            raise RuntimeError("bad node\nwith a trace")

    other = FusedCpuBackend.__new__(FusedCpuBackend)
    other._session, other._layout, other.defaults = Failing(), fused._layout, fused.defaults
    with pytest.raises(BackendError, match=r"ONNX Runtime failed on the fused graph: bad node$"):
        Anonymizer(backend=other)(frame)


def test_a_manifest_without_slots_is_refused() -> None:
    from dataclasses import replace

    manifest = load_bundle().manifest
    with pytest.raises(BundleError, match=r"expected slots and held above 0, got .*None, 4"):
        Layout.of(replace(manifest, fused={"held": 4}), "here")


class Painted:
    """A canvas of one number per pixel: which box it was covered with. The graph finds what it is told."""

    def __init__(self, boxes: list[list[float]], scores: list[float], layout: Layout) -> None:
        self.layout, self.runs, self.closed = layout, 0, 0
        self.area = np.zeros((40, 40), int)
        self.found = np.zeros((layout.slots + layout.held, 4), np.float32), np.zeros(layout.slots + layout.held, "f4")
        self.found[0][: len(boxes)] = np.reshape(boxes, (-1, 4))
        self.found[1][: len(scores)] = scores
        self.rows: Any = None

    def run(self, held: np.ndarray) -> Any:
        self.runs += 1
        boxes, scores = self.found[0].copy(), self.found[1].copy()
        boxes[self.layout.slots :] = held
        return type("Run", (), {"read": lambda _: (boxes, scores), "boxes": boxes})()

    def paste(self, run: Any, boxes: np.ndarray) -> None:
        for shown, box in zip(scale_boxes(run.boxes, self.layout.box_scale), boxes, strict=True):
            if box.any():
                assert np.allclose(shown, box, atol=0.02), "the patch of another face"
                x0, y0, x1, y1 = (*np.floor(box[:2]).astype(int), *np.ceil(box[2:]).astype(int))
                self.area[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] += 1

    def cover(self, boxes: np.ndarray, method: str) -> None:
        raise NotImplementedError

    def finish(self, rows: Any) -> None:
        self.rows = rows

    def close(self) -> None:
        self.closed += 1


LAYOUT = Layout(slots=3, held=2, patch_size=8, patch_context=1.5, box_scale=1.25)
corners = st.tuples(*[st.floats(-5, 35, width=32)] * 2, *[st.floats(1.5, 20, width=32)] * 2).map(
    lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]
)


@settings(max_examples=150)
@given(st.lists(corners, max_size=2), st.lists(corners, max_size=4), st.lists(corners, max_size=7), st.booleans())
def test_every_box_is_covered_by_a_patch_that_shows_it(
    found: list[list[float]], held: list[list[float]], others: list[list[float]], twice: bool
) -> None:
    canvas = Painted(found, [0.9, 0.8][: len(found)], LAYOUT)
    known = np.array(held, np.float32).reshape(-1, 4)
    look = FusedLook(canvas, LAYOUT, 0.5, known)
    faces = look.detections()
    assert len(faces) == len(found)
    asked = np.concatenate([scale_boxes(faces.boxes, 1.25), known, np.array(others, np.float32).reshape(-1, 4)])
    look.redact(asked, "dart")
    if twice:
        look.redact(asked[::-1], "dart")
    look.finish()
    expected = np.zeros((40, 40), bool)
    for x0, y0, x1, y1 in asked:
        columns = slice(max(0, int(np.floor(x0))), max(0, int(np.ceil(x1))))
        expected[max(0, int(np.floor(y0))) : max(0, int(np.ceil(y1))), columns] = True
    assert np.array_equal(canvas.area > 0, expected)
    rows = np.zeros(40, bool)
    for top, bottom in canvas.rows:
        rows[max(0, top) : max(0, bottom)] = True
    assert not (expected.any(1) & ~rows).any(), "a covered row isn't brought back"
    if not others and len(held) <= LAYOUT.held and len(np.unique(asked, axis=0)) == len(asked):
        assert canvas.runs == 1, "everything was known from the start"
    assert canvas.closed


def test_boxes_that_differ_by_less_than_a_patch_shows_are_each_covered() -> None:
    shown = np.array([[10, 10, 20, 20]], np.float32)
    twins = np.array([[10.004, 10, 20, 20], [9.996, 10, 20, 20]], np.float32)
    assert slots_of(twins, shown).tolist() == [0, -1]
    assert slots_of(np.zeros((0, 4), np.float32), shown).tolist() == []
    assert slots_of(twins, np.full((3, 4), np.nan, np.float32)).tolist() == [-1, -1]


@given(st.lists(st.tuples(st.floats(-5, 30), st.floats(0, 9)), max_size=8))
def test_rows_are_the_union_and_do_not_overlap(spans: list[tuple[float, float]]) -> None:
    boxes = np.array([[0, top, 1, top + height] for top, height in spans], np.float32).reshape(-1, 4)
    rows = covered_rows(boxes)
    expected = {row for box in boxes for row in range(int(np.floor(box[1])), int(np.ceil(box[3])))}
    assert {row for top, bottom in rows for row in range(top, bottom)} == expected
    assert sum(bottom - top for top, bottom in rows) == len(expected)


def output(scores: list[float], **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    boxes = np.array([[10.0 * i, 5, 10 * i + 8, 15] for i in range(len(scores))], np.float32)
    for index, value in changes.get("boxes", {}).items():
        boxes[index] = value
    return boxes, np.array(scores, np.float32)


def test_what_may_hide_a_face_fails_closed() -> None:
    nan, inf = float("nan"), float("inf")
    for scores in ([nan, 0, 0, 0, 0], [0.9, 0.8, nan, 0, 0], [0.9, 0, 0, 0, inf]):
        with pytest.raises(BackendError, match="not finite"):
            found_faces(*output(scores), 0.5, 3)
    for box in ([0, 0, nan, 5], [0, -inf, 9, 5]):
        with pytest.raises(BackendError, match="not finite"):
            found_faces(*output([0.9, 0.1, 0, 0, 0], boxes={0: box}), 0.5, 3)
    for scores in ([0.9, 0.8, 0.7, 0, 0], [0.5, 0.5, 0.5, 1, 1], [0.9, 0, 0.6, 0, 0]):
        with pytest.raises(FailClosedError, match="expected fewer than 3 faces"):
            found_faces(*output(scores), 0.5, 3)
    with pytest.raises(FailClosedError, match="expected finite boxes to overwrite"):
        check_boxes(np.array([[0, 0, nan, 4]], np.float32))


def test_slots_become_detections() -> None:
    slots, faces = found_faces(*output([0.9, 0.3, 0.2, 1, 1]), 0.25, 3)
    assert slots.tolist() == [0, 1]
    assert faces.boxes.tolist() == [[0, 5, 8, 15], [10, 5, 18, 15]]
    assert len(found_faces(*output([0.1, 0, 0, 1, 1]), 0.25, 3)[1]) == 0, "held boxes are not found ones"
    slots, faces = found_faces(*output([0.6, 0.9, 0.2, 0, 0]), 0.25, 3)
    assert slots.tolist() == [1, 0]
    assert faces.scores.tolist() == pytest.approx([0.9, 0.6])
    inverted = {0: [20, 30, 10, 30]}
    assert found_faces(*output([0.9, 0, 0, 0, 0], boxes=inverted), 0.5, 3)[1].boxes.tolist() == [[10, 30, 20, 31]]


def test_an_inverted_box_of_the_model_is_covered_too() -> None:
    canvas = Painted([[20, 30, 10, 22]], [0.9], LAYOUT)
    look = FusedLook(canvas, LAYOUT, 0.5, None)
    look.redact(scale_boxes(look.detections().boxes, 1.25), "dart")
    look.finish()
    assert canvas.area[22:30, 10:20].all()
    assert canvas.runs == 2, "its own patch is of a box turned inside out"


def test_a_canvas_that_fails_is_closed() -> None:
    class Broken(Painted):
        def run(self, held: np.ndarray) -> Any:
            raise BackendError("no")

    canvas = Broken([], [], LAYOUT)
    with pytest.raises(BackendError):
        FusedLook(canvas, LAYOUT, 0.5, None)
    assert canvas.closed
    canvas = Broken([], [], LAYOUT)
    with pytest.raises(FailClosedError):
        FusedLook(canvas, LAYOUT, 0.5, np.full((1, 4), np.nan, np.float32))
    assert canvas.closed


def test_backends_are_chosen_by_name_and_never_exchanged(tmp_path: Any) -> None:
    from dartblur.backends.loading import BackendChoice, load_backend

    assert isinstance(load_backend(BackendChoice()), CpuBackend)
    assert isinstance(load_backend(BackendChoice("cpu")), CpuBackend)
    for choice, message in (
        (("gpu",), "expected one of auto, cpu, tensorrt, onnxruntime-gpu, got 'gpu'"),
        (("tensorrt",), "expected an engine, got none: .*dartblur build"),
        (("cpu", None, tmp_path / "x.engine"), "backend cpu: expected no engine"),
        (("onnxruntime-gpu", None, tmp_path / "x.engine"), "backend onnxruntime-gpu: expected no engine"),
    ):
        with pytest.raises(InputError, match=message):
            BackendChoice(*choice)
    for name in ("auto", "tensorrt"):
        with pytest.raises(BundleError, match=r"x.engine"):
            load_backend(BackendChoice(name, None, tmp_path / "x.engine"))
