"""Logs for people and machines, through Python's `logging`, without credentials.

::

    configure(format="json")
    observers = [LogObserver("front door")]
"""

from __future__ import annotations

import copy
import logging
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args

from ..errors import InputError
from ..frame import RedactedFrame
from ..stream.observers import Event, Kind, Observer
from ..stream.uris import shown

Format = Literal["text", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)

LEVELS = ("debug", "info", "warning", "error", "critical")

_LEVEL_OF: dict[Kind, int] = {
    "connected": logging.INFO,
    "reconnecting": logging.WARNING,
    "stalled": logging.WARNING,
    "resized": logging.INFO,
    "dropped": logging.INFO,
    "sink-dropped": logging.WARNING,
    "fault": logging.ERROR,
    "recovered": logging.INFO,
    "uncovered": logging.ERROR,
    "not-hidden": logging.ERROR,
}

_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest are a caller's own fields."""

log = logging.getLogger("dartblur.stream")

if TYPE_CHECKING:
    _Stream = logging.StreamHandler[TextIO]
else:
    _Stream = logging.StreamHandler


def configure(format: Format = "text", level: str = "info", stream: TextIO | None = None) -> None:
    """Sends the records of this program to stderr: for commands and services, not for libraries.

    Called again it takes the place of what it did before. Other libraries are heard from warnings on.

    Args:
        format: ``text``, a line for people, or ``json``, an object a line: time, level, logger, message, and fields
            such as stream, event, count.
        level: the least that is told: debug, info, warning, error or critical.
        stream: where it goes instead.

    Raises:
        InputError: no such format or level, or the package for ``json`` isn't installed.
    """
    if format not in FORMATS:
        raise InputError(f"log format: expected one of {', '.join(FORMATS)}, got {format!r}")
    if level not in LEVELS:
        raise InputError(f"log level: expected one of {', '.join(LEVELS)}, got {level!r}")
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(_json_formatter() if format == "json" else _TextFormatter())
    root = logging.getLogger()
    for before in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(before)
    root.addHandler(handler)
    logging.getLogger("dartblur").setLevel(level.upper())


def hide(text: str) -> str:
    """A text without credentials: those that `shown` knows, and those of headers, JSON and Python's reprs."""
    return _QUOTED.sub(r"\1***", _HEADER.sub(r"\1\2***", shown(text)))


_SECRET = r"(?:passw(?:or)?d|passphrase|token|secret|credentials?|authorization|cookie|api[_-]?key)"
_NAME = re.compile(_SECRET, re.IGNORECASE)
_QUOTED = re.compile(rf"([\w.-]*{_SECRET}['\"]?\s*[:=]\s*)(?:\"[^\"]*\"?|'[^']*'?)", re.IGNORECASE)
_HEADER = re.compile(
    r"((?:authorization|cookie)\s*:\s*)[^\r\n]+|(\b(?:bearer|basic|digest)\s+)[\w.~+/=-]{8,}", re.IGNORECASE
)


def without_credentials(record: logging.LogRecord) -> logging.LogRecord:
    """A copy of a record whose message, error and fields show none."""
    record = copy.copy(record)
    try:
        text = record.getMessage()
    except Exception:  # its arguments don't fit
        text = f"{record.msg} {record.args}"
    record.msg, record.args = hide(text), None
    if record.exc_info:
        # Formatters take this text where there is one, and don't ask the error again.
        record.exc_text = hide(logging.Formatter().formatException(record.exc_info))
        record.exc_info = None
    if record.stack_info:
        record.stack_info = hide(record.stack_info)
    for name in set(vars(record)) - _PLAIN:
        setattr(record, name, "***" if _NAME.search(name) else _hidden(getattr(record, name)))
    return record


def _hidden(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {key: "***" if _NAME.search(str(key)) else _hidden(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(each) for each in value]
    return hide(str(value))


@dataclass(slots=True)
class _Burst:
    """Events of one kind that haven't been told yet."""

    since: float
    event: Event | None = None
    count: int = 0


class LogObserver(Observer):
    """Tells the log of a stream's events: the first of a kind at once, what follows as one line with a count.

    Args:
        stream: name of the stream.
        every: seconds between two lines of the same kind about the same thing.
        clock: seconds that only go forward.
    """

    def __init__(self, stream: str, every: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._every, self._clock = stream, every, clock
        self._bursts: dict[tuple[str, str], _Burst] = {}

    def on_frame(self, frame: RedactedFrame, source: str) -> None:
        """Tells what is due."""
        if self._bursts:
            self._tell_due(self._clock())

    def on_event(self, event: Event) -> None:
        """Tells of the event, now or later."""
        now = self._clock()
        self._tell_due(now)
        key = event.kind, event.of
        if key not in self._bursts:
            self._bursts[key] = _Burst(now)
            self._tell(event, 1, 0.0)
            return
        # The last in the order of telling is the one that happened last: a line never tells of a state that is over.
        burst = self._bursts.pop(key)
        self._bursts[key] = burst
        burst.event, burst.count = event, burst.count + 1

    def close(self) -> None:
        """Tells what is left, when the stream has ended."""
        now = self._clock()
        for burst in self._bursts.values():
            if burst.event is not None:
                self._tell(burst.event, burst.count, now - burst.since)
        self._bursts.clear()

    def _tell_due(self, now: float) -> None:
        for key, burst in list(self._bursts.items()):
            if now - burst.since < self._every:
                continue
            del self._bursts[key]
            if burst.event is not None:
                self._bursts[key] = _Burst(now)
                self._tell(burst.event, burst.count, now - burst.since)

    def _tell(self, event: Event, count: int, seconds: float) -> None:
        message = (
            event.message if count == 1 else f"{event.message} ({count} times in {seconds:.0f} s, this is the last)"
        )
        fields = {"stream": self._stream, "event": event.kind, "of": event.of, "count": count}
        log.log(_LEVEL_OF[event.kind], "%s: %s", event.kind, message, extra=fields)


class _Handler(_Stream):
    """The handler that `configure` adds."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, without credentials; other handlers get the record as it was."""
        return super().format(without_credentials(record))


class _TextFormatter(logging.Formatter):
    """``2026-03-01T12:00:00.000Z WARNING front door: reconnecting: ...``."""

    def format(self, record: logging.LogRecord) -> str:
        stream = getattr(record, "stream", "")
        start = f"{_time(record)} {record.levelname} {stream or record.name}: {record.getMessage()}"
        # One record, one line: what a message brings along can't pretend to be another record.
        return " | ".join(f"{start}\n{record.exc_text}".splitlines() if record.exc_text else start.splitlines())


def _json_formatter() -> logging.Formatter:
    try:
        from pythonjsonlogger.json import JsonFormatter
    except ImportError as error:
        raise InputError(
            "log format json: needs python-json-logger: pip install 'dartblur-edge[live]', or choose text"
        ) from error

    class Formatter(JsonFormatter):
        def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
            log_data["time"] = _time(record)
            super().add_fields(log_data, record, message_dict)

    names = {"levelname": "level", "name": "logger", "exc_info": "error"}
    return Formatter("%(levelname)s %(name)s %(message)s", rename_fields=names)


def _time(record: logging.LogRecord) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{moment}.{int(record.msecs):03d}Z"
