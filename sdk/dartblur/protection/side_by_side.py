"""`SideBySide`: pictures that have nothing to do with one another, several at work at the same time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType

from ..anonymizer import Anonymizer
from ..frame import Frame
from .guard import Guard, Outcome
from .policy import Protection

_PATIENCE_S = 1.0
"""How long the end waits for pictures that are under way. Who takes longer is left behind."""

_Task = tuple[Frame, Future[list[Outcome]]]


class SideBySide:
    """Guards that each take the next picture, in threads of their own; results come in the order of the pictures.

    A picture on each core uses the cores better than a network that is spread over all of them. One that takes longer
    than it may takes those beside it along: all of them are covered. A context manager, whose end ends the threads
    (those of a `ThreadPoolExecutor` that hang would keep the process from ending).

    Args:
        anonymizer: finds and overwrites; `Anonymizer.at_once` pictures at a time.
        protection: one that is `Protection.apart`.
    """

    def __init__(self, anonymizer: Anonymizer, protection: Protection) -> None:
        guards = [Guard(anonymizer, protection, apart=True) for _ in range(anonymizer.at_once)]
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._begun: deque[Future[list[Outcome]]] = deque()
        self._threads = [
            threading.Thread(target=self._work, args=[guard], name="dartblur-guard", daemon=True) for guard in guards
        ]

    @property
    def full(self) -> bool:
        """Whether the oldest picture is to be finished before another is begun: when each thread has one, and one more
        waits, so that none is idle meanwhile.
        """
        return len(self._begun) > len(self._threads)

    def __len__(self) -> int:
        """Pictures that have been begun and not finished."""
        return len(self._begun)

    def begin(self, frame: Frame) -> None:
        """Starts on a picture, whose pixels are overwritten in place; not when `full`. Raises nothing."""
        coming: Future[list[Outcome]] = Future()
        self._begun.append(coming)
        self._tasks.put((frame, coming))

    def finish(self) -> Iterator[Outcome]:
        """Waits for the oldest picture, and gives what leaves of it."""
        yield from self._begun.popleft().result()

    def drain(self) -> Iterator[Outcome]:
        """What still waits when there are no more pictures."""
        while self._begun:
            yield from self.finish()

    def abandon(self) -> None:
        """Gives up all pictures that are under way; from any thread."""
        while True:
            try:
                coming = self._begun.popleft()
            except IndexError:
                return
            coming.cancel()  # whoever has begun with it finishes it for nothing

    def __enter__(self) -> SideBySide:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.abandon()
        self._end()

    def _end(self) -> None:
        """Ends the threads: an interpreter that ends while one is inside of a network would be aborted."""
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))

    def _work(self, guard: Guard) -> None:
        while self._do(guard, self._tasks.get()):
            pass

    def _do(self, guard: Guard, task: _Task | None) -> bool:
        """Does a task; false when there are no more. Nothing of it is kept."""
        if task is None:
            return False
        frame, coming = task
        if coming.set_running_or_notify_cancel():
            try:
                guard.begin(frame)
                coming.set_result(list(guard.drain()))
            except BaseException as error:
                guard.abandon()
                coming.set_exception(error)
        return True
