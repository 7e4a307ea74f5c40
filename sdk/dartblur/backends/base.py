"""What a backend is: something that finds faces in an image and overwrites boxes of it.

A frame on its way through a backend is a `Look`. Backends of GPUs have several at once, so that a frame is uploaded
while another is looked at and a third comes back; `Backend.depth` says how many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..detections import Detections
from ..frame import Image

Boxes = NDArray[np.float32]
"""float32 ``[n, 4]``, xyxy in pixels of the frame."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the model's author chose: the score that counts as a face, and how much its box is grown."""

    threshold: float
    box_scale: float


class Look(Protocol):
    """One frame on its way through a backend; the caller leaves its pixels alone until `finish` or `close`."""

    def detections(self) -> Detections:
        """The faces that were found, best first; waits for them.

        Raises:
            FailClosedError: faces may have been missed.
            BackendError: the backend failed.
        """

    def redact(self, boxes: Boxes, method: str) -> None:
        """Overwrites the boxes (they may reach over the border) by ``dart``, ``gaussian``, ``pixelate`` or ``solid``.

        Any boxes will do, whether they were found or not.
        """

    def finish(self) -> None:
        """Waits until the image that was handed in has the overwritten pixels, and ends the look."""

    def close(self) -> None:
        """Ends the look, finished or not; the image may be left half overwritten. Harmless when it has ended."""


class Backend(Protocol):
    """Runs a model on one kind of device; for one thread at a time unless `at_once` says more.

    Attributes:
        defaults: the model's own threshold and box scale.
        model_name: name and version of the model, for records.
        depth: looks that may be open at once.
        at_once: threads that may use it at the same time, each with one look.
        gpu_frames: whether `begin` takes frames in GPU memory.
    """

    @property
    def defaults(self) -> Defaults: ...  # noqa: D102

    @property
    def model_name(self) -> str: ...  # noqa: D102

    @property
    def depth(self) -> int: ...  # noqa: D102

    @property
    def at_once(self) -> int: ...  # noqa: D102

    @property
    def gpu_frames(self) -> bool: ...  # noqa: D102

    def begin(
        self, image: Image | Any, threshold: float, boxes: Boxes | None = None, weak: float | None = None
    ) -> Look:
        """Starts to look at an image, and returns at once where the device allows it.

        Args:
            image: uint8 ``[H, W, 3]`` BGR, contiguous and writeable; overwritten in place.
            threshold: lowest score that counts as a face.
            boxes: what will be overwritten besides the faces that are found, such as the boxes of a tracker. They save
                time here; `Look.redact` is what overwrites.
            weak: lowest score that is told of, where that is below the threshold. Of such faces some may be missing.
        """

    def close(self) -> None:
        """Frees the device; looks that are open end. Harmless the second time."""


class BackendWrapper:
    """What a backend that stands before another one, and has one frame under way, tells of it."""

    depth = at_once = 1

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def defaults(self) -> Defaults:
        """Those of the backend."""
        return self._backend.defaults

    @property
    def model_name(self) -> str:
        """That of the backend."""
        return self._backend.model_name

    @property
    def gpu_frames(self) -> bool:
        """Whether the backend takes frames in GPU memory."""
        return self._backend.gpu_frames


class Synchronous(Protocol):
    """What `WholeLook` needs of a backend that does one thing after the other."""

    def detect(self, image: Image, threshold: float) -> Detections:
        """Faces of an image with at least this score."""

    def redact(self, image: Image, boxes: Boxes, method: str) -> None:
        """Overwrites the boxes of the image, in place."""


class WholeLook:
    """The look of a backend that does one thing after the other: nothing is done before it is asked for."""

    def __init__(self, backend: Synchronous, image: Image, threshold: float, weak: float | None = None) -> None:
        self._backend, self._image = backend, image
        self._threshold = threshold if weak is None else min(threshold, weak)
        self._found: Detections | None = None

    def detections(self) -> Detections:
        """The faces that were found."""
        if self._found is None:
            self._found = self._backend.detect(self._image, self._threshold)
        return self._found

    def redact(self, boxes: Boxes, method: str) -> None:
        """Overwrites the boxes."""
        self._backend.redact(self._image, boxes, method)

    def finish(self) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """Nothing is held."""
