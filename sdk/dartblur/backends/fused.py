"""What the backends of the fused graph share: which slots are faces, and which patch covers which box.

The graph's slots are K found faces, then M held boxes. Each slot has a patch that shows its box, grown by the model's
own box scale. Patches are pasted over boxes that the caller names; a box without a patch gets one by running the graph
again with it as a held box, so that no box is ever left clear.

Knows no device: `Canvas` is what a device does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..boxes import scale_boxes
from ..bundle import Manifest
from ..detections import Detections
from ..errors import BackendError, BundleError, FailClosedError, FrameError, TooManyFacesError
from .base import Boxes

INPUTS = ("frames", "held_boxes")
OUTPUTS = ("patches", "boxes", "scores")
"""Names of the graph's tensors."""

SAME_BOX = 0.01
"""Boxes whose corners differ by no more are the same box, pixels: its patch shows the same face."""

Rows = tuple[int, int]
"""First row and the row after the last."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The fixed sizes of a fused graph.

    Attributes:
        slots: K, most faces that are found in a frame.
        held: M, boxes that the caller may add.
        patch_size: P, side of a patch in pixels.
        patch_context: side of the area a patch shows over the side of the grown box.
        box_scale: how much the graph grows a box.
    """

    slots: int
    held: int
    patch_size: int
    patch_context: float
    box_scale: float

    @classmethod
    def of(cls, manifest: Manifest, source: str) -> Layout:
        """The layout of a bundle's graph; raises `BundleError` when the manifest doesn't say it."""
        sizes = [manifest.fused.get(name) for name in ("slots", "held")]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise BundleError(f"{source}: fused: expected slots and held above 0, got {sizes}: export the bundle again")
        geometry = (manifest.patch_size, manifest.patch_context, manifest.box_scale)
        return cls(manifest.fused["slots"], manifest.fused["held"], *geometry)

    @property
    def patches(self) -> tuple[int, int, int, int]:
        """Shape of a frame's patches: ``K + M, 3, P, P``."""
        return self.slots + self.held, 3, self.patch_size, self.patch_size

    def held_boxes(self, covered: Boxes) -> Boxes:
        """The graph's input ``[M, 4]`` that makes patches of these boxes (at most M), once the graph has grown them."""
        held = np.zeros((self.held, 4), np.float32)
        held[: len(covered)] = scale_boxes(covered, 1 / self.box_scale)
        return held


class Run(Protocol):
    """One run of the graph over a frame."""

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes ``[K + M, 4]`` and scores ``[K + M]``; waits for them."""


class Canvas(Protocol):
    """The pixels of one frame on a device, and what can be done with them, in the order of the calls."""

    def run(self, held: Boxes) -> Run:
        """Runs the graph with held boxes ``[M, 4]``; what an earlier run has made stays."""

    def paste(self, run: Run, boxes: Boxes) -> None:
        """Pastes the patches of a run over boxes ``[K + M, 4]``; those that are all zeros are left out."""

    def cover(self, boxes: Boxes, method: str) -> None:
        """Overwrites the boxes ``[n, 4]`` by a method that needs no model."""

    def finish(self, rows: Sequence[Rows]) -> None:
        """Waits for all of it, and brings these rows to the caller's image."""

    def close(self) -> None:
        """Gives the device's memory back; harmless the second time."""


class FusedLook:
    """A frame on its way through the fused graph: `Look` by means of a `Canvas`.

    Args:
        canvas: the frame; closed with the look.
        layout: of the graph.
        threshold: lowest score of a face.
        boxes: that will be covered whatever is found.
        weak: lowest score that is told of; None: the threshold.
    """

    def __init__(
        self, canvas: Canvas, layout: Layout, threshold: float, boxes: Boxes | None, weak: float | None = None
    ) -> None:
        self._canvas, self._layout, self._threshold = canvas, layout, threshold
        self._weak = threshold if weak is None else min(threshold, weak)
        self._touched: list[Boxes] = []
        self._found: Detections | None = None
        none = np.zeros((0, 4), np.float32)
        try:
            self._held = none if boxes is None else check_boxes(boxes)[: layout.held]
            self._run = canvas.run(layout.held_boxes(self._held))
        except BaseException:
            canvas.close()
            raise
        # What each slot's patch shows, as far as it's known: the boxes that were handed in, later the found ones too.
        self._shown = np.full((layout.slots + layout.held, 4), np.nan, np.float32)
        self._shown[layout.slots :][: len(self._held)] = self._held

    def detections(self) -> Detections:
        """The faces that were found."""
        if self._found is None:
            boxes, scores = self._run.read()
            found, self._found = found_faces(boxes, scores, self._threshold, self._layout.slots, self._weak)
            self._shown[found] = scale_boxes(boxes[found], self._layout.box_scale)
        return self._found

    def redact(self, boxes: Boxes, method: str) -> None:
        """Overwrites the boxes."""
        boxes = check_boxes(boxes)
        if not len(boxes):
            return
        self._touched.append(boxes)
        if method == "dart":
            self._repaint(boxes)
        else:
            self._canvas.cover(boxes, method)

    def _repaint(self, boxes: Boxes) -> None:
        layout = self._layout
        slots = slots_of(boxes, self._shown)
        pastes = [(self._run, _placed(boxes[slots >= 0], slots[slots >= 0], layout))]
        # All patches are made before any is pasted: from the pixels as they came.
        for some in _portions(boxes[slots < 0], layout.held):
            run = self._canvas.run(layout.held_boxes(some))
            pastes.append((run, _placed(some, layout.slots + np.arange(len(some)), layout)))
        for run, placed in pastes:
            if placed.any():
                self._canvas.paste(run, placed)

    def finish(self) -> None:
        """Waits, and ends the look."""
        boxes = np.concatenate([*self._touched, np.zeros((0, 4), np.float32)])
        try:
            self._canvas.finish(covered_rows(boxes))
        finally:
            self.close()

    def close(self) -> None:
        """Ends the look."""
        self._canvas.close()


def found_faces(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], threshold: float, slots: int, weak: float | None = None
) -> tuple[NDArray[np.intp], Detections]:
    """The slots of the graph's output that are faces, best first, and the faces.

    Args:
        boxes, scores: ``[K + M, 4]`` and ``[K + M]``.
        threshold: lowest score of a face.
        slots: K.
        weak: lowest score that is told of; None: the threshold.

    Raises:
        BackendError: a box or a score is not finite.
        TooManyFacesError: no slot is left, so there may be more faces than slots.
    """
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        # Such a score is below any threshold, so its face would be missed without a word.
        raise BackendError(
            "the fused graph's boxes or scores are not finite: build the engine or export the model again"
        )
    strong = np.flatnonzero(scores[:slots] >= (threshold if weak is None else weak))
    if scores[slots - 1] >= threshold:
        raise TooManyFacesError(
            f"expected fewer than {slots} faces in a frame, got {slots} or more and some may be missing: "
            "use --backend cpu, a higher threshold, or a model exported with more slots"
        )
    strong = strong[np.argsort(-scores[strong], kind="stable")]
    found = boxes[strong]
    # Whatever a model says, a face that was found has an area, so that it gets covered.
    low, high = np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])
    return strong, Detections(np.concatenate([low, np.maximum(high, low + 1)], 1), np.array(scores[strong]))


def slots_of(boxes: Boxes, shown: Boxes) -> NDArray[np.intp]:
    """For each box ``[n, 4]`` the slot whose patch shows it (``shown [S, 4]``, NaN where unknown), or -1."""
    same = (np.abs(boxes[:, None] - shown[None]) <= SAME_BOX).all(2)
    slots = np.where(same.any(1), same.argmax(1), -1)
    # A slot is pasted once: of boxes that are nearly the same the others get a patch of their own.
    first = np.zeros(len(slots), bool)
    first[np.unique(slots, return_index=True)[1]] = True
    return np.where(first, slots, -1)


def covered_rows(boxes: Boxes) -> list[Rows]:
    """The rows that the boxes touch, rounded outward, as few spans that don't overlap; not clipped to a frame."""
    spans: list[Rows] = []
    for top, bottom in sorted((int(np.floor(box[1])), int(np.ceil(box[3]))) for box in boxes):
        if spans and top <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(bottom, spans[-1][1]))
        else:
            spans.append((top, bottom))
    return spans


def check_boxes(boxes: Boxes) -> Boxes:
    """The boxes that have an area, float32 ``[n, 4]``; raises `FailClosedError` when one is not finite."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise FailClosedError(
            "expected finite boxes to overwrite, got NaN or infinity: the detector or tracker is broken"
        )
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def check_size(height: int, width: int, expected: Sequence[int | str | None], mend: str) -> None:
    """Raises `FrameError` when a frame is not of the graph's height and width, where those are numbers.

    Args:
        height, width: of the frame.
        expected: height and width of the graph; what is not a number is free.
        mend: what to do.
    """
    for actual, wanted in zip((height, width), expected, strict=True):
        if isinstance(wanted, int) and wanted > 0 and wanted != actual:
            raise FrameError(f"expected frames of {expected[1]}x{expected[0]}, got {width}x{height}: {mend}")


def _placed(boxes: Boxes, slots: NDArray[np.intp], layout: Layout) -> Boxes:
    placed = np.zeros((layout.slots + layout.held, 4), np.float32)
    placed[slots] = boxes
    return placed


def _portions(boxes: Boxes, size: int) -> list[Boxes]:
    return [boxes[start : start + size] for start in range(0, len(boxes), size)]
