"""What a backend is: something that finds faces in an image and overwrites boxes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..detections import Detections
from ..frame import Image


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the model's author chose: the score that counts as a face, and how much its box is grown."""

    threshold: float
    box_scale: float


class Backend(Protocol):
    """Runs a model on one kind of device."""

    @property
    def defaults(self) -> Defaults:
        """The model's own threshold and box scale."""

    @property
    def model_name(self) -> str:
        """Name and version of the model, for records."""

    def detect(self, image: Image, threshold: float) -> Detections:
        """Faces of an image with at least this score."""

    def redact(self, image: Image, boxes: NDArray[np.float32], method: str) -> None:
        """Overwrites the boxes ``[n, 4]`` (xyxy, pixels, may reach over the border) of the image, in place."""
