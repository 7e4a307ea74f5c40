"""A camera that is connected to again whenever it is lost."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic

from ...errors import DartBlurError, SourceError
from ...frame import Frame
from ..base import Source
from ..observers import Event
from ..uris import shown
from .live_clock import LiveClock

STALL_S = 5.0
CONNECT_S = 20.0
_SHORTEST_S, _LONGEST_S = 0.2, 10.0
_STEADY_S = 0.5
"""A connection that lasted so long was a good one: the next pause is the shortest again."""
_HANGING = 8
"""Threads that may hang in reads which were given up, before no more are started."""
_GOODBYE_S = 1.0


def check_stall(name: str, stall: float) -> None:
    """Refuses a patience that is none, before a camera is connected to.

    Args:
        name: of the camera, for the message.
        stall: seconds.

    Raises:
        SourceError: it isn't above 0, or too large to be waited for.
    """
    if not 0 < stall <= threading.TIMEOUT_MAX:
        raise SourceError(f"{name}: stall: expected seconds above 0, got {stall}: {STALL_S:g} suits most cameras")


class Reconnecting(Source):
    """A live source around the connections to a camera, one after the other.

    Each connection is read in a thread of its own, and only its newest frame is kept. A connection that ends, fails or
    gives nothing for a while is left for a new one, with pauses that grow from 0.2 to 10 seconds. A thread that hangs
    in a read is left behind; what it may still read is never used. `index` goes on counting (frames that nobody took
    count as well), `time` goes on growing, `pts` is None. Events: ``connected``, ``stalled``, ``reconnecting``, and
    ``dropped`` for each frame that nobody took.

    Args:
        open: connects to the camera and gives its frames; called in a thread of its own, again and again.
        first: a connection that is open already, for the first time.
        stall: seconds without a frame after which a connection counts as lost; see `check_stall`.
        connect: seconds that connecting may take.
        reconnect: connect again; otherwise the loss of the camera is a SourceError.

    Raises:
        SourceError: the first connection fails.
    """

    def __init__(
        self,
        open: Callable[[], Source],
        *,
        first: Source | None = None,
        stall: float = STALL_S,
        connect: float = CONNECT_S,
        reconnect: bool = True,
    ) -> None:
        super().__init__()
        self._open, self._stall, self._connect, self._again = open, stall, connect, reconnect
        self._changed = threading.Condition()
        self._left: list[_Reader] = []
        self._damaged_before = 0
        self._attempt = 0
        self._index = 0
        self._clock = LiveClock()
        self._reader = self._start(first)
        with self._changed:
            self._changed.wait_for(lambda: self._reader.source or self._reader.over, connect)
            source = self._reader.source
        if source is None:
            self._reader.give_up()
            raise SourceError(
                self._reader.why or f"no answer from the camera for {connect:g} s: check that it is there"
            )
        self.info = replace(source.info, live=True, frames=None)
        self.notices += source.notices

    def __iter__(self) -> Iterator[Frame]:
        """The newest frames, for ever.

        Raises:
            SourceError: the camera is lost, and `reconnect` is off.
        """
        while True:
            yield from self._frames()
            if self.stopping.is_set():
                self._reader.give_up()  # it may have been begun after `close` gave up the one before
                return
            why = self._leave()
            if not self._again:
                raise SourceError(f"{why}: stopped, as told")
            if not self._pause(why):
                return
            self._clock.restart()
            self._reader = self._start(None)

    def stop(self) -> None:
        """Makes iteration end at once; from any thread."""
        with self._changed:
            self.stopping.set()
            self._changed.notify_all()

    def close(self) -> None:
        """Lets go of the camera; one whose read hangs is left when the read returns."""
        self.stop()
        self._reader.give_up()
        self._reader.thread.join(_GOODBYE_S)

    def _start(self, first: Source | None) -> _Reader:
        return _Reader(self._open, first, self._changed, self._connect, self._stall)

    def _frames(self) -> Iterator[Frame]:
        """The newest frames of this connection, until it is over or stalls."""
        reader, connected = self._reader, False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: reader.news or self.stopping.is_set(), reader.patience)
                frame, count = reader.take()
            if self.stopping.is_set():
                return
            if frame is None:
                if reader.over or reader.patience <= 0:
                    return
                continue
            if not connected:
                connected = True
                self.observe(Event("connected", f"{self.info.uri}: connected"))
            for _ in range(count - 1):
                self.observe(Event("dropped", f"{self.info.uri}: a frame was left out, a newer one is there", "source"))
            self.damaged = self._damaged_before + reader.damaged
            self._index += count
            yield replace(frame, index=self._index - 1, time=self._clock.time_of(frame.time, frame.captured), pts=None)

    def _leave(self) -> str:
        """Gives the connection up; says why."""
        reader = self._reader
        why = reader.why
        if why is None and reader.source is None:
            why = f"{self.info.uri}: no answer for {self._connect:g} s"
        elif why is None:
            why = f"{self.info.uri}: no frame for {self._stall:g} s"
            self.observe(Event("stalled", why, "source"))
        reader.give_up()
        self._left = [left for left in [*self._left, reader] if left.thread.is_alive()]
        self._damaged_before += reader.damaged
        self.damaged = self._damaged_before
        self._attempt = 0 if reader.lasted >= _STEADY_S else self._attempt + 1
        return why

    def _pause(self, why: str) -> bool:
        """Waits before the next attempt; whether there is one."""
        while True:
            longest = min(_LONGEST_S, _SHORTEST_S * 2 ** min(self._attempt, 16))
            # By chance, so that many cameras don't come back to one server at the same moment.
            delay = random.uniform(longest / 2, longest)
            self.observe(Event("reconnecting", f"{why}: trying again in {delay:.1f} s", "source"))
            if self.stopping.wait(delay):
                return False
            self._left = [left for left in self._left if left.thread.is_alive()]
            if len(self._left) < _HANGING:
                return True
            self._attempt += 1
            why = f"{self.info.uri}: {len(self._left)} earlier reads still hang"


class _Reader:
    """One connection and the thread that reads it. What is read belongs to this connection alone.

    Attributes:
        source: the connection; None until it is there.
        over: it has ended or failed.
        why: the reason, one line.
    """

    def __init__(
        self,
        open: Callable[[], Source],
        first: Source | None,
        changed: threading.Condition,
        connect: float,
        stall: float,
    ) -> None:
        self._open, self._first, self._changed = open, first, changed
        self._connect, self._stall = connect, stall
        self.source: Source | None = None
        self.over = False
        self.why: str | None = None
        self._given_up = False
        self._newest: Frame | None = None
        self._count = 0
        self._heard = monotonic()
        self._first_heard: float | None = None
        self.thread = threading.Thread(target=self._run, name="dartblur-camera", daemon=True)
        self.thread.start()

    @property
    def news(self) -> bool:
        """Whether there is a frame, or none will come."""
        return self._newest is not None or self.over

    @property
    def patience(self) -> float:
        """Seconds for which the connection may still be silent."""
        return self._heard + (self._connect if self.source is None else self._stall) - monotonic()

    @property
    def lasted(self) -> float:
        """Seconds from the first to the last frame."""
        return 0.0 if self._first_heard is None else self._heard - self._first_heard

    @property
    def damaged(self) -> int:
        """Packets that couldn't be decoded."""
        return 0 if self.source is None else self.source.damaged

    def take(self) -> tuple[Frame | None, int]:
        """The newest frame, and how many have come since the last was taken; under the lock."""
        frame, count = self._newest, self._count
        self._newest, self._count = None, 0
        return frame, count

    def give_up(self) -> None:
        """Nothing of it is used from here on; the thread ends as soon as its read returns."""
        with self._changed:
            self._given_up, self._newest = True, None
            source = self.source
        if source is not None:
            source.stop()

    def _run(self) -> None:
        why = "it ended"
        try:
            source, self._first = self._first or self._open(), None
            with source:
                why = f"{source.info.uri}: the camera or server has ended it"
                self._read(source)
        except DartBlurError as error:
            why = shown(error)
        except Exception as error:
            why = shown(f"{type(error).__name__}: {error}")
        finally:
            with self._changed:
                self.why, self.over = why, True
                self._changed.notify_all()

    def _read(self, source: Source) -> None:
        with self._changed:
            if self._given_up:
                return
            self.source, self._heard = source, monotonic()
            self._changed.notify_all()
        for frame in source:
            with self._changed:
                if self._given_up:
                    return
                self._newest = frame
                self._count += 1
                self._heard = monotonic()
                self._first_heard = self._first_heard or self._heard
                self._changed.notify_all()
