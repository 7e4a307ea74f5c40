"""Decoded images in memory: small training sets fit, and decoding JPEGs costs more than augmenting them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .labels import DataError, FaceImage


def read_bgr(path: Path) -> NDArray[np.uint8]:
    """The image as uint8 ``[H, W, 3]`` BGR; raises `DataError` when it can't be read."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: expected a readable image, OpenCV could not decode it")
    return image.astype(np.uint8, copy=False)


class ImageCache:
    """All images of some records, decoded once; index it as the records."""

    def __init__(self, records: Sequence[FaceImage], threads: int = 2) -> None:
        with ThreadPoolExecutor(threads) as pool:
            self._images = list(pool.map(lambda record: read_bgr(record.path), records))

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self._images[index]
