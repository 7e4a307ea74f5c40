"""`SelfCheck`: looks again at a sample of the frames that leave.

It looks at twice the size, where small faces show that the first look has missed, for faces outside of the covered
boxes - inside them a learned blur is meant to be detectable - and measures inside them that the fine detail is gone
(`residue`). It has a thread and a session of its own, takes the newest sample only, and never holds up the stream.

Of clear pixels a copy of the frame is kept from `before` to `after`, then the areas of the covered boxes until they
have been measured; all of it in memory only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..detections import Detections
from ..errors import BackendError, InputError
from ..frame import Frame, Image, RedactedFrame
from .residue import is_hidden

ENLARGED = 2
"""Long side of the detector's input, as a multiple of the model's own."""

SURER = 4.6
"""How much higher the odds of a face must be here than at the model's own threshold. Enlarged, all scores rise: of
small faces this finds many that the first look has missed, and less finds mostly noise; see
``benchmarks/self_check.py``."""

SMALL = 16
"""Pixels of a face's shorter side at the model's own size: larger faces are seen better there than enlarged."""

LARGER = 1.2
"""What the score of a larger face is divided by."""

MOST_COVERED = 0.5
"""Share of a face's box that is covered, from which it is one that the stream has found as well."""

_EVERY_PICTURE = 10
"""Of pictures without time stamps each so-manieth is a sample."""

_PATIENCE_S = 10.0

Boxes = NDArray[np.float32]
Allowed = Callable[[Boxes, int, int], NDArray[np.bool_]]
"""Which of some boxes in a picture of this width and height are to be covered."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found in a frame that has left.

    Attributes:
        kind: ``uncovered``: faces were clear; ``not-hidden``: a cover doesn't hide what is under it.
        boxes: float32 ``[n, 4]``, xyxy in pixels: these faces, or these covered boxes.
        index, time: of the frame.
        message: one line for people.
    """

    kind: Literal["uncovered", "not-hidden"]
    boxes: Boxes
    index: int
    time: float
    message: str


@dataclass(frozen=True, slots=True)
class _Sample:
    """A redacted frame, and what was in its covered boxes."""

    image: Image
    boxes: Boxes
    clear: list[Image]
    index: int
    time: float


def surer(threshold: float) -> float:
    """The score, below 1, whose odds are `SURER` times those of a threshold."""
    return SURER * threshold / (1 - threshold + SURER * threshold)


class SecondLook:
    """Finds faces in a redacted picture that its covers leave clear.

    Args:
        bundle: the model; its detector looks.
        threshold: lowest score of a face; None: `surer` than the model's own.

    Raises:
        InputError: the threshold is out of its range.
        BundleError: the model can't be loaded.
    """

    def __init__(self, bundle: Bundle, threshold: float | None = None) -> None:
        from ..backends.cpu import CpuBackend

        manifest = bundle.manifest
        self._threshold = surer(manifest.threshold) if threshold is None else threshold
        if not 0 < self._threshold < 1:
            raise InputError(f"threshold of the self-check: expected a number between 0 and 1, got {self._threshold}")
        enlarged = replace(bundle, manifest=replace(manifest, long_side=ENLARGED * manifest.long_side))
        self._backend, self._long_side = CpuBackend(enlarged, threads=1), manifest.long_side

    def __call__(self, image: Image, covers: Boxes) -> Detections:
        """The faces of an image of which less than `MOST_COVERED` lies in the covers ``[n, 4]``, xyxy pixels."""
        found = self._backend.detect(image, self._threshold)
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).min(1) * (self._long_side / max(image.shape[:2]))
        scores = np.divide(found.scores, np.where(sides < SMALL, 1, LARGER), dtype=np.float32)
        clear = covered_share(found.boxes, covers, *image.shape[:2]) < MOST_COVERED
        kept = np.flatnonzero(clear & (scores >= self._threshold))
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        return Detections(found.boxes[kept], scores[kept])


class SelfCheck:
    """Checks one stream; a context manager, whose end waits for the last sample and tells when the check has failed.

    Args:
        bundle: the model; its detector looks.
        interval: seconds of the stream from one sample to the next. Of pictures without time stamps each tenth is one.
        threshold: lowest score of a face; None: `surer` than the model's own.
        allowed: which boxes are to be covered, where faces of some areas are left clear on purpose.
        on_finding: is called in the check's thread.

    Attributes:
        checked: samples that have been looked at.

    Raises:
        InputError: an argument is out of its range.
        BundleError: the model can't be loaded.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        interval: float = 1.0,
        threshold: float | None = None,
        allowed: Allowed | None = None,
        on_finding: Callable[[Finding], None],
    ) -> None:
        if not interval > 0:
            raise InputError(f"interval of the self-check: expected seconds above 0, got {interval}")
        self._look = SecondLook(bundle, threshold)
        self._interval, self._allowed, self._on_finding = interval, allowed, on_finding
        self.checked = 0
        self._last: tuple[int, float] | None = None
        self._clear: Frame | None = None
        self._changed = threading.Condition()
        self._sample: _Sample | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="dartblur-self-check", daemon=True)

    def before(self, frame: Frame) -> None:
        """Is handed every frame right before it is overwritten; copies it when a sample is due.

        Raises:
            BackendError: the check has failed, so that nobody looks any more.
        """
        self._raise_error()
        # What is left of a frame that was not redacted after all is dropped.
        self._clear = None
        if self._is_due(frame):
            self._last = frame.index, frame.time
            self._clear = replace(frame, image=frame.image.copy())

    def after(self, redacted: RedactedFrame) -> None:
        """Is handed what has become of the frame; offers it as the next sample if `before` has copied it."""
        clear, self._clear = self._clear, None
        # Nothing of the frame is in a picture that stands in for it.
        if clear is None or clear.index != redacted.index or redacted.fault is not None:
            return
        areas = [_area(clear.image, box).copy() for box in redacted.covered]
        # A copy, because whoever gets the frame may draw in it.
        sample = _Sample(redacted.image.copy(), redacted.covered, areas, redacted.index, redacted.time)
        with self._changed:
            self._sample = sample
            self._changed.notify()

    def check(self, sample: _Sample) -> list[Finding]:
        """What is wrong in a sample."""
        findings = []
        faces = self._uncovered(sample)
        if len(faces):
            best = f"the surest with {faces.scores[0]:.2f} at {_text(faces.boxes[0])}"
            message = f"frame {sample.index}: {len(faces)} faces outside of the covered boxes, {best}"
            findings.append(Finding("uncovered", faces.boxes, sample.index, sample.time, message))
        shown = [not is_hidden(*pair) for pair in self._pairs(sample)]
        boxes = sample.boxes[np.array(shown, bool)]
        if len(boxes):
            message = (
                f"frame {sample.index}: fine detail is left in {len(boxes)} covered boxes, first {_text(boxes[0])}"
            )
            findings.append(Finding("not-hidden", boxes, sample.index, sample.time, message))
        return findings

    def close(self, wait: bool = True) -> None:
        """Ends the thread, once it has looked at the sample that waits unless `wait` is off."""
        with self._changed:
            self._ended = True
            if not wait:
                self._sample = None
            self._changed.notify()
        self._clear = None
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_S)

    def __enter__(self) -> SelfCheck:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(wait=kind is None)
        if kind is None:
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise BackendError(f"the self-check failed ({type(self._error).__name__}: {self._error})") from self._error

    def _is_due(self, frame: Frame) -> bool:
        if self._last is None:
            return True
        index, time = self._last
        passed = frame.time - time
        # A source that begins again begins at 0.
        return passed >= self._interval or passed < 0 or (passed == 0 and frame.index - index >= _EVERY_PICTURE)

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._sample is not None or self._ended)
                    sample, self._sample = self._sample, None
                if sample is None:
                    return
                for finding in self.check(sample):
                    self._on_finding(finding)
                self.checked += 1
                del sample
        except BaseException as error:
            self._error = error

    def _uncovered(self, sample: _Sample) -> Detections:
        faces = self._look(sample.image, sample.boxes)
        if self._allowed is None:
            return faces
        height, width = sample.image.shape[:2]
        allowed = self._allowed(faces.boxes, width, height)
        return Detections(faces.boxes[allowed], faces.scores[allowed])

    def _pairs(self, sample: _Sample) -> list[tuple[Image, Image]]:
        after = (_area(sample.image, box) for box in sample.boxes)
        return list(zip(sample.clear, after, strict=True))


def covered_share(faces: Boxes, covers: Boxes, height: int, width: int) -> NDArray[np.float64]:
    """Part of each face's visible area, 0..1, that lies in any of the covers; 1 where nothing is visible."""
    mask = np.zeros((height, width), bool)
    for box in covers:
        _area(mask, box)[:] = True
    shares = [area.mean() if (area := _area(mask, box)).size else 1.0 for box in faces]
    return np.array(shares, np.float64)


def _area(image: NDArray[Any], box: Boxes) -> NDArray[Any]:
    """The pixels of an image ``[H, W, ...]`` that a box touches, as a view."""
    height, width = image.shape[:2]
    x0, y0 = (max(0, int(np.floor(value))) for value in box[:2])
    x1, y1 = (max(0, int(np.ceil(value))) for value in box[2:])
    return image[min(y0, height) : y1, min(x0, width) : x1]


def _text(box: Boxes) -> str:
    return "(" + ", ".join(f"{value:.0f}" for value in box) + ")"
