"""Average precision of a detector at one IoU, with faces that do not count.

An ignored face is neither missed when it isn't found nor a false alarm when it is; detections that are
themselves out of the size range and match nothing don't count either (COCO's area ranges do the same).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PrecisionRecall:
    """A precision-recall curve.

    Attributes:
        average_precision: area under the monotone curve, 0..1 (all points, as in VOC 2010 and WIDER FACE).
        precision, recall, score: the curve, one entry for each counted detection by falling score.
        faces: number of faces that count.
    """

    average_precision: float
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    score: NDArray[np.float64]
    faces: int


def iou_matrix(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU ``[A, B]`` of xyxy boxes; 0 where a box is empty."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.maximum(bottom_right - top_left, 0).prod(-1)
    area_a = np.maximum(a[:, 2:] - a[:, :2], 0).prod(-1)
    area_b = np.maximum(b[:, 2:] - b[:, :2], 0).prod(-1)
    union = area_a[:, None] + area_b[None] - overlap
    iou: NDArray[np.float32] = (overlap / np.maximum(union, 1e-9)).astype(np.float32)
    return iou


def average_precision(
    detections: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    faces: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_]]],
    iou: float = 0.5,
    smallest: float = 0.0,
) -> PrecisionRecall:
    """AP over images.

    Args:
        detections: for each image ``boxes [n, 4]`` xyxy and ``scores [n]``.
        faces: for each image ``boxes [m, 4]`` and ``ignored [m]``.
        iou: smallest IoU of a match.
        smallest: faces and unmatched detections with a smaller square root of area, pixels, are ignored.
    """
    if len(detections) != len(faces):
        raise ValueError(f"expected as many images in both, got {len(detections)} and {len(faces)}")
    scores: list[float] = []
    hits: list[bool] = []
    total = 0
    for (boxes, confidence), (truth, ignored) in zip(detections, faces, strict=True):
        ignore = ignored | (_size(truth) < smallest)
        total += int((~ignore).sum())
        for index, match in _match(boxes, confidence, truth, ignore, iou):
            if match is None and _size(boxes[index : index + 1])[0] < smallest:
                continue
            if match is not None and ignore[match]:
                continue
            scores.append(float(confidence[index]))
            hits.append(match is not None)
    return _curve(np.array(scores), np.array(hits, bool), total)


def _match(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    truth: NDArray[np.float32],
    ignore: NDArray[np.bool_],
    threshold: float,
) -> list[tuple[int, int | None]]:
    """Greedy by falling score: each detection takes the best free face that counts, else an ignored one."""
    overlaps = iou_matrix(boxes, truth)
    free = np.ones(len(truth), bool)
    matches: list[tuple[int, int | None]] = []
    for index in np.argsort(-scores, kind="stable"):
        best: int | None = None
        for candidates in (np.flatnonzero(free & ~ignore), np.flatnonzero(ignore)):
            if len(candidates):
                candidate = int(candidates[overlaps[index, candidates].argmax()])
                if overlaps[index, candidate] >= threshold:
                    best = candidate
                    break
        if best is not None and not ignore[best]:
            free[best] = False
        matches.append((int(index), best))
    return matches


def _curve(scores: NDArray[np.float64], hits: NDArray[np.bool_], total: int) -> PrecisionRecall:
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(hits[order])
    recall = found / max(total, 1)
    precision = found / np.arange(1, len(order) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    area = float(np.sum(np.diff(recall, prepend=0.0) * envelope)) if total else float("nan")
    return PrecisionRecall(area, precision, recall, scores[order], total)


def _size(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    size: NDArray[np.float32] = np.sqrt(sides[:, 0] * sides[:, 1])
    return size
