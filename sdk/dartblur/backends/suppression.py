"""From a detector's candidates, of which many show one face, to faces."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ..boxes import pairwise_iou
from ..detections import Detections
from .base import Boxes

VOTE_SCORE, VOTE_IOU = 0.1, 0.5
"""Candidates from this score on that overlap a face's best one by more than this have a vote on where its box is.

The best score is not always that of the best box, and the errors of the others are as often to one side as to the
other. The limit is not the threshold, so that a box doesn't depend on what the user asks for.
"""


def faces_of(
    boxes: Boxes, scores: NDArray[np.float32], cut: NDArray[np.bool_], threshold: float, iou: float
) -> Detections:
    """The faces that candidates show, best first: greedy non-maximum suppression, then box voting (Gidaris and
    Komodakis, ICCV 2015): each box is the mean of those that overlap it, weighted by score times overlap.

    Args:
        boxes, scores: candidates ``[n, 4]``, xyxy with an area, and ``[n]``: all from `VOTE_SCORE` and `threshold` on.
        cut: which of them, ``[n]``, may show part of a face only: they come after all others and have no vote.
        threshold: the lowest score of a face.
        iou: candidates that overlap more are one face.
    """
    strong = np.flatnonzero(scores >= threshold)
    if not len(strong):
        return Detections.empty()
    order = np.where(cut, scores / 2, (1 + scores) / 2)[strong]
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)[strong]
    kept = strong[np.asarray(cv2.dnn.NMSBoxes(sides.tolist(), order.tolist(), 0.0, iou), int).reshape(-1)]
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    voters = np.flatnonzero((scores >= VOTE_SCORE) & ~cut)
    return Detections(_voted(boxes[kept], boxes[voters], scores[voters]), scores[kept])


def _voted(boxes: Boxes, voters: Boxes, scores: NDArray[np.float32]) -> Boxes:
    """The boxes ``[n, 4]`` as the voters see them; as they are where none overlaps enough."""
    overlap = pairwise_iou(boxes, voters)
    weights = np.where(overlap > VOTE_IOU, overlap * scores, 0)
    total = weights.sum(1, keepdims=True)
    mean = weights @ voters / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, boxes).astype(np.float32, copy=False)
