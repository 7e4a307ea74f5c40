"""Pictures of another size put into the one that a stream began with."""

from __future__ import annotations

import cv2
import numpy as np

from ...frame import Image


def even(size: int) -> int:
    """The next even number: video stores colours for two pixels at a time."""
    return size + size % 2


def fit(image: Image, width: int, height: int) -> Image:
    """The whole picture, its shape kept, in the middle of one of another size; black around it.

    A picture that lacks one column or row is not scaled: its border is repeated.

    Args:
        image: uint8 ``[h, w, 3]``.
        width, height: what is wanted, in pixels, >= 1.

    Returns:
        uint8 ``[height, width, 3]``; the image itself where it fits already.
    """
    h, w = image.shape[:2]
    missing_columns, missing_rows = width - w, height - h
    if missing_columns in (0, 1) and missing_rows in (0, 1):
        if not missing_columns and not missing_rows:
            return image
        return np.pad(image, ((0, missing_rows), (0, missing_columns), (0, 0)), mode="edge")
    scale = min(width / w, height / h)
    inner_w, inner_h = min(width, max(1, round(w * scale))), min(height, max(1, round(h * scale)))
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner_w) // 2, (height - inner_h) // 2
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + inner_h, left : left + inner_w] = cv2.resize(image, (inner_w, inner_h), interpolation=how)
    return canvas
