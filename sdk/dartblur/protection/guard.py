"""`Guard`: clear frames of one stream in, redacted frames out, with faces covered through missed detections.

::

    begin:  tracks -> held boxes -> backend        (several frames may be under way)
    finish: faces -> tracker -> zones -> overwritten

With a lookahead the faces of the next frames are found first. A frame that can't be anonymized comes out as a `Fault`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..anonymizer import Anonymizer, Pending
from ..coverage import Coverage
from ..detections import Detections
from ..errors import InputError, TooManyFacesError
from ..frame import Frame, RedactedFrame
from .lookahead import Sightings
from .policy import Protection
from .tracking import Tracker

if TYPE_CHECKING:
    from .self_check import Finding, SelfCheck

WEAK = 0.5
"""Score, as a part of the threshold, from which a detection is enough for a face that was found before."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A frame that can't be anonymized.

    Attributes:
        frame: the clear frame, whose pixels may be half overwritten.
        reason: in a word, for counting: ``detector-error``, ``too-many-faces``, or ``input`` for a frame that the model
            or the zones don't fit.
        error: what was raised.
    """

    frame: Frame
    reason: str
    error: Exception


Outcome = RedactedFrame | Fault


@dataclass(slots=True)
class _Waiting:
    """A frame whose faces are known, until those of the frames after it are."""

    frame: Frame
    found: Detections
    held: Coverage
    error: Exception | None = None


class Guard:
    """Anonymizes the frames of one stream, in order. For one thread at a time.

    Args:
        anonymizer: finds and overwrites; several guards may share it, see `Anonymizer`.
        protection: how faces are kept covered.
        self_check: looks again at some of what leaves; None: nobody does.
        apart: frames are pictures that have nothing to do with one another: ids begin anew in each. Only under a
            protection that is `Protection.apart`.
    """

    def __init__(
        self,
        anonymizer: Anonymizer,
        protection: Protection,
        self_check: SelfCheck | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self._anonymizer, self._protection, self._self_check = anonymizer, protection, self_check
        self._apart = apart
        self.tracker = self._new_tracker()
        self._begun: deque[tuple[Frame, Pending | Exception, Coverage]] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._sightings = Sightings(protection.lookahead)
        self._size: tuple[int, int] | None = None
        self._missed: deque[Finding] = deque()

    def cover_from_now_on(self, finding: Finding) -> None:
        """Takes faces that were seen clear in a frame that has left; from any thread."""
        self._missed.append(finding)

    @property
    def full(self) -> bool:
        """Whether the oldest frame is to be finished before another is begun."""
        return len(self._begun) >= self._anonymizer.depth

    def __len__(self) -> int:
        """Frames that have been begun and not finished."""
        return len(self._begun)

    def begin(self, frame: Frame) -> None:
        """Starts on a frame, whose pixels are overwritten in place; not when `full`. Raises nothing."""
        held, pending = Coverage.empty(), None
        try:
            self._look_at_size(frame)
            while self._missed:
                finding = self._missed.popleft()
                self.tracker.suspect(finding.boxes, finding.time)
            held = self.tracker.predict(frame.time)
            tracking = self._protection.hold > 0
            weak = self._anonymizer.threshold * WEAK if tracking else None
            pending = self._anonymizer.begin(frame, in_place=True, held=held.boxes, weak=weak)
        except Exception as error:
            self._begun.append((frame, error, held))
        else:
            self._begun.append((frame, pending, held))

    def finish(self) -> Iterator[Outcome]:
        """Waits for the oldest frame; gives what can leave: it, or with a lookahead the one before."""
        frame, pending, predicted = self._begun.popleft()
        if not self._protection.lookahead:
            yield self._finished(frame, pending, predicted)
            return
        self._waiting.append(self._found(frame, pending, predicted))
        if len(self._waiting) > self._protection.lookahead:
            yield self._after_lookahead()

    def drain(self) -> Iterator[Outcome]:
        """What still waits when there are no more frames."""
        while self._begun:
            yield from self.finish()
        while self._waiting:
            yield self._after_lookahead()

    def abandon(self) -> None:
        """Gives up all frames that are under way; what is known of the faces stays."""
        for _frame, pending, _held in self._begun:
            if isinstance(pending, Pending):
                pending.discard()
        self._begun.clear()
        self._waiting.clear()
        self._sightings.clear()

    def _finished(self, frame: Frame, pending: Pending | Exception, predicted: Coverage) -> Outcome:
        """A frame without a lookahead."""
        try:
            if isinstance(pending, Exception):
                raise pending
            try:
                found, held = self._track(pending, frame, predicted)
                return self._redact(pending, frame, found, held)
            finally:
                pending.discard()  # a look that stays open would leave other streams no room
        except Exception as error:
            return _fault(frame, error)

    def _found(self, frame: Frame, pending: Pending | Exception, predicted: Coverage) -> _Waiting:
        """The faces of a frame that waits for those of the next ones."""
        try:
            if isinstance(pending, Exception):
                raise pending
            try:
                found, held = self._track(pending, frame, predicted)
            finally:
                pending.discard()
            waiting = _Waiting(frame, found, held)
        except Exception as error:
            waiting = _Waiting(frame, Detections.empty(), predicted, error)
        self._sightings.add(frame.time, waiting.found, waiting.held)
        return waiting

    def _track(self, pending: Pending, frame: Frame, predicted: Coverage) -> tuple[Detections, Coverage]:
        """The faces of a frame that are to be covered, and the held boxes of those that the detector has missed."""
        found = pending.detections()
        height, width = frame.image.shape[:2]
        # Before the tracker: what is left clear on purpose has no held box, which would grow out of its zone.
        allowed = self._protection.zones.allowed(found.boxes, width, height)
        tracker = self._new_tracker() if self._apart else self.tracker
        return tracker.update(Detections(found.boxes[allowed], found.scores[allowed]), frame.time, predicted)

    def _new_tracker(self) -> Tracker:
        return Tracker(hold=self._protection.hold, threshold=self._anonymizer.threshold)

    def _after_lookahead(self) -> Outcome:
        waiting = self._waiting.popleft()
        try:
            ahead = self._sightings.take()
            if waiting.error is not None:
                raise waiting.error
            held = Coverage.join([waiting.held, ahead])
            boxes = np.concatenate([waiting.found.boxes, held.boxes])
            pending = self._anonymizer.begin(waiting.frame, in_place=True, held=boxes)
            try:
                return self._redact(pending, waiting.frame, waiting.found, held)
            finally:
                pending.discard()
        except Exception as error:
            return _fault(waiting.frame, error)

    def _redact(self, pending: Pending, frame: Frame, found: Detections, held: Coverage) -> RedactedFrame:
        zones = self._protection.zones
        height, width = frame.image.shape[:2]
        coverage = Coverage.join([Coverage.of(found.boxes, "detected", found.ids), held])
        if self._self_check is not None:
            self._self_check.before(frame)
        redacted = pending.redact(found, coverage, zones.boxes(width, height))
        if self._self_check is not None:
            self._self_check.after(redacted)
        return redacted

    def _look_at_size(self, frame: Frame) -> None:
        height, width = frame.image.shape[:2]
        if self._size != (width, height):
            self._protection.zones.check(width, height)
            if self._size is not None:
                self.tracker.clear()
            self._size = width, height


def _fault(frame: Frame, error: Exception) -> Fault:
    reasons = {TooManyFacesError: "too-many-faces", InputError: "input"}
    reason = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), "detector-error")
    return Fault(frame, reason, error)
