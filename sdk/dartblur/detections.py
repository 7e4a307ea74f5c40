"""Faces that were found: boxes and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces of one frame.

    Attributes:
        boxes: float32 ``[n, 4]``, xyxy in pixels of the frame, where the face is; the area that is
            overwritten is larger by the anonymizer's box scale.
        scores: float32 ``[n]``, 0..1, sorted from high to low.
        ids: int64 ``[n]``, the track that each belongs to, from 1; None where nothing tracks. Detections of one track
            are parts of one face.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4 or self.scores.shape != self.boxes.shape[:1]:
            raise ValueError(
                f"expected boxes [n, 4] and scores [n], got {list(self.boxes.shape)} and {list(self.scores.shape)}"
            )
        if self.ids is not None and self.ids.shape != self.scores.shape:
            raise ValueError(f"expected an id for each of {len(self.scores)} faces, got {list(self.ids.shape)}")
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            raise ValueError("expected finite boxes and scores, got NaN or infinity: the detector is broken")
        if not (self.boxes[:, 2:] > self.boxes[:, :2]).all():
            # A face that covers no pixel would count as found and stay clear.
            raise ValueError("expected boxes with x0 < x1 and y0 < y1, got a box of no area: the detector is broken")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def faces(self) -> int:
        """How many different faces they are."""
        return len(self) if self.ids is None else len(np.unique(self.ids))

    @classmethod
    def empty(cls) -> Detections:
        """No face."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def to_supervision(self) -> supervision.Detections:
        """The same as `supervision.Detections`; needs the package ``supervision``."""
        import supervision

        options: dict[str, Any] = {"class_id": np.zeros(len(self), int)}
        if self.ids is not None:
            options["tracker_id"] = self.ids.copy()
        return supervision.Detections(xyxy=self.boxes.copy(), confidence=self.scores.copy(), **options)
