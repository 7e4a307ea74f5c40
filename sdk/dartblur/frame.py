"""The two kinds of picture: `Frame` is clear, `RedactedFrame` may leave.

Sinks take only the second, and only an `Anonymizer` makes it, so a clear frame can't reach a sink by mistake.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .detections import Detections
from .errors import FrameError

Image = NDArray[np.uint8]
"""Pixels: uint8 ``[H, W, 3]``, BGR, 0..255."""


class _Gate:
    """The anonymizer's word that it has overwritten these pixels, and no others."""

    __slots__ = ("image",)

    def __init__(self, image: Image) -> None:
        self.image = image


def check_image(image: Any) -> Image:
    """The image as it is when it is uint8 ``[H, W, 3]`` and not empty; raises `FrameError` otherwise."""
    if not isinstance(image, np.ndarray):
        raise FrameError(f"expected a NumPy array [H, W, 3] uint8 BGR, got {type(image).__name__}: convert it first")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        shape = list(image.shape)
        raise FrameError(f"expected an image [H, W, 3] uint8 BGR, got {shape} {image.dtype}: convert it first")
    return image


@dataclass(frozen=True, slots=True)
class Frame:
    """A clear picture, as it came from a source.

    Attributes:
        image: uint8 ``[H, W, 3]`` BGR.
        index: number of the frame in its source, from 0.
        time: seconds since the source began.
        pts: the time stamp as the container has it, in the source's time base; None where there is none.
    """

    image: Image
    index: int = 0
    time: float = 0.0
    pts: int | None = None

    def __post_init__(self) -> None:
        check_image(self.image)


@dataclass(frozen=True, slots=True)
class RedactedFrame:
    """A picture that may leave: its faces have been overwritten.

    Attributes:
        image: uint8 ``[H, W, 3]`` BGR.
        index, time, pts: those of the clear frame.
        detections: the faces, where they were found and how surely.
        covered: float32 ``[n, 4]``, xyxy pixels: what was overwritten, the faces' boxes grown by the box scale.
        method: how they were overwritten: ``dart``, ``gaussian``, ``pixelate`` or ``solid``.
    """

    image: Image
    index: int
    time: float
    pts: int | None
    detections: Detections
    covered: NDArray[np.float32]
    method: str
    gate: Any = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.gate, _Gate) or self.gate.image is not self.image:
            raise TypeError("a RedactedFrame is made by Anonymizer only: hand it the clear frame")
