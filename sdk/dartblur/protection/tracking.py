"""Tracks of faces, which stay covered while the detector misses them.

Detections are joined to tracks as ByteTrack does: first those that are sure, then weak ones with the tracks that are
left. A Kalman filter of constant velocity follows each face; its deviations are in units of the face's size, so one
setting serves small and large faces.

A *held* box is the hull of where the face was last found and where its velocity has taken it since, grown on all sides
by the filter's deviation and by a part of that way. So for a second it covers a face that stops, one that goes on, and
one that turns by up to 30 degrees; then the motion has died down, so that no box flies away.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage, Reason
from ..detections import Detections
from ..errors import InputError
from .association import (
    OVERLAP,
    SAME,
    Array,
    Numbers,
    associate,
    faces_of_parts,
    hidden,
    pairs,
    parts_of_faces,
    sizes_of,
    states_of,
)

SHORTEST_CHECK = 1.0
"""Seconds for which a face of the self-check is covered at least."""

_TRACK = np.dtype(
    [
        ("id", np.int64),
        ("box", np.float64, 4),  # the last detection, xyxy
        ("state", np.float64, 4),  # filtered centre x and y in pixels, logarithm of width and height
        ("speed", np.float64, 4),  # the same per second
        ("spread", np.float64, 3),  # variances of state and speed and, between, their covariance, in sizes of the face
        ("seen", np.float64),  # time of the last detection
        ("until", np.float64),  # held until then
        ("trust", np.float64),  # 0..1, how sure it is that there is a face
        ("suspected", np.bool_),  # known from the self-check only
    ]
)
Tracks = NDArray[np.void]

# Motion. A face's size is the root of its area.
_NOISE, _PIXELS = 0.04, 1.0
"""Deviation of a detection's centre and sides: as a part of its size, and in pixels."""
_WEAK_NOISE = 9.0
"""By how much larger its variance is when the detection is weak."""
_FIRST_SPEED = 6.0
"""Variance of the speed of a face that was seen once, in sizes a second."""
_WANDER = 2.0
"""By how much that variance grows a second."""
_SURPRISE = 9.0
"""A detection off by as many variances: the face has another speed than the filter thought."""
_SHAPE = 0.2
"""By how much the logarithm of its sides may change then, if it is a movement."""
_FASTEST = 40.0
"""Sizes a second that a face may go: clocks that stand almost still would give any speed."""
_DAMPING = 1.5
"""Seconds in which motion dies down."""
_FORGETTING = 0.3
"""Seconds in which what isn't known of the motion averages out: a held box grows quickly at first, then slower."""
_DEVIATIONS = 1.5
"""A held box grows by as many deviations of the filter on each side."""
_WIDEST, _WIDEST_DOUBTFUL = 1.5, 0.5
"""That is by no more sizes of the face than this; the second is for what was seen once, faintly: so a lamp that was
taken for a face doesn't come to cover half of the picture."""
_TURN = 0.7
"""And by this share of its way since it was last found: the sine of 45 degrees, as that is damped."""
_LARGEST_ZOOM = math.log(2)
"""A face that isn't found is not thought to have grown or shrunk by more."""
_STILL_COVERED = 0.95
"""A prediction that covers this share of the box of today is as good."""

# Trust: what was seen once and faintly is held for a shorter time than what is certainly a face.
_CERTAIN_SCORE, _CERTAIN_TIMES = 0.5, 8
"""How far of the way from the threshold to 1 a score must be, or in how many frames a face must be found, to be held
for the whole time."""
_LEAST_TRUST = 0.25
"""Share of the hold for what was found once, just above the threshold."""
_DOUBTFUL = 0.5
"""Share of the hold for the place that a face has perhaps not left."""

# Time.
_SHORTEST_STEP, _LONGEST_STEP = 1e-3, 1.0
"""Seconds from frame to frame; any other step is a fault of the clock."""
_LATE = 1.5
"""How many steps it may take to the next frame: cameras aren't exact."""
_INSTANT = 1e-6


class Tracker:
    """Gives faces their ids, and keeps those covered for a while that the detector misses.

    Times are those of the source. Where they stand still, go backward or leap by more than a second, the step before
    counts once more: a clock at fault loses no face. Tracks end, so memory is bounded by what the detector finds within
    the hold.

    Args:
        hold: seconds for which a face stays covered without a detection; 0 holds nothing. What was found once, just
            above the threshold, is held for a quarter of it; a good score or eight detections make it all of it.
        threshold: score from which a detection starts a track, 0..1. One detection is enough.

    Raises:
        InputError: an argument is out of its range.
    """

    def __init__(self, *, hold: float = 1.0, threshold: float) -> None:
        if not 0 <= hold < math.inf:
            raise InputError(f"hold: expected a number of seconds from 0, got {hold}")
        if not 0 < threshold < 1:
            raise InputError(f"threshold: expected a number between 0 and 1, got {threshold}")
        self.hold, self.threshold = float(hold), threshold
        self._tracks: Tracks = np.zeros(0, _TRACK)
        self._last_id = self._forgotten = 0
        self._now = 0.0  # on a clock that only goes forward
        self._time: float | None = None  # what the source called that moment
        self._step = _LONGEST_STEP  # the last one that can be true
        self._next = _SHORTEST_STEP  # until the next frame, at most; of the first one nothing is known

    def predict(self, time: float) -> Coverage:
        """The held boxes of all faces at a time, before the detector has looked. Changes nothing.

        Several frames ahead will do. Ids are from 1, reasons ``held`` or ``check``.
        """
        now = self._clock(time)
        return _cover(self._tracks[_live(self._tracks, now)], now)

    def update(self, found: Detections, time: float, predicted: Coverage) -> tuple[Detections, Coverage]:
        """Takes what the detector has found in a frame. Call it once a frame, in order.

        Args:
            found: faces, also weak ones (below the threshold), which continue tracks but start none.
            time: of the frame.
            predicted: what `predict` said for this frame.

        Returns:
            The detections that count, with their ids: sure ones, and weak ones that continue a track. And the held
            boxes of the faces that weren't found, or only weakly, or at such a distance that it may be another face:
            those of `predicted`, the same numbers, and new ones for faces that became known, or were found elsewhere,
            after that prediction was made.
        """
        now = self._advance(time)
        tracks, sure = self._tracks, found.scores >= self.threshold
        expected = _boxes(_moved(tracks, now))
        whole, part_of = parts_of_faces(found.boxes, sure, expected, _fresh(tracks, now))
        old, new = associate(expected, found.boxes, sure, whole, tracks["trust"] >= 1)
        parts = np.setdiff1d(np.flatnonzero(sure & ~whole), new)
        owners, within = faces_of_parts(found.boxes, expected, part_of, parts, old, new)
        alone = _others(len(tracks), old)
        # What was found at a distance may be another face: this one may still be where it was expected. Weak detections
        # lie beside the face often enough.
        doubtful = old[sure[new] & (hidden(expected[old], found.boxes[new]) < SAME)]
        beside = old[~sure[new]]
        held = self._held(tracks[np.concatenate([alone, doubtful, beside])], now, predicted)

        stayed = tracks[doubtful]
        stayed["id"] = self._new_ids(len(doubtful))
        stayed["until"] = np.minimum(stayed["until"], now + self._held_for(_DOUBTFUL))
        certainty, by_parts = self._certainty(found.scores, len(tracks), parts[within], owners[within])
        continued = _corrected(tracks[old], found.boxes[new], sure[new], now)
        trust = np.maximum(continued["trust"] + 1 / _CERTAIN_TIMES, certainty[new])
        trust = np.maximum(trust, by_parts[old]).clip(max=1)
        continued["trust"] = np.where(sure[new], trust, continued["trust"])
        continued["until"] = np.maximum(continued["until"], now + self._held_for(continued["trust"]))
        first = np.concatenate([np.setdiff1d(np.flatnonzero(sure & whole), new), parts[~within]])
        started = self._start(found.boxes[first], now, now + self._held_for(certainty[first]), certainty[first])
        only_parts = tracks[alone]
        until = np.where(by_parts[alone] > 0, now + self._held_for(by_parts[alone]), -np.inf)
        only_parts["until"] = np.maximum(only_parts["until"], until)
        left = np.concatenate([only_parts, stayed])
        self._tracks = np.concatenate([continued, left[_live(left, now)], started])

        ids = np.zeros(len(found), np.int64)
        ids[new], ids[first] = continued["id"], started["id"]
        ids[parts[within]] = np.concatenate([ids, tracks["id"]])[owners[within]]
        counts = ids > 0
        return Detections(found.boxes[counts], found.scores[counts], ids[counts]), held

    def _certainty(
        self, scores: NDArray[np.float32], tracks: int, parts: Numbers, owners: Numbers
    ) -> tuple[Array, Array]:
        """How certain each detection is, and, by its parts alone, each of so many tracks, 0..1. A face is as certain as
        the surest of its parts: by itself, that would be held for so long.
        """
        beyond = (scores.astype(float) - self.threshold) / (1 - self.threshold)
        certainty = np.concatenate([(beyond / _CERTAIN_SCORE).clip(_LEAST_TRUST, 1), np.zeros(tracks)])
        np.maximum.at(certainty, owners, certainty[parts])
        return certainty[: len(scores)], certainty[len(scores) :]

    def suspect(self, boxes: NDArray[np.float32], time: float) -> None:
        """Takes faces that the self-check has found uncovered: they are covered from now on, for at least a second.

        Args:
            boxes: where they were, ``[n, 4]`` xyxy pixels.
            time: of the frame that was looked at, which may be some frames back.
        """
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        suspected = np.flatnonzero(self._tracks["suspected"])
        # A face that is suspected again is the same one.
        old, new = pairs(self._tracks["box"][suspected], boxes, OVERLAP)
        kept, again = np.delete(self._tracks, suspected[old]), self._tracks["id"][suspected[old]]
        started = self._start(boxes, self._now - self._lag(time), self._now + max(self.hold, SHORTEST_CHECK), 1.0)
        started["suspected"] = True
        started["id"][new] = again
        self._tracks = np.concatenate([kept, started])

    def clear(self) -> None:
        """Forgets all faces: the frames have another size, or the source was connected again. No id is used again."""
        self._tracks = self._tracks[:0]
        self._forgotten, self._time = self._last_id, None

    def _held_for(self, share: float | Array) -> Array:
        """Seconds of this share of the hold, but as far as the next frame where the hold reaches it."""
        seconds: Array = np.maximum(self.hold * share, min(self.hold, self._next))
        return seconds

    def _held(self, tracks: Tracks, now: float, predicted: Coverage) -> Coverage:
        """The held boxes of those of the tracks that live: as predicted, unless the face has been found since the
        prediction was made and moves otherwise, so that it may be elsewhere.
        """
        tracks = tracks[_live(tracks, now)]
        held = _cover(tracks, now)
        track, known = (held.ids[:, None] == predicted.ids).nonzero()
        still = hidden(held.boxes[track].astype(float), predicted.boxes[known]) >= _STILL_COVERED
        held.boxes[track[still]] = predicted.boxes[known[still]]
        # A frame that was under way when all was forgotten: its faces are still covered.
        return Coverage.join([held, predicted.take(predicted.ids <= self._forgotten)])

    def _clock(self, time: float) -> float:
        if self._time is None:
            return self._now
        step = time - self._time
        if not _SHORTEST_STEP <= step <= _LONGEST_STEP:
            # Not more than half of the shortest hold, so that whatever is covered stays so for a frame at least.
            step = max(min(self._step, self.hold * _LEAST_TRUST / 2), _SHORTEST_STEP)
        return self._now + step

    def _advance(self, time: float) -> float:
        now = self._clock(time)
        if now > self._now:
            self._step = now - self._now
            self._next = _LATE * self._step
        self._now, self._time = now, time
        return now

    def _lag(self, time: float) -> float:
        lag = 0.0 if self._time is None else self._time - time
        return lag if 0 <= lag <= _LONGEST_STEP else 0.0

    def _start(self, boxes: NDArray[np.float32], seen: float, until: float | Array, trust: float | Array) -> Tracks:
        tracks = np.zeros(len(boxes), _TRACK)
        tracks["id"], tracks["box"], tracks["state"] = self._new_ids(len(boxes)), boxes, states_of(boxes)
        tracks["spread"] = _first_spread(tracks["state"])
        tracks["seen"], tracks["until"], tracks["trust"] = seen, until, trust
        return tracks

    def _new_ids(self, count: int) -> NDArray[np.int64]:
        self._last_id += count
        return np.arange(self._last_id - count + 1, self._last_id + 1)


def _live(tracks: Tracks, now: float) -> NDArray[np.bool_]:
    """Which tracks are held at a time."""
    live: NDArray[np.bool_] = tracks["until"] >= now - _INSTANT
    return live


def _fresh(tracks: Tracks, now: float) -> NDArray[np.bool_]:
    """Which tracks are held for at least as long again as since their last detection."""
    fresh: NDArray[np.bool_] = tracks["until"] - now >= now - tracks["seen"] - _INSTANT
    return fresh


def _others(count: int, numbers: Numbers) -> Numbers:
    """The numbers below `count` that are not among these."""
    return np.delete(np.arange(count), numbers)


# The filter: one gain for all four coordinates, since their deviations are the same in sizes of the face.


def _boxes(states: Array) -> Array:
    half = np.exp(states[:, 2:]) / 2
    return np.concatenate([states[:, :2] - half, states[:, :2] + half], 1)


def _noise(states: Array) -> Array:
    """Variance of detections of faces of this size, in sizes."""
    noise: Array = _NOISE**2 + (_PIXELS / sizes_of(states)) ** 2
    return noise


def _first_spread(states: Array) -> Array:
    """The variances of faces that were seen once."""
    noise = _noise(states)
    return np.stack([noise, np.zeros_like(noise), np.full_like(noise, _FIRST_SPEED)], 1)


def _way(tracks: Tracks, now: float) -> Array:
    """Seconds ``[n, 1]`` for which each track has gone on at its speed since it was seen, damped."""
    return _damped(_age(tracks, now), _DAMPING)[:, None]


def _age(tracks: Tracks, now: float) -> Array:
    age: Array = np.maximum(now - tracks["seen"], 0)
    return age


def _damped(seconds: Array, constant: float) -> Array:
    damped: Array = -constant * np.expm1(-seconds / constant)
    return damped


def _moved(tracks: Tracks, now: float) -> Array:
    """The states at a time."""
    change = tracks["speed"] * _way(tracks, now)
    change[:, 2:] = np.clip(change[:, 2:], -_LARGEST_ZOOM, _LARGEST_ZOOM)
    moved: Array = tracks["state"] + change
    return moved


def _spread(tracks: Tracks, seconds: Array) -> tuple[Array, Array, Array]:
    """The variances some seconds ``[n]`` later: of state, both, and speed."""
    state, both, speed = tracks["spread"].T
    return (
        state + 2 * seconds * both + seconds**2 * speed + _WANDER * seconds**3 / 3,
        both + seconds * speed + _WANDER * seconds**2 / 2,
        speed + _WANDER * seconds,
    )


def _cover(tracks: Tracks, now: float) -> Coverage:
    """The held boxes at a time."""
    way, moved = _way(tracks, now), _moved(tracks, now)
    ahead = _boxes(moved)
    low, high = np.minimum(tracks["box"], ahead)[:, :2], np.maximum(tracks["box"], ahead)[:, 2:]
    distance = np.linalg.norm(tracks["speed"][:, :2] * way, axis=1)
    variance, _, _ = _spread(tracks, _damped(_age(tracks, now), _FORGETTING))
    deviation = sizes_of(moved) * np.sqrt(np.maximum(variance, 0))
    widest = _WIDEST_DOUBTFUL + (_WIDEST - _WIDEST_DOUBTFUL) * tracks["trust"]
    margin = (np.minimum(_DEVIATIONS * deviation, widest * sizes_of(moved)) + _TURN * distance)[:, None]
    boxes = np.concatenate([low - margin, high + margin], 1).astype(np.float32)
    reasons: list[Reason] = ["check" if suspected else "held" for suspected in tracks["suspected"]]
    return Coverage(boxes, tracks["id"].copy(), tuple(reasons))


def _corrected(tracks: Tracks, boxes: NDArray[np.float32], sure: NDArray[np.bool_], now: float) -> Tracks:
    """The tracks with a detection each."""
    tracks = tracks.copy()
    moved, seconds = _moved(tracks, now), np.maximum(_age(tracks, now), _SHORTEST_STEP)
    off = states_of(boxes) - moved
    state, both, speed = _spread(tracks, seconds)
    farthest = (
        np.maximum(np.linalg.norm(off[:, :2], axis=1) / sizes_of(moved), np.abs(off[:, 2:]).max(1, initial=0)) ** 2
    )
    noise = _noise(moved) * np.where(sure, 1, _WEAK_NOISE)
    surprising = farthest > _SURPRISE * (state + noise)
    same_shape = np.abs(off[:, 2:]).max(1, initial=0) <= _SHAPE
    surprise = np.where(surprising & same_shape & sure, farthest, 0)
    state, both, speed = state + surprise, both + surprise / seconds, speed + surprise / seconds**2
    gain, speed_gain = state / (state + noise), both / (state + noise)
    tracks["state"] = moved + gain[:, None] * off
    tracks["speed"] = _limited(tracks["speed"] + speed_gain[:, None] * off, _FASTEST * sizes_of(tracks["state"]))
    tracks["spread"] = np.stack([(1 - gain) * state, (1 - gain) * both, speed - speed_gain * both], 1)
    # A part of the face, or more than it, tells no speed: such a track begins anew.
    jumped = surprising & ~same_shape & sure
    tracks["state"][jumped], tracks["speed"][jumped] = states_of(boxes[jumped]), 0
    tracks["spread"][jumped] = _first_spread(tracks["state"][jumped])
    tracks["box"], tracks["seen"], tracks["suspected"] = boxes, now, False
    return tracks


def _limited(speeds: Array, fastest: Array) -> Array:
    length = np.linalg.norm(speeds[:, :2], axis=1)
    speeds[:, :2] *= np.minimum(1, fastest / np.maximum(length, 1e-9))[:, None]
    return speeds
