"""Output files that appear whole or not at all, and never over their source."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from ...errors import SinkError


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

    Args:
        target: the final name.
        overwrite: whether the target may exist.

    Raises:
        SinkError: the folder isn't writable.
    """

    def __init__(self, target: Path, overwrite: bool) -> None:
        self.target = target
        # Chance, because process numbers repeat: in containers they are often the same in every run. Cut short, because
        # a file name has at most 255 bytes.
        self.path = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.partial")
        self._overwrite = overwrite
        try:
            # Taken at once, so that a folder that can't be written to is refused before any work is done.
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
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
        except OSError as error:
            raise SinkError(
                f"{self.target}: can't be written: {reason(error)}: free some space or choose another folder"
            ) from error

    def discard(self) -> None:
        """Removes the file, if it is still pending."""
        self.path.unlink(missing_ok=True)
