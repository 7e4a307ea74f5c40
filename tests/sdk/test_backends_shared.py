from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.base import WholeLook
from dartblur.backends.fake import FakeBackend
from dartblur.backends.shared import SharedBackend
from dartblur.errors import BackendError

FACE = np.array([[4, 4, 12, 12]], np.float32)


class Jealous(FakeBackend):
    """Notices when two threads use it at once, and how many looks are open."""

    def __init__(self, depth: int = 1) -> None:
        super().__init__(lambda image: FACE)
        self.depth = depth  # type: ignore[misc]
        self.busy = threading.Lock()
        self.together = self.open = self.most_open = 0
        self.broken = False

    def begin(self, image, threshold, boxes=None, weak=None):  # type: ignore[no-untyped-def]
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        outer = self

        class Counted(WholeLook):
            ended = False

            def finish(self) -> None:
                self.close()

            def close(self) -> None:
                if not self.ended:
                    self.ended = True
                    outer.open -= 1

        return Counted(self, image, threshold, weak)

    def detect(self, image, threshold):  # type: ignore[no-untyped-def]
        return self._alone(lambda: super(Jealous, self).detect(image, threshold))

    def redact(self, image, boxes, method):  # type: ignore[no-untyped-def]
        return self._alone(lambda: super(Jealous, self).redact(image, boxes, method))

    def _alone(self, work):  # type: ignore[no-untyped-def]
        if self.broken:
            raise BackendError("broken")
        alone = self.busy.acquire(blocking=False)
        self.together += not alone
        try:
            time.sleep(0.001)
            return work()
        finally:
            if alone:
                self.busy.release()


@pytest.mark.parametrize("depth", [1, 3])
def test_anonymizers_of_several_threads_take_turns(depth: int) -> None:
    backend = Jealous(depth)
    shared = SharedBackend(backend)
    covered: list[bool] = []

    def work(method: str) -> None:
        anonymizer = Anonymizer(backend=shared, method=method)  # type: ignore[arg-type]
        assert anonymizer.depth == 1
        for _ in range(30):
            frame = anonymizer(np.full((16, 16, 3), 255, np.uint8))
            covered.append(frame.method == method and int(frame.image[5:11, 5:11].max()) == 0)

    threads = [threading.Thread(target=work, args=(method,)) for method in ("dart", "gaussian", "solid", "pixelate")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert covered == [True] * 120
    assert backend.together == 0
    assert 1 <= backend.most_open <= depth
    assert backend.open == 0


def test_a_failure_makes_room_for_others() -> None:
    backend = Jealous()
    anonymizer = Anonymizer(backend=SharedBackend(backend))
    image = np.zeros((16, 16, 3), np.uint8)
    backend.broken = True
    for _ in range(3):
        with pytest.raises(BackendError):
            anonymizer(image)
    backend.broken = False
    assert len(anonymizer(image).detections) == 1
    assert backend.open == 0


def test_what_can_not_be_begun_makes_room_for_others() -> None:
    class Refusing(FakeBackend):
        def begin(self, image, threshold, boxes=None, weak=None):  # type: ignore[no-untyped-def]
            raise BackendError("no")

    shared = SharedBackend(Refusing())
    for _ in range(3):
        with pytest.raises(BackendError):
            shared.begin(np.zeros((16, 16, 3), np.uint8), 0.5)


def test_looks_may_be_closed_twice() -> None:
    shared = SharedBackend(FakeBackend())
    first = shared.begin(np.zeros((16, 16, 3), np.uint8), 0.5)
    first.close()
    first.close()
    second = shared.begin(np.zeros((16, 16, 3), np.uint8), 0.5)
    began: list[float] = []
    other = threading.Thread(
        target=lambda: (shared.begin(np.zeros((16, 16, 3), np.uint8), 0.5), began.append(time.monotonic()))
    )
    other.start()
    time.sleep(0.1)
    assert not began, "there is room for one only"
    second.finish()
    other.join(5)
    assert began


def test_closing_frees_the_device_but_not_under_a_thread_that_hangs() -> None:
    class Closing(FakeBackend):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    inside, go_on = threading.Event(), threading.Event()

    def find(image: np.ndarray) -> np.ndarray:
        inside.set()
        go_on.wait(10)
        return FACE

    backend = Closing(find)
    shared = SharedBackend(backend)
    thread = threading.Thread(target=Anonymizer(backend=shared), args=(np.zeros((16, 16, 3), np.uint8),))
    thread.start()
    assert inside.wait(5)
    shared.close()
    assert backend.closed == 0
    go_on.set()
    thread.join(5)
    shared.close()
    assert backend.closed == 1
