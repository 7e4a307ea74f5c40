"""Where an audit log is written: a file that appears when it is complete, or files that are rotated by size.

Both hold whole lines only, whatever happens: a line is handed to the system at once, and one that doesn't fit on the
disk is taken back.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import InputError, SinkError

if TYPE_CHECKING:
    from io import FileIO

SMALLEST = 10_000
"""Bytes: fewer would hold little more than the header."""


class LogFile(Protocol):
    """What an audit log is written to."""

    def begin(self, header: bytes) -> None:
        """Opens it, with its first line."""

    def write(self, line: bytes) -> None:
        """Adds a line; raises `SinkError` when it can't be written."""

    def close(self, complete: bool) -> None:
        """Ends it; `complete` says whether all has gone well."""


class WholeFile:
    """A file that gets its name when it is complete, and never otherwise.

    Args:
        path: the file to write.
        sources: files that it must never write over.
        overwrite: whether the file may exist.

    Raises:
        SinkError: it exists, or can't be written.
    """

    def __init__(self, path: Path, sources: Iterable[Path] = (), overwrite: bool = False) -> None:
        from ..stream.media.files import PendingFile, check_target, reason, remove_leftovers_of

        try:
            check_target(path, sources, overwrite)
            remove_leftovers_of(path)
            self._pending = PendingFile(path, overwrite)
            self._lines = _Lines(self._pending.path, path)
        except OSError as error:
            raise SinkError(f"{path}: can't be written: {reason(error)}: choose another name") from error

    def begin(self, header: bytes) -> None:
        """Writes the first line."""
        self._lines.write(header)

    def write(self, line: bytes) -> None:
        """Adds a line."""
        self._lines.write(line)

    def close(self, complete: bool) -> None:
        """Gives the file its name, or removes it."""
        try:
            self._lines.close()
            if complete:
                self._pending.commit()
        finally:
            self._pending.discard()


class RotatingFile:
    """A file that is written at once under its name; when it is full it becomes ``NAME.1``, that ``NAME.2``, and so on.

    What an earlier run has left is rotated as well, and never written over.

    Args:
        path: the file to write.
        max_bytes: size of a file, at most, unless one line alone is larger.
        keep: how many older files are kept.

    Raises:
        InputError: an argument is out of its range.
        SinkError: what is there under these names is no audit log, or the folder isn't writable.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        from ..stream.media.files import check_target

        if max_bytes < SMALLEST:
            raise InputError(f"audit log: expected at least {SMALLEST} bytes a file, got {max_bytes}")
        if keep < 1:
            raise InputError(f"audit log: expected at least 1 older file to keep, got {keep}")
        self._path, self._max_bytes, self._keep = path, max_bytes, keep
        for each in (path, *(older(path, number) for number in range(1, keep + 1))):
            check_target(each, (), overwrite=True)
            if each.exists() and not _is_log(each):
                raise SinkError(f"{each}: exists and is no audit log: choose another name")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise SinkError(f"{path}: can't be written: choose a folder that is writable")
        self._header = b""
        self._lines: _Lines | None = None

    def begin(self, header: bytes) -> None:
        """Puts aside what is there, and begins a new file."""
        self._header = header
        if self._path.exists():
            with _Lines(self._path, self._path) as before:
                before.lock()
        self._rotate()

    def write(self, line: bytes) -> None:
        """Adds a line, in a new file when this one is full."""
        if self._lines is None:
            raise RuntimeError("expected begin before the first line")
        if self._lines.size + len(line) > self._max_bytes and self._lines.size > len(self._header):
            self._rotate()
        self._lines.write(line)

    def close(self, complete: bool) -> None:
        """Closes the file, which stays."""
        if self._lines is not None:
            self._lines.close()

    def _rotate(self) -> None:
        if self._lines is not None:
            self._lines.close()
        try:
            for number in range(self._keep, 0, -1):
                newer = older(self._path, number - 1)
                if newer.exists():
                    newer.replace(older(self._path, number))
            self._lines = _Lines(self._path, self._path)
        except OSError as error:
            raise _failed(self._path, error) from error
        self._lines.lock()
        self._lines.write(self._header)


def older(path: Path, number: int) -> Path:
    """The file that was rotated so many times; 0: the one that is being written."""
    return path.with_name(f"{path.name}.{number}") if number else path


def _is_log(path: Path) -> bool:
    """Whether a file is empty or begins as an audit log does."""
    try:
        with path.open("rb") as file:
            line = file.readline(1_000_000)
        return not line or "schema" in json.loads(line)
    except (OSError, ValueError, TypeError, RecursionError):
        return False


class _Lines:
    """A file of whole lines; `name` is what messages call it."""

    def __init__(self, path: Path, name: Path) -> None:
        self._name = name
        self._file: FileIO = path.open("ab", buffering=0)
        self.size = self._file.seek(0, os.SEEK_END)

    def lock(self) -> None:
        """Refuses a file that another stream is writing."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise SinkError(f"{self._name}: is being written by another stream: choose another name") from error

    def write(self, line: bytes) -> None:
        """Adds a line, or nothing of it."""
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self.size)
            raise _failed(self._name, error) from error
        self.size += len(line)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _failed(path: Path, error: OSError) -> SinkError:
    from ..stream.media.files import reason

    return SinkError(f"{path}: can't be written: {reason(error)}: free some space")
