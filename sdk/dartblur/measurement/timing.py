"""Which stage of a backend takes how long.

A backend is asked through its `Look`, whose calls wait for the device: what is timed is work that has been done, on a
GPU as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..backends.base import Backend, BackendWrapper, Boxes, Look
from ..backends.cpu import CpuBackend
from ..backends.fused import FusedLook
from ..detections import Detections
from ..frame import Image


class Watch:
    """Seconds by stage; those of a stage within another are taken out of it.

    Attributes:
        spent: seconds by stage.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times the block."""
        self._inner.append(0.0)
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self.add(stage, seconds - self._inner.pop())
            self._inner[-1] += seconds

    def add(self, stage: str, seconds: float) -> None:
        """Seconds that were timed elsewhere."""
        self.spent[stage] = self.spent.get(stage, 0.0) + seconds


class ClockedBackend(BackendWrapper):
    """A backend whose looks are timed.

    The stages are ``detect``, ``generate`` and ``composite``, the last with what cuts out the faces. Where detection
    and generation are one graph they are one stage, ``detect+generate``, and where a backend doesn't tell generation
    and compositing apart these two are, ``generate+composite``.
    """

    def __init__(self, backend: Backend, watch: Watch) -> None:
        super().__init__(backend)
        self._watch = watch

    def begin(
        self, image: Image | Any, threshold: float, boxes: Boxes | None = None, weak: float | None = None
    ) -> ClockedLook:
        """A look that is timed."""
        started = time.perf_counter()
        look = self._backend.begin(image, threshold, boxes, weak)
        seconds = time.perf_counter() - started
        find, cover = "detect", "generate+composite"
        if isinstance(look, FusedLook):
            find, cover = "detect+generate", "composite"
        elif isinstance(self._backend, CpuBackend):
            cover = "composite"
        self._watch.add(find, seconds)
        return ClockedLook(look, self._watch, find, cover)

    def close(self) -> None:
        """The backend is the caller's."""


class ClockedLook:
    """A look whose two parts are timed: until the faces are known, and until they are covered."""

    def __init__(self, look: Look, watch: Watch, find: str, cover: str) -> None:
        self._look, self._watch, self._find, self._cover = look, watch, find, cover

    def detections(self) -> Detections:
        """Waits for them."""
        with self._watch(self._find):
            return self._look.detections()

    def redact(self, boxes: Boxes, method: str) -> None:
        """Overwrites the boxes."""
        with self._watch(self._cover):
            self._look.redact(boxes, method)

    def finish(self) -> None:
        """Waits for the pixels."""
        with self._watch(self._cover):
            self._look.finish()

    def close(self) -> None:
        """Ends the look."""
        self._look.close()


@contextmanager
def clocked_generator(backend: Backend, watch: Watch) -> Iterator[None]:
    """In the block the generator of a `CpuBackend` is a stage of its own; others have none that stands alone."""
    if not isinstance(backend, CpuBackend):
        yield
        return
    generator = backend._generator
    backend._generator = _ClockedSession(generator, watch)
    try:
        yield
    finally:
        backend._generator = generator


class _ClockedSession:
    """An ONNX Runtime session that is timed."""

    def __init__(self, session: Any, watch: Watch) -> None:
        self._session, self._watch = session, watch

    def run(self, *arguments: Any) -> Any:
        with self._watch("generate"):
            return self._session.run(*arguments)
