"""Where a face was before it was found for the first time."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..detections import Detections

GROWTH = 1.0
"""How much wider and higher a box gets for each second before its face was first seen: it may have moved anywhere."""


class Sightings:
    """Remembers the faces of the frames that are waiting, and says where those of later ones must have been in the
    first.

    Args:
        frames: how many wait at most.
    """

    def __init__(self, frames: int) -> None:
        self._seen: deque[tuple[float, Coverage]] = deque(maxlen=frames + 1)

    def add(self, time: float, found: Detections, held: Coverage) -> None:
        """What was found and held in the next frame, at this time in seconds."""
        ids = np.zeros(len(found), np.int64) if found.ids is None else found.ids
        self._seen.append((time, Coverage.join([Coverage.of(found.boxes, "detected", ids), held])))

    def take(self) -> Coverage:
        """Takes the first frame away; returns boxes of the faces that are found later and not in it.

        A face that is only held in it gets one too, which reaches from its held box to where it is found: it may have
        moved otherwise than it was expected to, or be another one beside the place.
        """
        time, known = self._seen.popleft()
        certain = {
            number for number, reason in zip(known.ids.tolist(), known.reasons, strict=True) if reason == "detected"
        }
        held = {
            number: box for number, box in zip(known.ids.tolist(), known.boxes, strict=True) if number not in certain
        }
        tracks: dict[int, list[tuple[float, NDArray[np.float32]]]] = {}
        for later, seen in self._seen:
            for box, number, reason in zip(seen.boxes, seen.ids.tolist(), seen.reasons, strict=True):
                found = reason == "detected" or (reason == "check" and number not in held)
                if found and number not in certain:
                    tracks.setdefault(number, []).append((later, box))
        boxes = [_hull(_before(time, track), held.get(number)) for number, track in tracks.items()]
        return Coverage.of(np.array(boxes, np.float32).reshape(-1, 4), "ahead", np.array(list(tracks), np.int64))

    def clear(self) -> None:
        """Forgets all."""
        self._seen.clear()


def _before(time: float, track: list[tuple[float, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """The box ``[4]`` that a face was in at a time before it was seen: where it stood still, where it moved on as it
    does later, and what lies between.
    """
    first, box = track[0]
    age = max(0.0, first - time)
    last, other = track[-1]
    moved = box - (other - box) / np.float32(last - first) * np.float32(age) if last > first else box
    # A face that comes nearer would shrink to nothing when followed backward far enough.
    low, high = np.minimum(box[:2], moved[:2]), np.maximum(box[2:], moved[2:])
    centre, half = (low + high) / 2, (high - low) / 2 * np.float32(1 + GROWTH * age)
    grown: NDArray[np.float32] = np.concatenate([centre - half, centre + half])
    return grown


def _hull(box: NDArray[np.float32], other: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """The smallest box ``[4]`` around both."""
    if other is None:
        return box
    return np.concatenate([np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])])
