"""Output files that appear whole or not at all, and never over their source."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from ...errors import SinkError

_PENDING = re.compile(r"\.(.+)\.[0-9a-f]{8}\.partial", re.DOTALL)


def check_target(target: Path, sources: Iterable[Path], overwrite: bool) -> None:
    """Refuses a target that is one of the sources, exists already or has no folder.

    The comparison is by file, so links and other spellings of the path are seen through.

    Raises:
        SinkError: with the reason and what to do.
    """
    if target.is_dir():
        raise SinkError(f"{target}: expected a file name, got a folder: name the file to write")
    if target.exists() and not target.is_file():
        raise SinkError(f"{target}: expected a file name, got a device or pipe: name the file to write")
    if not target.parent.is_dir():
        raise SinkError(f"{target}: the folder {target.parent} does not exist: create it first")
    if not os.path.lexists(target):
        return
    if is_among(target, sources):
        raise SinkError(f"{target}: this is the source itself, which is never written over: choose another name")
    if not overwrite:
        raise SinkError(f"{target}: exists already: choose another name or give --overwrite")


def is_among(target: Path, sources: Iterable[Path]) -> bool:
    """Whether a file is one of the sources; links and other spellings of the path are seen through."""
    return target.exists() and any(source.exists() and target.samefile(source) for source in sources)


def reason(error: BaseException) -> str:
    """What went wrong, in a few words: "No space left on device"."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class PendingFile:
    """A hidden file beside the target, which takes the target's name when it is complete.

    It is locked for as long as it is pending, so that what a run that was killed has left can be told from it.

    Args:
        target: the final name.
        overwrite: whether the target may exist.

    Raises:
        SinkError: the folder isn't writable.
    """

    def __init__(self, target: Path, overwrite: bool) -> None:
        self.target = target
        # Chance, because process numbers repeat: in containers they are often the same in every run.
        self.path = target.with_name(f".{abridged(target)}.{secrets.token_hex(4)}.partial")
        self._overwrite = overwrite
        try:
            # Taken at once, so that a folder that can't be written to is refused before any work is done.
            self._lock: int | None = _made_and_locked(self.path)
        except OSError as error:
            raise SinkError(f"{target}: can't be written: {reason(error)}: choose a folder that is writable") from error

    def commit(self) -> None:
        """Gives the file its final name, once its bytes are on the disk.

        Raises:
            SinkError: the disk is full, or the target has appeared meanwhile.
        """
        if not self._overwrite and os.path.lexists(self.target):
            raise SinkError(f"{self.target}: appeared during the run: choose another name or give --overwrite")
        try:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
            self.path.replace(self.target)
            self._unlock()
        except OSError as error:
            raise SinkError(
                f"{self.target}: can't be written: {reason(error)}: free some space or choose another folder"
            ) from error

    def discard(self) -> None:
        """Removes the file, if it is still pending."""
        self.path.unlink(missing_ok=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.close(lock)


def remove_leftovers(folder: Path, belongs: Callable[[str], bool]) -> None:
    """Removes the pending files of runs that were killed, which nobody locks any more.

    Args:
        folder: where they lie; nothing is done where there is none.
        belongs: whether a target's name, as `abridged` gives it, is one of the caller's.
    """
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        match = _PENDING.fullmatch(path.name)
        if match is not None and belongs(match[1]):
            _remove_unlocked(path)


def remove_leftovers_of(target: Path) -> None:
    """Removes the pending files that runs to this target have left when they were killed."""
    remove_leftovers(target.parent, lambda name: name == abridged(target))


def abridged(target: Path) -> str:
    """As much of a target's name as stands in that of its pending file: a file name has at most 255 bytes."""
    return target.name[:40]


def _made_and_locked(path: Path) -> int:
    """A new file, locked where the file system can do that."""
    while True:
        lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists():
                return lock
        except BlockingIOError:
            pass
        except OSError:  # no locks here, so nobody else can take it for a leftover either
            return lock
        # Between the two calls another run has taken it for a leftover.
        os.close(lock)
        path.unlink(missing_ok=True)


def _remove_unlocked(path: Path) -> None:
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:
        pass  # it is being written, or isn't this user's to remove
    finally:
        os.close(file)
