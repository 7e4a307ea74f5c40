"""`Anonymizer`: a clear frame in, a frame that may leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .backends.base import Backend
from .detections import Detections
from .errors import InputError
from .frame import Frame, Image, RedactedFrame, _Gate, check_image

Method = Literal["dart", "gaussian", "pixelate", "solid"]
METHODS: tuple[Method, ...] = get_args(Method)


def outermost(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The boxes ``[n, 4]`` xyxy that lie in no other: the same area is covered, and no face painted into a face."""
    inside = (boxes[:, None, :2] >= boxes[None, :, :2]).all(2) & (boxes[:, None, 2:] <= boxes[None, :, 2:]).all(2)
    # Of equal boxes, each of which lies in the other, the first stays.
    earlier = np.tri(len(boxes), k=-1, dtype=bool)
    kept: NDArray[np.float32] = boxes[~(inside & (~inside.T | earlier)).any(1)]
    return kept


def scale_boxes(boxes: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Boxes ``[n, 4]`` xyxy grown about their centres: twice as wide and high for a scale of 2."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
    return np.concatenate([centre - half, centre + half], 1).astype(np.float32, copy=False)


class Anonymizer:
    """Finds the faces of a frame and overwrites them.

    Args:
        model: a model bundle (folder or zip), or None for the one that comes with the package.
        method: ``dart`` (learned blur), ``gaussian``, ``pixelate`` or ``solid``.
        threshold: lowest score that counts as a face, 0..1; None for the model's own.
        box_scale: how much larger than the face the overwritten box is, >= 1; None for the model's own.
        backend: what runs the model; None for the CPU.

    Raises:
        InputError: an argument is out of its range, or the bundle is broken (`BundleError`).
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        method: Method = "dart",
        threshold: float | None = None,
        box_scale: float | None = None,
        backend: Backend | None = None,
    ) -> None:
        if method not in METHODS:
            raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        if backend is None:
            from .backends.cpu import CpuBackend
            from .bundle import load_bundle

            backend = CpuBackend(load_bundle(model))
        self._backend = backend
        self.method: Method = method
        self.threshold = backend.defaults.threshold if threshold is None else threshold
        self.box_scale = backend.defaults.box_scale if box_scale is None else box_scale
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold: expected a number between 0 and 1, got {self.threshold}")
        if not 1 <= self.box_scale <= 4:
            raise InputError(f"box_scale: expected a number from 1 to 4, got {self.box_scale}")

    def __call__(self, frame: Frame | Image, *, in_place: bool = False) -> RedactedFrame:
        """Overwrites the faces of one frame.

        Args:
            frame: a `Frame`, or uint8 ``[H, W, 3]`` BGR.
            in_place: overwrite in the caller's pixels; otherwise they are copied once.

        Returns:
            The redacted frame, with the faces that were found.

        Raises:
            FrameError: the array is not such an image.
        """
        if not isinstance(frame, Frame):
            frame = Frame(check_image(frame))
        image = frame.image
        if not (in_place and image.flags.writeable and image.flags.c_contiguous):
            image = np.array(image, order="C")
        detections = self._backend.detect(image, self.threshold)
        covered = self.redact(image, detections)
        return RedactedFrame(image, frame.index, frame.time, frame.pts, detections, covered, self.method, _Gate(image))

    def redact(self, image: Image, detections: Detections) -> NDArray[np.float32]:
        """Overwrites the given faces in the image, in place; returns the boxes ``[n, 4]`` that it has covered."""
        covered = outermost(scale_boxes(detections.boxes, self.box_scale))
        self._backend.redact(image, covered, self.method)
        return covered
