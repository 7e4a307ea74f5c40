"""One model for several streams."""

from __future__ import annotations

import threading
from typing import Any

from ..detections import Detections
from ..frame import Image
from .base import Backend, BackendWrapper, Boxes, Look

_PATIENCE_S = 0.2


class SharedBackend(BackendWrapper):
    """A backend that several threads use through anonymizers of their own, which may differ in method and threshold.

    Each has one frame under way, and waits for the others where the backend has no room for another. One that hangs
    holds up all, whose frames then time out and are covered whole.

    Args:
        backend: runs the model, for one thread at a time.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._room = threading.Semaphore(backend.depth)
        self._lock = threading.Lock()

    def begin(
        self, image: Image | Any, threshold: float, boxes: Boxes | None = None, weak: float | None = None
    ) -> Look:
        """Starts to look at an image, as soon as there is room."""
        self._room.acquire()
        try:
            with self._lock:
                look = self._backend.begin(image, threshold, boxes, weak)
        except BaseException:
            self._room.release()
            raise
        return _SharedLook(look, self._lock, self._room)

    def close(self) -> None:
        """Frees the device, unless a thread hangs in it: then it can't be done."""
        if self._lock.acquire(timeout=_PATIENCE_S):
            try:
                self._backend.close()
            finally:
                self._lock.release()


class _SharedLook:
    """A look that takes turns with those of other threads."""

    def __init__(self, look: Look, lock: threading.Lock, room: threading.Semaphore) -> None:
        self._look, self._lock, self._room = look, lock, room
        self._ended = False

    def detections(self) -> Detections:
        """The faces that were found."""
        with self._lock:
            return self._look.detections()

    def redact(self, boxes: Boxes, method: str) -> None:
        """Overwrites the boxes."""
        with self._lock:
            self._look.redact(boxes, method)

    def finish(self) -> None:
        """Waits for the overwritten pixels; makes room for another."""
        with self._lock:
            self._look.finish()
        self._leave()

    def close(self) -> None:
        """Gives the look up; makes room for another. Harmless when it has ended."""
        try:
            with self._lock:
                self._look.close()
        finally:
            self._leave()

    def _leave(self) -> None:
        if not self._ended:
            self._ended = True
            self._room.release()
