"""Names of recordings: one, or one for each segment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from ...errors import SinkError
from ..media.files import check_target, is_among, reason

_DIRECTIVE = re.compile(r"%[A-Za-z]")
_STAMP = "%Y%m%dT%H%M%S"


class RecordingNames:
    """The names of the files of a recording, one after another.

    ``cam.mp4`` stays as it is, or becomes ``cam-20261121T140000.mp4`` for segments. A name with directives of strftime
    (``%Y-%m-%d/cam-%H%M.mp4``) is taken as a pattern, and its folders are made. A segment whose name is taken gets a
    number: ``cam-1400-2.mp4``. With `overwrite` it replaces the file, so that ``cam-%H%M.mp4`` keeps one day. Segments
    in a row that have one name (six of 10 seconds) are still numbered, and after the clock was set back nothing is
    replaced until it is as late again. The source is never written over.

    Args:
        path: the name or pattern.
        segments: whether there are several files.
        overwrite: whether files that exist are replaced.
        sources: files that are read.
        now: the local time.

    Raises:
        SinkError: the file exists or is the source, or its folder doesn't exist or isn't writable.
    """

    def __init__(
        self,
        path: Path,
        *,
        segments: bool,
        overwrite: bool,
        sources: Sequence[Path] = (),
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        pattern = str(path)
        self._many = segments or bool(_DIRECTIVE.search(pattern))
        if segments and not _DIRECTIVE.search(pattern):
            pattern = f"{path.with_suffix('')}".replace("%", "%%") + f"-{_STAMP}{path.suffix}"
        self._pattern, self._overwrite, self._now = pattern, overwrite, now
        self._sources = sources
        self._plain, self._number, self._latest = Path(), 0, datetime.min
        fixed = Path(_DIRECTIVE.split(pattern)[0] + "x").parent if self._many else path.parent
        check_target(fixed / path.name if self._many else path, sources, overwrite or self._many)
        if not os.access(fixed, os.W_OK | os.X_OK):
            raise SinkError(f"{path}: can't be written to: choose a folder that is writable")

    def next(self) -> Path:
        """The name of a file that begins now; nothing has it, or it may be replaced.

        Raises:
            SinkError: its folder can't be made.
        """
        if not self._many:
            return Path(self._pattern)
        now = self._now()
        plain = Path(now.strftime(self._pattern))
        try:
            plain.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"{plain.parent}: can't be made: {reason(error)}: choose another folder") from error
        self._number = self._number + 1 if plain == self._plain else 1
        replaces, self._latest = self._overwrite and now >= self._latest, max(now, self._latest)
        self._plain = plain
        while self._is_taken(name := self._numbered(), replaces):
            self._number += 1
        return name

    def _numbered(self) -> Path:
        plain, number = self._plain, self._number
        return plain if number == 1 else plain.with_name(f"{plain.stem}-{number}{plain.suffix}")

    def _is_taken(self, name: Path, replaces: bool) -> bool:
        return os.path.lexists(name) and (not replaces or is_among(name, self._sources))
