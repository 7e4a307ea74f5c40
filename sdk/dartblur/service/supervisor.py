"""All streams of a service: started together, exchanged one by one, stopped together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from ..anonymizer import Anonymizer
from ..backends.base import Backend
from ..backends.loading import BackendChoice, load_backend
from ..backends.shared import SharedBackend
from ..errors import DartBlurError, InputError
from ..records.logs import LogObserver
from ..records.metrics import Metrics, serve_metrics
from ..session import PAGE, Session, StreamSettings
from .config import ServiceSettings
from .runner import StreamRunner
from .screen import Screen

if TYPE_CHECKING:
    from ..stream.sinks.page import PageServer

STOP_S = 2.0
"""How long all streams together may take to finish what they write."""

_KEYS = {"choice": "model, backend or engine", "token": "token_file", "log_format": "log", "log_level": "log"}
"""What settings are called in the file, where that differs."""

logger = logging.getLogger("dartblur.service")


class Supervisor:
    """The streams of a service, with the model, page and metrics that they share.

    Args:
        settings: the service.
        load: loads the model.

    Attributes:
        settings: as they are now.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        load: Callable[[BackendChoice], Backend] = load_backend,
    ) -> None:
        self.settings = settings
        self._load = load
        self._runners: dict[str, StreamRunner] = {}
        self._shared = ExitStack()
        self._backend: Backend | None = None
        self._page: PageServer | None = None

    def start(self) -> None:
        """Loads the model and begins all streams; `ready` and `check` say what becomes of them.

        Raises:
            DartBlurError: the page, the metrics or the model can't be as they are described.
        """
        self._serve(self.settings)
        self._backend = SharedBackend(self._load(self.settings.choice))
        self._shared.callback(self._backend.close)
        for name, stream in self.settings.streams.items():
            self._begin(name, stream, strict=True)

    @property
    def ready(self) -> bool:
        """Whether each stream has been opened, or is waited for."""
        return all(runner.decided.is_set() for runner in self._runners.values())

    def check(self) -> None:
        """Looks whether all streams can be as they are described.

        Raises:
            DartBlurError: one can't, which is named.
            Exception: of a bug.
        """
        for name, runner in self._runners.items():
            error = runner.error
            if isinstance(error, DartBlurError):
                error.args = (f"streams.{name}: {error}",)
            if error is not None:
                raise error

    def reload(self, settings: ServiceSettings) -> None:
        """Exchanges the streams that differ; the others go on. Those that are new are tried for ever.

        Raises:
            InputError: what the streams share has changed; nothing is exchanged then.
        """
        changed = [
            name
            for name in ("choice", "page", "metrics", "token", "log_format", "log_level")
            if getattr(settings, name) != getattr(self.settings, name)
        ]
        if changed:
            keys = ", ".join(_KEYS.get(name, name) for name in changed)
            raise InputError(f"{keys}: expected the same as before, what all streams share has changed: restart")
        old, new = self.settings.streams, settings.streams
        gone = {name: self._runners.pop(name) for name in old if old[name] != new.get(name)}
        self._end(gone)
        self._leave_page(gone, new)
        self.settings = settings
        for name, stream in new.items():
            if name not in self._runners:
                self._begin(name, stream, strict=False)
        self._runners = {name: self._runners[name] for name in new}
        added, removed = len(new.keys() - old.keys()), len(old.keys() - new.keys())
        same, exchanged = len(new) - added - (len(gone) - removed), len(gone) - removed
        logger.info("reloaded: %d streams go on, %d changed, %d new, %d ended", same, exchanged, added, removed)

    def stop(self) -> bool:
        """Ends all streams, finishing what they write, then page and model; whether all ended in time."""
        in_time = self._end(self._runners)
        if in_time:
            self._shared.close()  # a thread that hangs may still be in the model
        return in_time

    @property
    def over(self) -> bool:
        """Whether all streams have ended by themselves."""
        return all(runner.over for runner in self._runners.values())

    @property
    def hung(self) -> list[str]:
        """The streams that hang."""
        return [name for name, runner in self._runners.items() if runner.hangs]

    def metrics(self) -> Iterator[Metrics]:
        """Of all streams; from any thread."""
        return (runner.metrics for runner in list(self._runners.values()))

    def status(self) -> str:
        """All streams in a line."""
        states = [f"{one.stream}: {one.state}" for one in self.metrics()]
        return ", ".join(states)

    def _begin(self, name: str, stream: StreamSettings, *, strict: bool) -> None:
        log, page = LogObserver(name), self._page if PAGE in stream.sinks else None
        screens: list[Screen] = []

        def open_session(runner: StreamRunner) -> Session:
            # Before the source, so that the page knows of a camera that isn't there.
            if page is not None and not screens:
                screens.append(Screen(page, runner.metrics))
            session = Session(
                stream,
                self.settings.choice,
                anonymizer=self._anonymizer(stream),
                page=cast("PageServer", screens[0]) if screens else None,
                observers=[runner.metrics, log],
            )
            for notice in session.notices:
                logger.info("%s", notice, extra={"stream": name})
            return session

        def end() -> None:
            for screen in screens:
                screen.end()
            log.close()

        runner = self._runners[name] = StreamRunner(stream, open_session, strict=strict, tell=log.on_event, at_end=end)
        runner.start()

    def _anonymizer(self, stream: StreamSettings) -> Anonymizer:
        if self._backend is None:
            raise InputError("expected a service that has been started, it has no model")
        return Anonymizer(
            backend=self._backend, method=stream.method, threshold=stream.threshold, box_scale=stream.box_scale
        )

    def _end(self, runners: dict[str, StreamRunner]) -> bool:
        for runner in runners.values():
            runner.stop()
        end = time.monotonic() + STOP_S
        left = [name for name, runner in runners.items() if not runner.join(end - time.monotonic())]
        # One that is still being opened has written nothing.
        late = [name for name in left if runners[name].phase != "opening"]
        for name in late:
            logger.error("did not end within %g s: what it wrote is not finished", STOP_S, extra={"stream": name})
        return not late

    def _serve(self, settings: ServiceSettings) -> None:
        if settings.page is not None:
            from ..stream.sinks.page import PageServer

            self._page = self._shared.enter_context(PageServer(settings.page, settings.token))
            logger.info("page at %s", self._page.url)
            for notice in self._page.notices:
                logger.info("%s", notice)
        if settings.metrics is not None:
            served = serve_metrics(settings.metrics, _Streams(self), token=settings.token)
            self._shared.callback(served.close)
            logger.info("metrics at %smetrics", served.url)

    def _leave_page(self, runners: dict[str, StreamRunner], new: dict[str, StreamSettings]) -> None:
        """Takes streams from the page that don't come back to it, or hang there."""
        for name, runner in runners.items():
            back = name in new and PAGE in new[name].sinks
            if self._page is not None and not (back and runner.over):
                self._page.remove(name)


class _Streams(Iterable[Metrics]):
    """Goes through the streams of now, at each request."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def __iter__(self) -> Iterator[Metrics]:
        return self._supervisor.metrics()
