"""Those who are told what happens in a stream: the audit log, the metrics, the log, the page."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from ..frame import RedactedFrame

Kind = Literal[
    "connected",
    "reconnecting",
    "stalled",
    "resized",
    "dropped",
    "sink-dropped",
    "fault",
    "recovered",
    "uncovered",
    "not-hidden",
]
"""In this order: a source is there (again); it is gone and tried again; it gives nothing; its frames have another size;
a clear frame was thrown away because a newer one is there; a sink was too slow for a frame; frames are covered whole
from here on; they are anonymized again; the self-check found a face that wasn't covered; it saw a face through its
cover."""

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, other than a frame that went its way.

    Attributes:
        kind: one of `KINDS`.
        message: one line for people; without credentials.
        of: what it is about in a word or two, for counting: the reason of a fault, the URI of a sink.
    """

    kind: Kind
    message: str
    of: str = ""


class Observer:
    """Is told of frames and events; never by two threads at once. What it raises ends the stream."""

    def on_frame(self, frame: RedactedFrame, source: str) -> None:
        """A redacted frame was handed to the sinks; `source` is the file or URI that it came from."""

    def on_event(self, event: Event) -> None:
        """Something else happened."""


class Observers(Observer):
    """Several observers as one, for several threads."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = list(observers)
        self._lock = threading.Lock()

    def on_frame(self, frame: RedactedFrame, source: str) -> None:
        """Tells all, one after another."""
        with self._lock:
            for observer in self._observers:
                observer.on_frame(frame, source)

    def on_event(self, event: Event) -> None:
        """Tells all, one after another."""
        with self._lock:
            for observer in self._observers:
                observer.on_event(event)
