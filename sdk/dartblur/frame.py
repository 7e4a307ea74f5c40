"""The two kinds of picture: `Frame` is clear, `RedactedFrame` may leave.

Sinks take only the second. It is made by an `Anonymizer`, or by one of the two functions here that use no pixel of the
clear frame. So a clear frame can't reach a sink by mistake.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coverage import Coverage
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
        captured: when it came from the source, on the clock of `time.monotonic`.
    """

    image: Image
    index: int = 0
    time: float = 0.0
    pts: int | None = None
    captured: float = field(default_factory=monotonic)

    def __post_init__(self) -> None:
        check_image(self.image)


@dataclass(frozen=True, slots=True)
class RedactedFrame:
    """A picture that may leave: its faces have been overwritten.

    Attributes:
        image: uint8 ``[H, W, 3]`` BGR.
        index, time, pts, captured: those of the clear frame.
        detections: the faces, where they were found and how surely.
        coverage: what was overwritten, and why: boxes are larger than faces by the box scale.
        method: how it was overwritten: ``dart``, ``gaussian``, ``pixelate`` or ``solid``.
        fault: why the picture is not that of the frame: it shows one colour, or the frame before it. None: it is.
    """

    image: Image
    index: int
    time: float
    pts: int | None
    captured: float
    detections: Detections
    coverage: Coverage
    method: str
    fault: str | None = field(default=None, kw_only=True)
    gate: Any = field(repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.gate, _Gate) or self.gate.image is not self.image:
            raise TypeError("a RedactedFrame is made by Anonymizer only: hand it the clear frame")

    @property
    def covered(self) -> NDArray[np.float32]:
        """float32 ``[n, 4]``, xyxy pixels: what was overwritten."""
        return self.coverage.boxes


FAULT_COLOUR = (96, 96, 96)
"""Of a frame that is covered as a whole, BGR: not black, so that it isn't taken for a dark or dead camera."""


def cover_whole(frame: Frame, fault: str) -> RedactedFrame:
    """A picture of one colour in place of the frame; no pixel of it is used."""
    height, width = frame.image.shape[:2]
    image = np.empty((height, width, 3), np.uint8)
    image[:] = FAULT_COLOUR
    return _in_place_of(frame, image, "solid", fault)


def repeat(last: RedactedFrame, frame: Frame, fault: str) -> RedactedFrame:
    """The redacted picture before it in place of the frame; no pixel of the frame is used."""
    return _in_place_of(frame, last.image, last.method, fault)


def _in_place_of(frame: Frame, image: Image, method: str, fault: str) -> RedactedFrame:
    nothing, uncovered = Detections.empty(), Coverage.empty()
    return RedactedFrame(
        image,
        frame.index,
        frame.time,
        frame.pts,
        frame.captured,
        nothing,
        uncovered,
        method,
        fault=fault,
        gate=_Gate(image),
    )
