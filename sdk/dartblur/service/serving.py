"""The service's main loop: listens to signals and tells the service manager that all is well."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError
from .config import ServiceSettings, load_config
from .problems import ConfigError
from .supervisor import Supervisor
from .systemd import notify, watchdog_interval

_END = (signal.SIGTERM, signal.SIGINT)
_AGAIN = signal.SIGHUP
_SIGNALS = (*_END, _AGAIN)
_LOOK_S = 0.5
_LOOK_AT_START_S = 0.05

logger = logging.getLogger("dartblur.service")


def serve(path: Path, settings: ServiceSettings, make: Callable[[ServiceSettings], Supervisor]) -> bool:
    """Runs a service until SIGTERM or SIGINT, or until all its sources have ended; SIGHUP reads its config again.

    Args:
        path: of the config file.
        settings: what it says now.
        make: makes the supervisor.

    Returns:
        Whether all that was written could be finished in time.

    Raises:
        DartBlurError: the service can't be as it is described.
    """
    # Taken one by one where it suits, so that none comes in the middle of something. Threads inherit it.
    with _held_back():
        supervisor = make(settings)
        try:
            supervisor.start()
            _look_after(path, supervisor)
        finally:
            notify("STOPPING=1")
            in_time = supervisor.stop()
    return in_time


@contextmanager
def _held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        # Those that came too late would end the process here, after all was finished.
        while signal.sigtimedwait(_SIGNALS, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _look_after(path: Path, supervisor: Supervisor) -> None:
    ready, hung, interval = False, set[str](), watchdog_interval()
    pause = _LOOK_S if interval is None else min(_LOOK_S, interval / 4)
    while not (ready and supervisor.over):
        # A reload waits until all has started.
        received = signal.sigtimedwait(_SIGNALS if ready else _END, pause if ready else _LOOK_AT_START_S)
        if received is not None and received.si_signo in _END:
            logger.info("told to end by %s", signal.Signals(received.si_signo).name)
            return
        if not ready:
            ready = supervisor.ready  # before the look: a stream that is refused between the two isn't passed over
            supervisor.check()
            if not ready:
                continue
            notify("READY=1")
            logger.info("ready: %s", supervisor.status())
        if received is not None:
            _reload(path, supervisor)
        for name in supervisor.hung:
            if name not in hung:
                logger.error("hangs: no more signs of life for the service manager", extra={"stream": name})
            hung.add(name)
        if not supervisor.hung:
            hung.clear()
            notify("WATCHDOG=1", f"STATUS={supervisor.status()}")
    supervisor.check()  # of streams that a reload brought
    logger.info("all sources have ended")


def _reload(path: Path, supervisor: Supervisor) -> None:
    try:
        supervisor.reload(load_config(path))
    except InputError as error:
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        for problem in problems:
            logger.error("the old config goes on: %s", problem)
