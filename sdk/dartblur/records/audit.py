"""The audit log: for every frame that was handed to the sinks, what was found in it and how it was covered. No pixels.

One JSON object a line. The first is the header (``schema``); the others are frames (``index``) or events (``event``)::

    {"schema": 1, "software": "0.1.0", "run": "5f0c...", "began": "2026-03-01T12:00:00.000Z", "source": "rtsp://***@cam",
     "model": "dartblur-small 1", "model_sha256": "ab12...", "policy": {"method": "dart", "hold": 1.0, ...}}
    {"index": 0, "time": 0.0, "wall": "...", "size": [1280, 720], "method": "dart", "fault": null,
     "faces": [{"box": [x0, y0, x1, y1], "score": 0.93, "id": 1}],
     "covered": [{"box": [x0, y0, x1, y1], "id": 1, "reason": "detected"}]}
    {"event": "reconnecting", "message": "...", "of": "", "wall": "..."}

Boxes are xyxy in pixels of the upright picture; ``covered`` has them as they were overwritten, in this order, with all
the digits that it takes to overwrite the same pixels again: `replay` does. An id is that of a track, 0 for none; of
pictures that aren't tracked they begin anew in each. The frame of a folder has ``source``, its file. A frame with a
``fault`` shows one colour, or with ``repeat`` the picture before it.
"""

from __future__ import annotations

import json
import secrets
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..frame import Image, RedactedFrame
from ..stream.observers import Event, Observer
from ..stream.uris import shown
from .audit_files import LogFile, RotatingFile, WholeFile

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..backends.loading import BackendChoice
    from ..protection.policy import Protection

SCHEMA_VERSION = 1
MAX_BYTES = 50_000_000
KEEP = 9


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of every file of a log.

    Attributes:
        source: what the frames came from, without credentials.
        model: name and version.
        model_sha256: of the bundle's manifest, which names that of every other file of it; empty where there is none.
        policy: how faces were to be covered, as `policy_of` makes it.
        run: tells the files of one run from those of others.
        began: UTC, ISO 8601.
        software: version of this package.
        schema: version of this record.
    """

    source: str
    model: str
    model_sha256: str
    policy: dict[str, Any]
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    began: str = field(default_factory=lambda: utc())
    software: str = field(default_factory=lambda: _version())
    schema: int = SCHEMA_VERSION


def policy_of(anonymizer: Anonymizer, protection: Protection) -> dict[str, Any]:
    """How a stream covers faces, for the header."""
    return {
        "method": anonymizer.method,
        "threshold": anonymizer.threshold,
        "box_scale": anonymizer.box_scale,
        "hold": protection.hold,
        "lookahead": protection.lookahead,
        "on_fault": protection.on_fault,
        "timeout": protection.timeout,
        "self_check": protection.self_check,
        "zones": {"always": list(map(str, protection.zones.always)), "never": list(map(str, protection.zones.never))},
    }


def model_sha256(choice: BackendChoice) -> str:
    """sha256 of the manifest of the bundle that a backend runs, or that its engine was built of.

    Raises:
        BundleError: the bundle, or the engine's passport, can't be read.
    """
    from ..bundle import load_bundle
    from ..passport import bundle_sha256, read_passport

    if choice.engine is not None:
        return read_passport(choice.engine).bundle_sha256
    return bundle_sha256(load_bundle(choice.model))


class AuditLog(Observer):
    """Writes the log. Make it by `of_file` or `of_stream`; call `begin` before the first frame.

    A context manager: let its block enclose the sinks', so that there is no log of an output that isn't there.
    """

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._header: Header | None = None
        self._early: list[Event] = []
        self._before: weakref.ref[Image] | None = None

    @classmethod
    def of_file(cls, path: str | Path, *, sources: Iterable[Path] = (), overwrite: bool = False) -> AuditLog:
        """The log of a file: it gets its name when the block ends without an error, and never otherwise.

        Args:
            path: the file to write.
            sources: files that it must never write over.
            overwrite: whether the file may exist.

        Raises:
            SinkError: it exists, or can't be written.
        """
        return cls(WholeFile(Path(path), sources, overwrite))

    @classmethod
    def of_stream(cls, path: str | Path, *, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> AuditLog:
        """The log of a live stream: written line by line, rotated by size; what was there before is rotated too.

        Args:
            path: the file to write; older ones are called ``PATH.1``, ``PATH.2`` and so on.
            max_bytes: size of a file.
            keep: how many older files are kept.

        Raises:
            InputError: an argument is out of its range.
            SinkError: what is there is no audit log, or the folder isn't writable.
        """
        return cls(RotatingFile(Path(path), max_bytes, keep))

    def begin(self, header: Header) -> None:
        """Writes the first line; once.

        Raises:
            SinkError: it can't be written, or another stream is writing this log.
        """
        self._file.begin(_line({"schema": header.schema, **asdict(header)}))
        self._header = header
        for event in self._early:
            self.on_event(event)
        self._early.clear()

    def on_frame(self, frame: RedactedFrame, source: str) -> None:
        """Adds a frame.

        Raises:
            SinkError: the disk is full. Then nothing may leave.
        """
        if self._header is None:
            raise RuntimeError("expected begin before the first frame")
        entry = frame_entry(frame)
        if (name := shown(source)) != self._header.source:
            entry["source"] = name
        if frame.fault is not None and self._before is not None and self._before() is frame.image:
            entry["repeat"] = True
        self._before = weakref.ref(frame.image)
        self._file.write(_line(entry))

    def on_event(self, event: Event) -> None:
        """Adds an event; raises `SinkError` as `on_frame` does."""
        if self._header is None:
            self._early.append(event)
            return
        entry = {"event": event.kind, "message": shown(event.message), "of": shown(event.of), "wall": utc()}
        self._file.write(_line(entry))

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close(complete=kind is None)


def frame_entry(frame: RedactedFrame) -> dict[str, Any]:
    """What is recorded of a frame, as JSON has it."""
    found, covered = frame.detections, frame.coverage
    ids = np.zeros(len(found), np.int64) if found.ids is None else found.ids
    height, width = frame.image.shape[:2]
    return {
        "index": frame.index,
        "time": round(frame.time, 6),
        "wall": utc(time.monotonic() - frame.captured),
        "size": [width, height],
        "method": frame.method,
        "fault": frame.fault,
        "faces": [
            {"box": box, "score": score, "id": number}
            for box, score, number in zip(map(exact, found.boxes), exact(found.scores), ids.tolist(), strict=True)
        ],
        "covered": [
            {"box": box, "id": number, "reason": reason}
            for box, number, reason in zip(
                map(exact, covered.boxes), covered.ids.tolist(), covered.reasons, strict=True
            )
        ],
    }


def exact(values: NDArray[np.float32] | Sequence[np.float32]) -> list[float]:
    """The shortest decimals that are read as the same float32 numbers."""
    return [float(str(np.float32(value))) for value in values]


def utc(age: float = 0.0) -> str:
    """The time of so many seconds ago, ISO 8601 with milliseconds: ``2026-03-01T12:00:00.000Z``."""
    moment = datetime.now(timezone.utc) - timedelta(seconds=age)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(entry: dict[str, Any]) -> bytes:
    # Without NaN, which is no JSON.
    return (json.dumps(entry, allow_nan=False) + "\n").encode()


def _version() -> str:
    from .. import __version__

    return __version__
