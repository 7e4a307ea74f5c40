"""`SideBySide`: frames that are covered each by itself, several at work at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType

from ..anonymizer import Anonymizer
from ..frame import Frame
from .guard import Guard, Outcome
from .policy import Protection


class SideBySide:
    """Guards that each take the next frame, in threads of their own; what they give comes in the order of the frames.

    For pictures: one that is on its way uses the cores better than a network that is spread over all of them. Faces
    are numbered from 1 in every frame. A context manager, whose end ends the threads; one that hangs is left behind.

    Args:
        anonymizer: finds and overwrites; `Anonymizer.at_once` frames at a time.
        protection: one under which frames are `Protection.apart`.
    """

    def __init__(self, anonymizer: Anonymizer, protection: Protection) -> None:
        self._anonymizer, self._protection = anonymizer, protection
        self._workers = anonymizer.at_once
        self._work: SimpleQueue[tuple[Frame, Future[list[Outcome]]] | None] = SimpleQueue()
        self._begun: deque[Future[list[Outcome]]] = deque()

    @property
    def full(self) -> bool:
        """Whether the oldest frame is to be finished before another is begun; one waits for whoever is done first."""
        return len(self._begun) > self._workers

    def __len__(self) -> int:
        """Frames that have been begun and not finished."""
        return len(self._begun)

    def begin(self, frame: Frame) -> None:
        """Starts on a frame, whose pixels are overwritten in place; not when `full`. Raises nothing."""
        coming: Future[list[Outcome]] = Future()
        self._begun.append(coming)
        self._work.put((frame, coming))

    def finish(self) -> Iterator[Outcome]:
        """Waits for the oldest frame, and gives what leaves of it."""
        yield from self._begun.popleft().result()

    def drain(self) -> Iterator[Outcome]:
        """What still waits when there are no more frames."""
        while self._begun:
            yield from self.finish()

    def abandon(self) -> None:
        """Gives up all frames that are under way."""
        for coming in self._begun:
            coming.cancel()  # whoever has begun with it finishes it for nothing
        self._begun.clear()

    def __enter__(self) -> SideBySide:
        for number in range(self._workers):
            threading.Thread(target=self._work_on, name=f"dartblur-guard-{number}", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.abandon()
        for _ in range(self._workers):
            self._work.put(None)

    def _work_on(self) -> None:
        while (task := self._work.get()) is not None:
            frame, coming = task
            if not coming.set_running_or_notify_cancel():
                continue
            try:
                guard = Guard(self._anonymizer, self._protection)
                guard.begin(frame)
                coming.set_result(list(guard.drain()))
            except BaseException as error:
                coming.set_exception(error)
            del task, frame, coming
