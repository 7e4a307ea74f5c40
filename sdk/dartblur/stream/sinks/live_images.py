"""A folder of numbered pictures: one for each frame of a live stream or video."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2

from ...errors import SinkError
from ...frame import RedactedFrame
from ..base import Sink
from ..media.files import PendingFile, reason, remove_leftovers
from .timeline import Timeline

FORMATS = "jpg", "png"
_JPEG_QUALITY = 95


class LiveImageSink(Sink):
    """Writes ``folder/00000042.jpg``, named by the number of the frame in its source.

    Each picture is there whole or not at all, and holds nothing but its pixels.

    Args:
        folder: is made if need be.
        sources: files that are read, which are never written over.
        overwrite: whether pictures in it may be replaced; otherwise it has to hold none of such a name.
        format: ``jpg`` or ``png``.
        every: one in so many frames, >= 1.
        max_fps: at most so many pictures a second, by the time of the frames; None for all.

    Raises:
        SinkError: a file is in the way, the folder isn't writable, or an option is out of its range.
    """

    remains = "this picture was not written; those before it stay"

    def __init__(
        self,
        folder: Path,
        *,
        sources: Sequence[Path] = (),
        overwrite: bool = False,
        format: str = "jpg",
        every: int = 1,
        max_fps: float | None = None,
    ) -> None:
        super().__init__(str(folder))
        if format not in FORMATS:
            raise SinkError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
        if every < 1:
            raise SinkError(f"every: expected 1 or more frames, got {every}")
        if max_fps is not None and not max_fps > 0:
            raise SinkError(f"max_fps: expected more than 0 pictures a second, got {max_fps}")
        self._folder, self._overwrite, self._format, self._every = folder, overwrite, format, every
        self._least_step = 0.0 if max_fps is None else 1 / max_fps
        self._timeline = Timeline()
        self._count, self._next = 0, 0.0
        self._pending: PendingFile | None = None
        self._prepare(sources)

    def _write(self, frame: RedactedFrame) -> None:
        time = self._timeline.at(frame)
        wanted = self._count % self._every == 0
        self._count += 1
        # A thousandth early is in time: the clocks of cameras tremble.
        if not wanted or time < self._next - 0.001:
            return
        # The next one is due a step after this one was, not after it came: so the rate is kept on average.
        late = time - self._next >= self._least_step
        self._next = (time if late else self._next) + self._least_step
        self._save(frame)

    def commit(self) -> None:
        """Nothing is left to do: every picture has its name already."""

    def discard(self) -> None:
        """As `commit`; an empty folder stays too."""

    def _save(self, frame: RedactedFrame) -> None:
        target = self._folder / f"{frame.index:08d}.{self._format}"
        done, data = cv2.imencode(f".{self._format}", frame.image, _options(self._format))
        if not done:
            height, width = frame.image.shape[:2]
            raise SinkError(f"{target}: a picture of {width}x{height} can't be written as {self._format}: use another")
        pending = self._pending = PendingFile(target, self._overwrite)
        try:
            pending.path.write_bytes(data.tobytes())
            pending.commit()
        except OSError as error:
            raise SinkError(
                f"{target}: can't be written: {reason(error)}: free some space or choose another folder"
            ) from error
        finally:
            pending.discard()

    def _abandon(self) -> None:
        if self._pending is not None:
            self._pending.discard()

    def _prepare(self, sources: Sequence[Path]) -> None:
        folder = self._folder
        if folder.exists() and not folder.is_dir():
            raise SinkError(f"{folder}: pictures of a stream need a folder, got a file: name a folder")
        if not folder.parent.is_dir():
            raise SinkError(f"{folder}: the folder {folder.parent} does not exist: create it first")
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise SinkError(f"{folder}: can't be made: {reason(error)}: choose another folder") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SinkError(f"{folder}: can't be written to: choose a folder that is writable")
        own = next((path for path in filter(self._is_name, sources) if path.parent.samefile(folder)), None)
        if own is not None:
            raise SinkError(f"{own}: is the source itself, which is never written over: choose another folder")
        taken = next(filter(self._is_name, folder.iterdir()), None)
        if taken is not None and not self._overwrite:
            raise SinkError(f"{taken}: exists already: choose another folder or give --overwrite")
        remove_leftovers(folder, lambda name: self._is_name(Path(name)))

    def _is_name(self, path: Path) -> bool:
        """Whether a picture of this sink may have this name."""
        return path.stem.isdigit() and path.suffix == f".{self._format}"


def _options(format: str) -> list[int]:
    return [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if format == "jpg" else []
