"""Whether two backends do the same: the same faces, and the same pixels over them.

Each frame goes through both three times over:

* each finds its own faces, and what isn't found by both, or lies or scores otherwise, is a difference;
* each overwrites its own faces: no pixel outside them may change, and inside both the mean is judged, since boxes that
  are a little apart show a little more of one side of a face;
* both overwrite the same boxes, the faces of the first and some more at the border and of odd sizes: every pixel is
  judged.

Two candidates of one face may score all but alike, and which of them wins is then anybody's guess. Where boxes differ
it is tried whether a change of a single grey level makes one of the two find the other's box; if so it isn't judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Backend, Boxes
from ..boxes import outermost, pairwise_iou, scale_boxes
from ..detections import Detections
from ..errors import FailClosedError
from ..frame import Image

MATCH_IOU = 0.5
"""Boxes that overlap at least so are of one face."""


_COUNTS = ["frames", "refused", "faces_a", "faces_b", "matched", "near_ties", "unstable", "only_a", "only_b"]


@dataclass(frozen=True, slots=True)
class Tolerances:
    """The largest differences that are allowed.

    Attributes:
        boxes: of a corner, over the longer side of its box.
        scores: of a face; also how near the threshold a face may be found by one and not by the other.
        pixels: grey levels of 255.
    """

    boxes: float
    scores: float
    pixels: float


@dataclass(frozen=True, slots=True)
class Subject:
    """One of the two that are compared.

    Attributes:
        name: for messages.
        backend: what it runs on.
        slots: it refuses frames with so many faces or more; None if it takes any number.
    """

    name: str
    backend: Backend
    slots: int | None = None


@dataclass(slots=True)
class Spread:
    """Differences, gathered: the largest, the mean, and how many there are."""

    largest: float = 0.0
    total: float = 0.0
    count: int = 0

    def add(self, values: NDArray[Any]) -> Spread:
        """These too; returns their own spread."""
        own = Spread(float(values.max(initial=0)), float(values.sum(dtype=np.float64)), values.size)
        self.largest, self.total = max(self.largest, own.largest), self.total + own.total
        self.count += own.count
        return own

    @property
    def mean(self) -> float:
        """Of all values; 0 where there are none."""
        return self.total / self.count if self.count else 0.0


@dataclass(slots=True)
class Comparison:
    """What was found out about two backends, a and b.

    Attributes:
        frames: looked at.
        refused: of these, frames with more faces than there are slots: nothing is judged there.
        faces_a, faces_b: found, of at least the threshold.
        matched: found by both, of which at least one by the threshold.
        near_ties: of these, faces that only one of them has over the threshold.
        only_a, only_b: found by one only.
        unstable: of these, boxes that jump to the other's with a single grey level; they are not judged.
        boxes, scores: differences of matched faces, as of `Tolerances`.
        pixels: grey levels, where both overwrite the same boxes.
        own_pixels: grey levels, where each overwrites its own faces and both do.
        outside: pixels outside of all boxes that were changed.
        differences: all that is past the tolerance, in words.
    """

    frames: int = 0
    refused: int = 0
    faces_a: int = 0
    faces_b: int = 0
    matched: int = 0
    near_ties: int = 0
    unstable: int = 0
    only_a: int = 0
    only_b: int = 0
    boxes: Spread = field(default_factory=Spread)
    scores: Spread = field(default_factory=Spread)
    pixels: Spread = field(default_factory=Spread)
    own_pixels: Spread = field(default_factory=Spread)
    outside: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether frames were compared and nothing is past the tolerance."""
        return self.frames > self.refused and not self.differences

    def figures(self) -> dict[str, Any]:
        """All numbers, for JSON; None for what there was nothing of."""
        figures: dict[str, Any] = {name: getattr(self, name) for name in _COUNTS}
        for name in ("boxes", "scores", "pixels", "own_pixels"):
            spread = getattr(self, name)
            figures[f"{name}_max"] = spread.largest if spread.count else None
            figures[f"{name}_mean"] = spread.mean if spread.count else None
        return figures | {"outside": self.outside}


def compare(
    a: Subject,
    b: Subject,
    frames: Iterable[tuple[str, Image]],
    *,
    threshold: float,
    box_scale: float,
    tolerances: Tolerances,
) -> Comparison:
    """Compares two backends.

    Args:
        a, b: the two; frames are looked at by one after the other.
        frames: names, and images uint8 ``[H, W, 3]`` BGR of any sizes that both take.
        threshold: lowest score that counts as a face, 0..1.
        box_scale: how much larger than the face the overwritten box is.
        tolerances: what is judged by.

    Raises:
        FrameError: one of the two takes no frames of this size.
        BackendError: one of the two failed.
    """
    found = Comparison()
    for name, image in frames:
        _Frame(found, (a, b), name, image, tolerances).judge(threshold, box_scale)
        found.frames += 1
    return found


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a backend made of a frame: faces down to a little below the threshold, and the pixels with its own faces
    overwritten.
    """

    faces: Detections
    covered: Boxes
    pixels: Image


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame, looked at by both."""

    found: Comparison
    subjects: tuple[Subject, Subject]
    name: str
    image: Image
    tolerances: Tolerances

    def judge(self, threshold: float, box_scale: float) -> None:
        a, b = (self._see(subject.backend, threshold, box_scale) for subject in self.subjects)
        if isinstance(a, _Seen) and isinstance(b, _Seen):
            self._judge_faces(a.faces, b.faces, threshold)
            self._judge_own_pixels(a, b)
            self._judge_same_boxes(a.covered, threshold)
            return
        self.found.refused += 1
        for refusal, other, subject in ((a, b, self.subjects[0]), (b, a, self.subjects[1])):
            if isinstance(refusal, FailClosedError) and isinstance(other, _Seen):
                self._judge_refusal(refusal, subject, len(other.faces))

    def _see(self, backend: Backend, threshold: float, box_scale: float) -> _Seen | FailClosedError:
        pixels = self.image.copy()
        look = backend.begin(pixels, self._lowest(threshold))
        try:
            faces = look.detections()
            covered = outermost(scale_boxes(faces.boxes[faces.scores >= threshold], box_scale))
            look.redact(covered, "dart")
            look.finish()
        except FailClosedError as error:
            return error
        finally:
            look.close()
        return _Seen(faces, covered, pixels)

    def _lowest(self, threshold: float) -> float:
        return max(1e-6, threshold - self.tolerances.scores)

    def _judge_refusal(self, refusal: FailClosedError, subject: Subject, faces: int) -> None:
        if subject.slots is None or faces < subject.slots:
            self._tell(f"refused by {subject.name} ({refusal}), and the other finds {faces} faces")

    def _judge_faces(self, a: Detections, b: Detections, threshold: float) -> None:
        found, (first, second) = self.found, self.subjects
        rows, columns = _matches(a.boxes, b.boxes)
        strong_a, strong_b = a.scores >= threshold, b.scores >= threshold
        found.faces_a += int(strong_a.sum())
        found.faces_b += int(strong_b.sum())
        found.only_a += self._tell_single(a, strong_a, rows, first.name)
        found.only_b += self._tell_single(b, strong_b, columns, second.name)
        judged = strong_a[rows] | strong_b[columns]
        rows, columns = rows[judged], columns[judged]
        found.matched += len(rows)
        found.near_ties += int((strong_a[rows] != strong_b[columns]).sum())
        differ = _box_difference(a.boxes[rows], b.boxes[columns])
        unstable = self._unstable(a.boxes[rows], b.boxes[columns], differ.max(1, initial=0), threshold)
        found.unstable += int(unstable.sum())
        boxes = found.boxes.add(differ[~unstable])
        scores = found.scores.add(np.abs(a.scores[rows] - b.scores[columns]))
        self._limit("boxes differ by {:.4f} of their side", boxes.largest, self.tolerances.boxes)
        self._limit("scores differ by {:.4f}", scores.largest, self.tolerances.scores)

    def _unstable(self, a: Boxes, b: Boxes, differ: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
        """Of boxes that differ too much, those that one of the two finds where the other does, in a frame that is all
        but the same.
        """
        unstable = np.zeros(len(a), bool)
        too_far = np.flatnonzero(differ > self.tolerances.boxes)
        for image in _shaken(self.image) if len(too_far) else ():
            for subject, wanted in zip(self.subjects, (b, a), strict=True):
                boxes = self._boxes(subject.backend, image, threshold)
                for index in too_far:
                    near = _box_difference(wanted[index][None], boxes).max(1, initial=0) <= self.tolerances.boxes
                    unstable[index] |= near.any()
        return unstable

    def _boxes(self, backend: Backend, image: Image, threshold: float) -> Boxes:
        look = backend.begin(image, self._lowest(threshold))
        try:
            return look.detections().boxes
        except FailClosedError:
            return np.zeros((0, 4), np.float32)
        finally:
            look.close()

    def _tell_single(self, faces: Detections, strong: NDArray[np.bool_], matched: NDArray[np.intp], name: str) -> int:
        single = strong.copy()
        single[matched] = False
        for box, score in zip(faces.boxes[single], faces.scores[single], strict=True):
            where = ", ".join(f"{value:.0f}" for value in box)
            self._tell(f"face [{where}] of score {score:.3f} found by {name} only")
        return int(single.sum())

    def _judge_own_pixels(self, a: _Seen, b: _Seen) -> None:
        covers = [self._coverage(seen.covered) for seen in (a, b)]
        for seen, cover, subject in zip((a, b), covers, self.subjects, strict=True):
            self._judge_outside(seen.pixels, cover, subject.name)
        # Where boxes overlap the order counts, and it may differ when scores are all but equal.
        both = (covers[0] == 1) & (covers[1] == 1)
        own = self.found.own_pixels.add(_difference(a.pixels[both], b.pixels[both]))
        self._limit("pixels of their own faces differ by {:.2f} on average", own.mean, self.tolerances.pixels)

    def _judge_same_boxes(self, covered: Boxes, threshold: float) -> None:
        boxes = self._apart(np.concatenate([covered, _probes(*self.image.shape[:2])]))
        cover, pixels = self._coverage(boxes), []
        for subject in self.subjects:
            canvas = self.image.copy()
            look = subject.backend.begin(canvas, threshold, boxes)
            try:
                look.redact(boxes, "dart")
                look.finish()
            finally:
                look.close()
            self._judge_outside(canvas, cover, subject.name)
            pixels.append(canvas[cover > 0])
        same = self.found.pixels.add(_difference(*pixels))
        self._limit("pixels of the same boxes differ by {:.0f}", same.largest, self.tolerances.pixels)

    def _judge_outside(self, pixels: Image, cover: NDArray[np.int16], name: str) -> None:
        outside = int(((pixels != self.image).any(2) & (cover == 0)).sum())
        self.found.outside += outside
        if outside:
            self._tell(f"{outside} pixels outside the boxes were changed by {name}")

    def _coverage(self, boxes: Boxes) -> NDArray[np.int16]:
        """How many boxes touch each pixel, ``[H, W]``."""
        cover = np.zeros(self.image.shape[:2], np.int16)
        for rows, columns in map(self._pixels_of, boxes):
            cover[rows, columns] += 1
        return cover

    def _pixels_of(self, box: NDArray[np.float32]) -> tuple[slice, slice]:
        """Rounded outward, clipped to the frame."""
        height, width = self.image.shape[:2]
        x0, y0 = np.floor(box[:2]).clip(0).astype(int)
        x1, y1 = np.ceil(box[2:]).clip(0, (width, height)).astype(int)
        return slice(y0, max(y0, y1)), slice(x0, max(x0, x1))

    def _apart(self, boxes: Boxes) -> Boxes:
        """Those that share no pixel with an earlier one: where boxes overlap the order counts."""
        cover, kept = np.zeros(self.image.shape[:2], bool), []
        for box in boxes:
            area = cover[self._pixels_of(box)]
            if area.size and not area.any():
                area[:] = True
                kept.append(box)
        return np.array(kept, np.float32).reshape(-1, 4)

    def _limit(self, words: str, value: float, most: float) -> None:
        if not value <= most:
            self._tell(f"{words.format(value)}, expected at most {most:g}")

    def _tell(self, difference: str) -> None:
        self.found.differences.append(f"{self.name}: {difference}")


def _shaken(image: Image) -> Iterator[Image]:
    """The image with changes of at most one grey level: brighter, darker, and noise."""
    random = np.random.default_rng(0)
    levels = [np.full(image.shape, level, np.int16) for level in (1, -1)]
    for change in levels + [random.integers(-1, 2, image.shape, np.int16) for _ in range(4)]:
        yield np.clip(image.astype(np.int16) + change, 0, 255).astype(np.uint8)


def _box_difference(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Of corners ``[n, 4]``, over the longer side of a."""
    sides = np.maximum(a[:, 2:] - a[:, :2], 1).max(1, keepdims=True)
    difference: NDArray[np.float32] = np.abs(a - b) / sides
    return difference


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int16]:
    return np.abs(a.astype(np.int16) - b.astype(np.int16))


def _probes(height: int, width: int) -> Boxes:
    """Boxes for frames of any content: in the middle, over borders and a corner, small, thin, at parts of pixels."""
    parts = np.array(
        [
            [0.43, 0.37, 0.61, 0.68],
            [-0.05, -0.08, 0.07, 0.11],
            [0.93, 0.44, 1.06, 0.73],
            [0.21, 0.91, 0.33, 1.02],
            [0.71, 0.05, 0.73, 0.08],
            [0.13, 0.31, 0.15, 0.83],
        ]
    )
    return (parts * (width, height, width, height)).astype(np.float32)


def _matches(a: Boxes, b: Boxes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of a and rows of b that are of one face, the best overlap first, each at most once."""
    overlap = pairwise_iou(a, b)
    rows: list[int] = []
    columns: list[int] = []
    for place in np.argsort(-overlap, axis=None, kind="stable").tolist():
        row, column = divmod(place, len(b))
        if overlap[row, column] < MATCH_IOU:
            break
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
    return np.array(rows, np.intp), np.array(columns, np.intp)
