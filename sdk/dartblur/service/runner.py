"""One stream of a service: its session in a thread of its own, begun anew whenever it fails."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol

from ..errors import DartBlurError, SourceError
from ..records.metrics import Metrics
from ..session import StreamSettings
from ..stream.observers import Event, Kind
from ..stream.sources.network import SCHEMES
from ..stream.uris import is_camera_number, scheme_of, shown

Phase = Literal["opening", "running", "waiting", "ended", "refused", "stopped"]
"""In this order: it is being opened; frames go through; it has failed and will be tried again; its source has ended; it
can't be as it is described; it was told to stop."""

OVER: tuple[Phase, ...] = ("ended", "refused", "stopped")

HUNG_S = 60.0
"""A stream that takes longer to open, or gets no result of the model for as long, hangs."""

_SHORTEST_S, _LONGEST_S = 1.0, 60.0
_STEADY_S = 60.0
"""A stream that ran so long was well: the next pause is the shortest again."""
_NO_RESULT = ("time-out", "start-up")
_CAMERAS = (*SCHEMES, "v4l2", "csi")

logger = logging.getLogger("dartblur.service")


class Running(Protocol):
    """What is run: a `Session`, or what stands in for it in a test. Its block closes it."""

    def __enter__(self) -> Running: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None, /
    ) -> None: ...

    def run(self, *, stop: threading.Event) -> object: ...  # noqa: D102


class StreamRunner:
    """Runs a stream until it is told to stop, or its source ends.

    When it fails, it is opened again, for ever: after 1 second at first, and at most after a minute. Until it has been
    opened for the first time, two errors are final: of a source that is no camera; and with `strict` any other one but
    that a camera isn't there.

    Args:
        settings: the stream.
        open: opens it; called in the stream's thread, again and again.
        strict: whether errors of other things than its source are final before it has been opened for the first time.
        tell: is told, besides the metrics, when it has failed.
        at_end: called in the stream's thread when it has ended for good.

    Attributes:
        metrics: of all its sessions together.
        phase: where it is.
        error: what made it be refused.
        decided: set when it has been opened, refused, or has failed for the first time.
    """

    def __init__(
        self,
        settings: StreamSettings,
        open: Callable[[StreamRunner], Running],
        *,
        strict: bool,
        tell: Callable[[Event], None] = lambda event: None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics(settings.name)
        self.phase: Phase = "opening"
        self.error: Exception | None = None
        self.decided = threading.Event()
        self._open, self._strict, self._tell, self._at_end = open, strict, tell, at_end
        self._stop, self._opened = threading.Event(), False
        self._since = self._well_at = time.monotonic()
        self._failures = 0
        self._named = {"stream": settings.name}
        self._thread = threading.Thread(target=self._work, name=f"dartblur-stream-{settings.name}", daemon=True)

    def start(self) -> None:
        """Begins; once only."""
        self._thread.start()

    def stop(self) -> None:
        """Makes it end soon, with all that was read written; from any thread."""
        self._stop.set()

    def join(self, timeout: float) -> bool:
        """Waits until it has ended; whether it has."""
        self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self.phase in OVER

    @property
    def hangs(self) -> bool:
        """Whether its thread has died, or nothing has come of it for too long. A camera that is away is no reason."""
        now = time.monotonic()
        if self.over or self.phase == "waiting":
            return False
        if not self._thread.is_alive():
            return True
        if self.phase == "opening":
            return now - self._since > HUNG_S
        if self.metrics.snapshot()["fault"] not in _NO_RESULT:
            self._well_at = now
        return now - self._well_at > HUNG_S

    def _work(self) -> None:
        try:
            while not self._stop.is_set() and not self.over:
                self._attempt()
            if not self.over or self._stop.is_set():
                self._enter("stopped")
        finally:
            self.decided.set()
            self._at_end()

    def _attempt(self) -> None:
        self._enter("opening")
        try:
            self._run()
            self._enter("ended")
        except Exception as error:
            if self._stop.is_set():
                # Such as a recording of no frame: nothing will be made of it.
                logger.warning("at its end: %s", shown(error), extra=self._named)
            elif self._is_final(error):
                self.error = error
                if self.decided.is_set() or not self._strict:  # otherwise the service ends by it, and says why
                    self._say("stalled", f"the stream can't be as it is described: {_told(error)}: mend it and reload")
                self._enter("refused")
            else:
                self._fail(error)

    def _run(self) -> None:
        with self._open(self) as session:
            self._opened = True
            self._enter("running")
            self.decided.set()
            began = time.monotonic()
            try:
                session.run(stop=self._stop)
            finally:
                if time.monotonic() - began >= _STEADY_S:
                    self._failures = 0

    def _enter(self, phase: Phase) -> None:
        self._since = self._well_at = time.monotonic()
        self.phase = phase

    def _is_final(self, error: Exception) -> bool:
        if self._opened:
            return False
        if not isinstance(error, SourceError):
            return self._strict
        source = self.settings.source
        # Cameras are slower to start than computers, and one that is broken shouldn't take the others with it.
        return not (scheme_of(source) in _CAMERAS or is_camera_number(source))

    def _fail(self, error: Exception) -> None:
        longest = min(_LONGEST_S, _SHORTEST_S * 2 ** min(self._failures, 16))
        self._failures += 1
        # By chance, so that many streams don't come back to one server at the same moment.
        delay = random.uniform(longest / 2, longest)
        if not isinstance(error, DartBlurError):
            logger.error("%s", shown(_told(error)), exc_info=error, extra=self._named)
        self._say("reconnecting", f"the stream has failed: {_told(error)}: trying again in {delay:.1f} s")
        self._enter("waiting")
        self.decided.set()
        self._stop.wait(delay)

    def _say(self, kind: Kind, what: str) -> None:
        event = Event(kind, shown(what), "stream")
        # Log, metrics, phase: whoever sees one of them finds the reason in those before it.
        self._tell(event)
        self.metrics.on_event(event)


def _told(error: Exception) -> str:
    if isinstance(error, DartBlurError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}: {error}: this is a bug"
