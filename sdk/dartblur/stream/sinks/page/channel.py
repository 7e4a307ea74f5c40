"""One stream as the page knows it: the newest frame, its numbers, and whether it has ended."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from ....frame import RedactedFrame

if TYPE_CHECKING:
    from ....records.metrics import Metrics

Ending = Literal["ended", "failed"]


class EndedError(Exception):
    """No more frames will come."""


class Channel:
    """Hands the newest frame of a stream to whoever watches; frames that nobody was in time for are gone.

    Args:
        name: its path on the server.
        title: for people.
        metrics: of the stream.
        loop: of the server; all but `put` and `end` belong to it.
    """

    def __init__(self, name: str, title: str, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self.name, self.title, self.metrics = name, title, metrics
        self.ending: Ending | None = None
        self._loop = loop
        self._newest: tuple[int, RedactedFrame] | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    def put(self, frame: RedactedFrame) -> None:
        """Shows a frame; from any one thread, at once."""
        number = 0 if self._newest is None else self._newest[0] + 1
        self._newest = (number, frame)
        if self._waiting:
            self._wake_soon()

    def end(self, ending: Ending) -> None:
        """No more frames will come; from any thread."""
        self.ending = self.ending or ending
        self._wake_soon()

    @property
    def newest(self) -> RedactedFrame | None:
        """The newest frame, if there is one."""
        return None if self._newest is None else self._newest[1]

    async def after(self, number: int, patience: float) -> tuple[int, RedactedFrame]:
        """Waits for a frame that is newer than that of a number; -1 takes the newest at once.

        When none comes for `patience` seconds, the newest is given again: those who watch then know that the
        connection holds.

        Raises:
            EndedError: no more will come.
        """
        while True:
            # First in the list, then a look at the newest: `put` does both in the other order.
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiting.add(waiter)
            try:
                if self.ending is not None:
                    raise EndedError
                newest = self._newest
                if newest is not None and newest[0] > number:
                    return newest
                done, _ = await asyncio.wait([waiter], timeout=patience)
                if not done and self._newest is not None:
                    return self._newest
            finally:
                self._waiting.discard(waiter)
                waiter.cancel()

    def status(self) -> dict[str, Any]:
        """The numbers and the state, ready for JSON."""
        status = {**self.metrics.snapshot(), "stream": self.name, "title": self.title}
        return status if self.ending is None else {**status, "state": self.ending}

    def _wake_soon(self) -> None:
        # A loop that has ended has nobody left to wake.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
