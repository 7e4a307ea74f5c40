"""A backend that finds faces where it is told, for tests of everything around it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..detections import Detections
from ..frame import Image
from .base import Boxes, Defaults, WholeLook


class FakeBackend:
    """Finds what `finder` says and overwrites with black.

    Args:
        finder: maps an image to boxes ``[n, 4]``; they get a score of 0.9. None finds nothing.
    """

    defaults = Defaults(threshold=0.5, box_scale=1.0)
    model_name = "fake"
    depth = at_once = 1
    gpu_frames = False

    def __init__(self, finder: Callable[[Image], NDArray[np.float32]] | None = None) -> None:
        self._finder = finder

    def begin(self, image: Image, threshold: float, boxes: Boxes | None = None, weak: float | None = None) -> WholeLook:
        """A look at an image."""
        return WholeLook(self, image, threshold, weak)

    def close(self) -> None:
        """Nothing is held."""

    def detect(self, image: Image, threshold: float) -> Detections:
        """The boxes of the finder."""
        if self._finder is None:
            return Detections.empty()
        boxes = np.asarray(self._finder(image), np.float32).reshape(-1, 4)
        return Detections(boxes, np.full(len(boxes), 0.9, np.float32))

    def redact(self, image: Image, boxes: NDArray[np.float32], method: str) -> None:
        """Black over every pixel that a box touches."""
        for x0, y0, x1, y1 in boxes:
            rows = slice(max(0, int(np.floor(y0))), max(0, int(np.ceil(y1))))
            image[rows, max(0, int(np.floor(x0))) : max(0, int(np.ceil(x1)))] = 0
