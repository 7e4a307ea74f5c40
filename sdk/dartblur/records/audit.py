"""The audit log: for every frame that was written, what was found in it and how it was covered. No pixels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from .errors import SinkError
from .frame import RedactedFrame

if TYPE_CHECKING:
    from io import TextIOWrapper


class AuditLog:
    """One JSON object a line: ``source, index, time, boxes, scores, method, model``.

    ``boxes`` are xyxy in pixels of the upright picture, as they were found; ``time`` is in seconds. As a context
    manager it behaves like a sink: the file gets its name when the block ends without an error, and never otherwise.
    Let its block enclose the sink's: then there is no log of an output that isn't there.

    Attributes:
        model: name and version of the model; set it before the first frame.

    Args:
        path: the file to write.
        sources: files that it must never write over.
        overwrite: whether the file may exist.

    Raises:
        SinkError: it exists, or can't be written.
    """

    def __init__(self, path: Path, *, sources: Iterable[Path] = (), overwrite: bool = False) -> None:
        from .stream.files import PendingFile, check_target

        self.model = ""
        try:
            check_target(path, sources, overwrite)
            self._pending = PendingFile(path, overwrite)
            self._file: TextIOWrapper = self._pending.path.open("w", encoding="utf-8")
        except OSError as error:
            raise SinkError(f"{path}: can't be written: {error.strerror}: choose another name") from error

    def record(self, frame: RedactedFrame, source: str) -> None:
        """Adds one frame.

        Raises:
            SinkError: the disk is full.
        """
        entry = {
            "source": source,
            "index": frame.index,
            "time": round(frame.time, 6),
            "boxes": [[round(float(value), 2) for value in box] for box in frame.detections.boxes],
            "scores": [round(float(score), 4) for score in frame.detections.scores],
            "method": frame.method,
            "model": self.model,
        }
        try:
            self._file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise self._failed(error) from error

    def flush(self) -> None:
        """Brings all to the disk, so that what is left to do when the block ends needs no space.

        Raises:
            SinkError: the disk is full.
        """
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._file.close()
            if kind is None:
                self._pending.commit()
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            self._pending.discard()

    def _failed(self, error: OSError) -> SinkError:
        return SinkError(f"{self._pending.target}: can't be written: {error.strerror}: free some space")
