"""Reads an audit log, edited by hand or not. What isn't exactly as `audit` writes it is refused with file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..anonymizer import METHODS, Method
from ..coverage import REASONS, Coverage, Reason
from ..detections import Detections
from ..errors import InputError
from .audit import SCHEMA_VERSION
from .audit_files import older

_FRAME = {"index", "time", "wall", "source", "size", "method", "fault", "repeat", "faces", "covered"}
_FACE = {"box", "score", "id"}
_COVERED = {"box", "id", "reason"}
_NO_COVERAGE, _NO_FACES = Coverage.empty(), Detections.empty()


@dataclass(frozen=True, slots=True)
class Entry:
    """What a log says of one frame.

    Attributes:
        where: file and line, for messages.
        size: width and height of the picture, pixels.
        method: how it was covered.
        coverage: the boxes, as they are to be overwritten.
        detections: what was found.
        fault: why the frame is covered whole; None: it isn't.
        repeat: the picture before it was shown in its place.
        source: the file that it came from, where that isn't the header's source.
        time: of the frame, seconds; None where the log doesn't say.
    """

    where: str
    size: tuple[int, int]
    method: Method
    coverage: Coverage
    detections: Detections
    fault: str | None
    repeat: bool
    source: str | None
    time: float | None


@dataclass(frozen=True, slots=True)
class Audit:
    """A log in memory.

    Attributes:
        path: of its newest file.
        source: what the frames came from.
        model, model_sha256: what found the faces; empty where the log doesn't say.
        frames: by index.
    """

    path: Path
    source: str
    model: str
    model_sha256: str
    frames: dict[int, Entry]


class _LineError(Exception):
    """What is wrong in a line."""


def read_audit(path: str | Path) -> Audit:
    """Reads a log, with the rotated files ``PATH.1``, ``PATH.2``, ... of the same run, the oldest first.

    Raises:
        InputError: a file can't be read, a line is malformed, or a frame stands twice; with file and line.
    """
    path = Path(path)
    header = _header(path)
    frames: dict[int, Entry] = {}
    for part in [*reversed(_rotated(path, header)), path]:
        for where, line in _lines(part):
            with _at(where):
                parsed = _parse(line, where, header)
                if parsed is None:
                    continue
                index, entry = parsed
                if index in frames:
                    raise _LineError(f"frame {index} stands twice, first in {frames[index].where}: remove one")
            frames[index] = entry
    texts = (header.get(name) for name in ("source", "model", "model_sha256"))
    source, model, digest = (text if isinstance(text, str) else "" for text in texts)
    return Audit(path, source, model, digest, frames)


def _header(path: Path) -> dict[str, Any]:
    for where, line in _lines(path):
        with _at(where):
            header = _object(line)
            if "schema" not in header:
                raise _LineError("expected the header of an audit log, got another line: is it the first file?")
            _check_schema(header)
            return header
    raise InputError(f"{path}: expected an audit log, got an empty file")


def _rotated(path: Path, header: dict[str, Any]) -> list[Path]:
    """The older files of the same run, the newest first."""
    found: list[Path] = []
    while (part := older(path, len(found) + 1)).exists() and _header(part).get("run") == header.get("run"):
        found.append(part)
    return found


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines of a file that aren't empty, and where they stand."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}: line {number}", line
    except OSError as error:
        raise InputError(f"{path}: expected an audit log, can't be read: {error.strerror}") from error


@contextmanager
def _at(where: str) -> Iterator[None]:
    """In this block complaints get file and line."""
    try:
        yield
    except _LineError as error:
        raise InputError(f"{where}: {error}") from error


def _parse(line: bytes, where: str, header: dict[str, Any]) -> tuple[int, Entry] | None:
    """Index and entry of a line; None when it isn't about a frame."""
    entry = _object(line)
    if "schema" in entry:  # rotated files that were put together
        _check_schema(entry)
        if entry.get("run") != header.get("run"):
            raise _LineError("this is the header of another run: keep its lines in a file of their own")
        return None
    if "event" in entry:
        return None
    _check_keys(entry, _FRAME, "a frame")
    if not isinstance(repeat := entry.get("repeat", False), bool):
        raise _LineError(f"repeat: expected true or false, got {_short(repeat)}")
    if entry.get("method") not in METHODS:
        raise _LineError(f"method: expected one of {', '.join(METHODS)}, got {_short(entry.get('method'))}")
    return _whole(entry.get("index"), "index", 0), Entry(
        where=where,
        size=_size(entry.get("size")),
        method=cast("Method", entry["method"]),
        coverage=_coverage(entry.get("covered")),
        detections=_detections(entry.get("faces", [])),
        fault=_text(entry.get("fault"), "fault"),
        repeat=repeat,
        source=_text(entry.get("source"), "source"),
        time=None if entry.get("time") is None else _number(entry["time"], "time"),
    )


def _text(given: Any, name: str) -> str | None:
    if given is not None and not isinstance(given, str):
        raise _LineError(f"{name}: expected a text or null, got {_short(given)}")
    return given


def _size(given: Any) -> tuple[int, int]:
    if not isinstance(given, list) or len(given) != 2:
        raise _LineError(f"size: expected [width, height], got {_short(given)}")
    width, height = (_whole(side, "size", 1) for side in given)
    return width, height


def _coverage(covered: Any) -> Coverage:
    items = _items(covered, "covered", _COVERED)
    if not items:
        return _NO_COVERAGE
    reasons = [item.get("reason", "replay") for item in items]
    for reason in reasons:
        if reason not in REASONS:
            raise _LineError(f"reason: expected one of {', '.join(REASONS)}, got {_short(reason)}")
    # Zones are covered last, over the faces, wherever in the list they stand.
    order = sorted(range(len(items)), key=lambda number: reasons[number] == "zone")
    items = [items[number] for number in order]
    return Coverage(_boxes(items), _ids(items), tuple(cast("Reason", reasons[number]) for number in order))


def _detections(faces: Any) -> Detections:
    items = _items(faces, "faces", _FACE)
    if not items:
        return _NO_FACES
    scores = [_number(item.get("score"), "score") for item in items]
    return Detections(_boxes(items), np.array(scores, np.float32), _ids(items))


def _items(given: Any, name: str, known: set[str]) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise _LineError(f"{name}: expected a list of objects, got {_short(given)}")
    for item in given:
        _check_keys(item, known, name)
    return given


def _boxes(items: Sequence[dict[str, Any]]) -> NDArray[np.float32]:
    boxes = []
    for item in items:
        box = item.get("box")
        if not isinstance(box, list) or len(box) != 4:
            raise _LineError(f"box: expected [x0, y0, x1, y1], got {_short(box)}")
        x0, y0, x1, y1 = numbers = [_number(value, "box") for value in box]
        if not (np.float32(x0) < np.float32(x1) and np.float32(y0) < np.float32(y1)):
            raise _LineError(f"box: expected x0 < x1 and y0 < y1, got {_short(box)}, which has no area")
        boxes.append(numbers)
    return np.array(boxes, np.float32)


def _ids(items: Sequence[dict[str, Any]]) -> NDArray[np.int64]:
    return np.array([_whole(item.get("id", 0), "id", 0) for item in items], np.int64)


_LARGEST = 2.0**20
"""Pixels: what lies beyond is no part of any picture, and is cut off by the operations."""


def _number(value: Any, name: str) -> float:
    # NaN is neither.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_LARGEST <= value <= _LARGEST:
        raise _LineError(f"{name}: expected a number from -{_LARGEST:.0f} to {_LARGEST:.0f}, got {_short(value)}")
    return float(value)


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise _LineError(f"{name}: expected a whole number from {least}, got {_short(value)}")
    return value


def _check_schema(header: dict[str, Any]) -> None:
    if header["schema"] != SCHEMA_VERSION:
        raise _LineError(
            f"expected an audit log of schema {SCHEMA_VERSION}, got {_short(header['schema'])}: "
            "use the version of dartblur-edge that wrote it"
        )


def _check_keys(entry: dict[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(set(entry) - known):
        raise _LineError(f"{what}: expected {', '.join(sorted(known))}, got also {_short(unknown[0])}: is it misspelt?")


def _object(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        cut = "" if line.endswith(b"\n") else " (the last line may be cut short: remove it)"
        raise _LineError(f"expected a JSON object, got {_short(line.decode(errors='replace').strip())}{cut}") from error
    if not isinstance(entry, dict):
        raise _LineError(f"expected a JSON object, got {_short(entry)}")
    return entry


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
