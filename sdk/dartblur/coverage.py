"""What of a frame is overwritten, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Reason = Literal["detected", "held", "ahead", "zone", "check", "replay"]
"""Why a box is covered: the detector found a face; a track goes on through a missed detection; a face is found there a
little later (lookahead); the user always wants it covered; the self-check found a face; an audit log says so."""

REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Boxes of one frame.

    Attributes:
        boxes: float32 ``[n, 4]``, xyxy pixels; they may reach over the border.
        ids: int64 ``[n]``, the tracks that they belong to, from 1; 0 for none.
        reasons: one of `REASONS` for each.
    """

    boxes: NDArray[np.float32]
    ids: NDArray[np.int64]
    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        count = len(self.reasons)
        if self.boxes.shape != (count, 4) or self.ids.shape != (count,):
            raise ValueError(
                f"expected boxes [{count}, 4] and ids [{count}], got {list(self.boxes.shape)}, {list(self.ids.shape)}"
            )

    def __len__(self) -> int:
        return len(self.reasons)

    @classmethod
    def of(cls, boxes: NDArray[np.float32], reason: Reason, ids: NDArray[np.int64] | None = None) -> Coverage:
        """Boxes that are all covered for the same reason."""
        ids = np.zeros(len(boxes), np.int64) if ids is None else ids
        return cls(np.asarray(boxes, np.float32).reshape(-1, 4), ids, (reason,) * len(boxes))

    @classmethod
    def empty(cls) -> Coverage:
        """Nothing."""
        return cls.of(np.zeros((0, 4), np.float32), "detected")

    @classmethod
    def join(cls, parts: Iterable[Coverage]) -> Coverage:
        """The boxes of all parts, in their order."""
        parts = [cls.empty(), *parts]
        reasons = tuple(reason for part in parts for reason in part.reasons)
        boxes, ids = (np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "ids"))
        return cls(boxes, ids, reasons)

    def take(self, kept: NDArray[np.intp] | NDArray[np.bool_]) -> Coverage:
        """Those of an index or mask."""
        numbers = np.arange(len(self))[kept]
        return Coverage(self.boxes[numbers], self.ids[numbers], tuple(self.reasons[number] for number in numbers))
