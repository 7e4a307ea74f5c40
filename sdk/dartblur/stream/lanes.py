"""What connects the stages of a pipeline: lanes, which hand things on, and the crew of threads that ends together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_PATIENCE_S = 1.0
"""How long all stages together may take to notice that one has failed. Who hangs longer is left behind."""


class StoppedError(Exception):
    """Another stage has failed: this one has nothing left to do."""


class Lane(Generic[T]):
    """Hands things from one thread to another, in order, a few at a time.

    Args:
        length: things that may wait.
        on_drop: of a live stream: called with the oldest thing, which gives way to a new one when the lane is full.
            None: who puts waits instead, and nothing is lost.
    """

    def __init__(self, length: int, on_drop: Callable[[T], None] | None = None) -> None:
        self._length, self._on_drop = length, on_drop
        self._things: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._stopped = False

    def put(self, thing: T) -> None:
        """Hands over one thing; raises `StoppedError` when all has ended."""
        dropped: list[T] = []
        with self._changed:
            if self._on_drop is None:
                self._changed.wait_for(lambda: len(self._things) < self._length or self._stopped)
            if self._stopped:
                raise StoppedError
            while len(self._things) >= self._length:
                dropped.append(self._things.popleft())
            self._things.append(thing)
            self._changed.notify_all()
        for each in dropped:
            if self._on_drop is not None:
                self._on_drop(each)

    def take_all(self) -> list[T]:
        """What waits, without waiting."""
        with self._changed:
            things = list(self._things)
            self._things.clear()
            self._changed.notify_all()
            return things

    def end(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Drops what is there and wakes everybody who waits."""
        with self._changed:
            self._stopped = True
            self._things.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        """Things that wait."""
        return len(self._things)

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._things or self._ended or self._stopped)
                if self._stopped:
                    raise StoppedError
                if not self._things:
                    return
                thing = self._things.popleft()
                self._changed.notify_all()
            yield thing


class Crew:
    """Threads that end together: the first error of any of them stops all and is raised at the end of the block.

    Args:
        lanes: between them.
        on_stop: called once when one has failed, or the block ends by an error.
    """

    def __init__(self, lanes: list[Lane[Any]], on_stop: Callable[[], None]) -> None:
        self._lanes, self._on_stop = lanes, on_stop
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def start(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Runs the work in a thread."""

        def guarded() -> None:
            try:
                work()
            except StoppedError:
                self._stop()  # whoever takes from this stage has gone
            except BaseException as error:
                self.fail(error)

        thread = threading.Thread(target=guarded, name=f"dartblur-{name}", daemon=True)
        thread.start()
        self._threads.append(thread)
        return thread

    def fail(self, error: BaseException) -> None:
        """Ends all with this error, if it is the first."""
        with self._lock:
            self._error = self._error or error
        self._stop()

    @property
    def stopped(self) -> bool:
        """Whether all are to end."""
        return self._stopped.is_set()

    def wait(self, each_time: Callable[[], None], seconds: float = 0.1) -> None:
        """Until all have done their work or one has failed; calls a function now and then meanwhile."""
        for thread in self._threads:
            while thread.is_alive() and not self._stopped.is_set():
                thread.join(seconds)
                each_time()

    def _stop(self) -> None:
        with self._lock:
            first = not self._stopped.is_set()
            self._stopped.set()
        if first:
            self._on_stop()
            for lane in self._lanes:
                lane.stop()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if kind is not None or self._stopped.is_set():
            self._stop()
            end = time.monotonic() + _PATIENCE_S
            for thread in self._threads:
                thread.join(max(0.0, end - time.monotonic()))
        # The first error is the cause; what the others report follows from it.
        if self._error is not None and (kind is None or kind is StoppedError):
            raise self._error from None
