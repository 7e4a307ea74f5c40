"""Which detection is which face: boxes of this frame and of tracks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]

OVERLAP, _OVERLAP_WEAK = 0.3, 0.5
"""IoU from which a detection, or a weak one, is the track's own."""
SAME = 0.6
"""Share of where a face is expected that a detection must cover to be taken for that face and no other."""
_REACH = 2.0
"""How far from where it is expected a face may be found, in sizes: small fast faces."""
_ALIKE = math.log(2)
"""By how much the logarithm of its size may differ then."""

_INSIDE, _LARGER = 0.8, 1.5
"""Share of a detection that must lie inside a larger one, and how much larger, for it to be a part of that face."""


def states_of(boxes: NDArray[np.floating]) -> Array:
    """Centre and logarithms of the sides ``[n, 4]`` of boxes; a side is at least a pixel."""
    low, high = boxes[:, :2].astype(float), boxes[:, 2:].astype(float)
    return np.concatenate([(low + high) / 2, np.log(np.maximum(high - low, 1))], 1)


def sizes_of(states: Array) -> Array:
    """Sizes ``[n]`` of faces: the root of their area."""
    sizes: Array = np.exp(states[:, 2:].mean(1))
    return sizes


def parts_of_faces(
    boxes: NDArray[np.float32], sure: NDArray[np.bool_], expected: Array, fresh: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], Numbers]:
    """Which detections are whole faces, and of the others what each is a part of: a number of a sure detection, or of a
    track after those.

    Detectors find parts of a large face now and then. As faces of their own they would lead its track astray. Where a
    track isn't fresh any more, what is found in it may be all that is left of it.
    """
    owners = np.concatenate([boxes.astype(float), expected])
    able = np.concatenate([sure, fresh])
    areas = _area(owners)
    ours, mine = owners[: len(boxes), None], areas[: len(boxes), None]
    inside = (_common(ours, owners[None]) >= _INSIDE * mine) & (areas[None] >= _LARGER * mine) & able
    whole: NDArray[np.bool_] = np.logical_not(inside.any(1))
    part_of: Numbers = inside.argmax(1) if len(owners) else np.zeros(len(boxes), np.intp)
    return whole, part_of


def faces_of_parts(
    boxes: NDArray[np.float32], expected: Array, part_of: Numbers, parts: Numbers, old: Numbers, new: Numbers
) -> tuple[Numbers, NDArray[np.bool_]]:
    """Of detections that are parts and go on no track: the face that each belongs to, also through other parts,
    numbered as by `parts_of_faces`, and whether it lies in that face where this is now.

    A track may go on in a detection that leaves out a part of where it was expected. What was found there is no part of
    it then, and would be held by nothing: it is a face, and what lies in it a part of this one.

    Args:
        boxes, expected: detections, and where tracks were expected.
        part_of: see `parts_of_faces`.
        parts: numbers of the parts.
        old, new: see `associate`.
    """
    places = np.concatenate([boxes.astype(float), expected])
    places[len(boxes) + old] = boxes[new]
    areas = _area(places)
    owners, within = part_of.copy(), np.zeros(len(places), bool)
    # What a part is a part of is larger, and known before it.
    for part in parts[np.argsort(-areas[parts], kind="stable")]:
        if within[owners[part]]:
            owners[part] = owners[owners[part]]
        within[part] = _common(places[part], places[owners[part]]) >= _INSIDE * areas[part]
    return owners[parts], within[parts]


def associate(
    expected: Array,
    boxes: NDArray[np.float32],
    sure: NDArray[np.bool_],
    whole: NDArray[np.bool_],
    trusted: NDArray[np.bool_],
) -> tuple[Numbers, Numbers]:
    """Which track goes on in which detection: sure ones first, also at a distance; then parts of faces, which may be
    faces before others; then weak ones, with faces that are certain: what is faint time and again is no face.
    """
    strong, parts, weak = (np.flatnonzero(kind) for kind in (sure & whole, sure & ~whole, ~sure & whole))
    first, found = pairs(expected, boxes[strong], OVERLAP, _REACH)
    old, new = [first], [strong[found]]
    for numbers, able, enough in ((parts, np.ones(len(expected), bool), 1 / _LARGER), (weak, trusted, _OVERLAP_WEAK)):
        free = np.setdiff1d(np.flatnonzero(able), np.concatenate(old))
        more, others = pairs(expected[free], boxes[numbers], enough)
        old.append(free[more])
        new.append(numbers[others])
    return np.concatenate(old), np.concatenate(new)


def pairs(expected: Array, boxes: NDArray[np.float32], enough: float, reach: float = 0) -> tuple[Numbers, Numbers]:
    """Pairs of tracks and detections, the closest first: their IoU is enough, or they are alike in size and no farther
    than `reach` apart, in sizes.
    """
    ours, theirs = states_of(expected), states_of(boxes)
    sizes, others = sizes_of(ours)[:, None], sizes_of(theirs)
    overlap = _overlaps(expected, boxes)
    distance = np.linalg.norm(ours[:, None, :2] - theirs[:, :2], axis=2) / ((sizes + others) / 2)
    alike = np.abs(np.log(sizes / others)) <= _ALIKE
    possible = (overlap >= enough) | (alike & (distance <= reach))
    closeness = np.where(possible, overlap - distance, -np.inf)
    found_pairs: list[tuple[int, int]] = []
    while closeness.size and np.isfinite(closeness.max()):
        track, detection = divmod(int(closeness.argmax()), closeness.shape[1])
        closeness[track], closeness[:, detection] = -np.inf, -np.inf
        found_pairs.append((track, detection))
    found = np.array(found_pairs, np.intp).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _overlaps(ours: Array, theirs: NDArray[np.floating]) -> Array:
    """IoU ``[n, m]`` of boxes and boxes."""
    common = _common(ours[:, None], theirs)
    overlaps: Array = common / (_area(ours)[:, None] + _area(theirs) - common)
    return overlaps


def hidden(ours: Array, theirs: NDArray[np.floating]) -> Array:
    """Share ``[n]`` of each box that the other of its pair covers."""
    hidden: Array = _common(ours, theirs) / _area(ours)
    return hidden


def _common(ours: Array, theirs: NDArray[np.floating]) -> Array:
    low = np.maximum(ours[..., :2], theirs[..., :2])
    high = np.minimum(ours[..., 2:], theirs[..., 2:])
    common: Array = np.maximum(high - low, 0).prod(-1)
    return common


def _area(boxes: NDArray[np.floating]) -> Array:
    area: Array = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return area
