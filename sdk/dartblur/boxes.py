"""Arithmetic of boxes: float32 ``[n, 4]``, xyxy in pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def outermost_of(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the boxes ``[n, 4]`` xyxy lie in no other: the same area is covered, and no face painted into a face."""
    inside = (boxes[:, None, :2] >= boxes[None, :, :2]).all(2) & (boxes[:, None, 2:] <= boxes[None, :, 2:]).all(2)
    # Of equal boxes, each of which lies in the other, the first stays.
    earlier = np.tri(len(boxes), k=-1, dtype=bool)
    kept: NDArray[np.bool_] = ~(inside & (~inside.T | earlier)).any(1)
    return kept


def outermost(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The boxes ``[n, 4]`` xyxy that lie in no other."""
    kept: NDArray[np.float32] = boxes[outermost_of(boxes)]
    return kept


def pairwise_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union ``[n, m]`` of boxes ``[n, 4]`` and ``[m, 4]`` xyxy that have an area."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.T[:, :, None], b.T
    width = (np.minimum(ax1, bx1) - np.maximum(ax0, bx0)).clip(0)
    shared = width * (np.minimum(ay1, by1) - np.maximum(ay0, by0)).clip(0)
    iou: NDArray[np.float32] = shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)
    return iou


def scale_boxes(boxes: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Boxes ``[n, 4]`` xyxy grown about their centres: twice as wide and high for a scale of 2."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
    return np.concatenate([centre - half, centre + half], 1).astype(np.float32, copy=False)


def pixel_blocks(boxes: NDArray[np.float32], height: int, width: int) -> list[int]:
    """Of ``pixelate``: blocks across each face of a frame, 8, but fewer where they'd be smaller than 4 pixels.

    A block of one pixel hides nothing. Of a box that reaches over the border only what is visible is divided.
    """
    visible = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    sides = (visible[:, 2:] - visible[:, :2]).min(1)
    return [max(1, min(_BLOCKS, int(side / _SMALLEST_BLOCK))) for side in sides.tolist()]


_BLOCKS, _SMALLEST_BLOCK = 8, 4
