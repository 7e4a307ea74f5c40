"""Training samples as the published DartBlur trainer makes them (Jiang et al., CVPR 2023).

The whole image is stretched to a random aspect ratio, nearly fills a grey square, and may be mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .cache import ImageSet
from .samples import DrawnSamples, Sample, clip, flip

FILL = 128
"""Grey of the area that no image covers."""

JITTER = 0.3
SCALE = (0.95, 1.05)


class PublishedSamples(DrawnSamples):
    """The published augmentation; faces whose centre leaves the square, or of at most a pixel there, are left out.

    Args:
        sets: data sets.
        weights: how often an image is drawn from each of them.
        size: side of the square samples, pixels.
        seed: with the number of a sample it fixes the sample.
    """

    def __init__(self, sets: Sequence[ImageSet], weights: Sequence[float], size: int, seed: int) -> None:
        super().__init__(sets, weights, seed)
        self._size = size

    def _sample(self, random: np.random.Generator, index: int) -> Sample:
        record, image = self._draw(random, index)
        size = self._size
        width, height = self._stretch(random)
        # Both may be negative: then a strip at the edge is cut off.
        x, y = (int(random.random() * (size - length)) for length in (width, height))
        canvas = Image.new("RGB", (size, size), (FILL, FILL, FILL))
        canvas.paste(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC), (x, y))
        pixels = np.array(canvas)  # Pillow doesn't know that it is BGR, nor does it matter

        scale = np.array([width / image.shape[1], height / image.shape[0]] * 2, np.float32)
        faces = record.boxes * scale + np.array([x, y, x, y], np.float32)
        if random.random() < 0.5:
            pixels, faces = flip(pixels, faces)
        centre = (faces[:, :2] + faces[:, 2:]) / 2
        faces = clip(faces, (0, 0, size, size))
        seen = ((centre > 0) & (centre < size) & (faces[:, 2:] - faces[:, :2] > 1)).all(1)
        return pixels, faces[seen], record.ignored[seen]

    def _stretch(self, random: np.random.Generator) -> tuple[int, int]:
        """Width and height that the image is stretched to, whatever its own aspect ratio."""
        aspect = random.uniform(1 - JITTER, 1 + JITTER) / random.uniform(1 - JITTER, 1 + JITTER)
        longer = int(random.uniform(*SCALE) * self._size)
        return (int(longer * aspect), longer) if aspect < 1 else (longer, int(longer / aspect))
