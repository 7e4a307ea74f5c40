"""Recordings of live streams: files that can be played up to the last second, whatever happens to the program."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import av

from ...errors import SinkError
from ...frame import RedactedFrame
from ..base import Sink
from ..media.files import reason
from . import encoders
from .encoders import CLOCK, DEFAULT_QUALITY, Codec
from .live_encoding import LiveEncoding, add_stream
from .recording_names import RecordingNames

if TYPE_CHECKING:
    from .encoders import Packet

_FRAGMENT_S = 1.0
_MP4 = {"movflags": "empty_moov+default_base_moof", "frag_duration": str(round(_FRAGMENT_S * 1_000_000))}
_MATROSKA = {"cluster_time_limit": str(round(_FRAGMENT_S * 1000))}
FORMATS: dict[str, tuple[str, dict[str, str]]] = {
    ".mp4": ("mp4", _MP4),
    ".m4v": ("mp4", _MP4),
    ".mov": ("mov", _MP4),
    ".mkv": ("matroska", _MATROSKA),
}
"""FFmpeg's name of the format and its options, by the suffix of the file."""


class RecordingSink(Sink):
    """Records a live stream in files under their final names: all that is in them is redacted.

    Files consist of fragments of a second (clusters in Matroska), each of which is brought to the disk: after a power
    cut or ``kill -9`` all but the last fragment can be played. The picture has the size of the first frame; others are
    put into it. Frames keep their real time stamps, of whatever rate.

    Args:
        path: the file, .mp4, .m4v, .mov or .mkv; or a pattern of strftime, see `RecordingNames`.
        sources: files that are read, which are never written over.
        overwrite: whether files may exist.
        quality: 0 (lossless) .. 51 (worst).
        codec: ``h264`` or ``h265``; None for that of the encoder, or H.264.
        encoder: ``auto`` or a name, see `encoders.choose`.
        segment: seconds of each file, >= 1; None for a single one. Files begin with a key frame, so they are a little
            longer.
        metadata: whether files say when they were begun.

    Raises:
        SinkError: an existing or unwritable target, another suffix, an encoder that doesn't work here.
    """

    remains = "what was recorded before stays"
    whole = True

    def __init__(
        self,
        path: Path,
        *,
        sources: Sequence[Path] = (),
        overwrite: bool = False,
        quality: int = DEFAULT_QUALITY,
        codec: Codec | None = None,
        encoder: str = "auto",
        segment: float | None = None,
        metadata: bool = True,
    ) -> None:
        super().__init__(str(path))
        if path.suffix.lower() not in FORMATS:
            what = path.suffix or "no suffix"
            raise SinkError(f"{path}: expected a recording ending in {', '.join(FORMATS)}, got {what!r}")
        if segment is not None and not segment >= 1:
            raise SinkError(f"segment: expected 1 second or more, got {segment}")
        self._names = RecordingNames(path, segments=segment is not None, overwrite=overwrite, sources=sources)
        self._video = LiveEncoding(codec, encoder, quality)
        self.notices += self._video.take_notices()
        self._overwrite, self._metadata, self._end = overwrite, metadata, inf
        self._segment = inf if segment is None else segment
        self._file: _File | None = None

    def _write(self, frame: RedactedFrame) -> None:
        packets = self._video.encode(frame, keyframe_at=self._end)
        self.notices += self._video.take_notices()
        self._record(packets)

    def commit(self) -> None:
        """Finishes the file.

        Raises:
            SinkError: the disk is full, or no frame came.
        """
        self._finish()
        if self._file is None:
            raise SinkError(f"{self.uri}: no frame came, so nothing is recorded")

    def discard(self) -> None:
        """Finishes the file as far as it goes: what is recorded stays."""
        try:
            self._finish()
        except SinkError:
            pass  # what led here is the error to report
        finally:
            self._video.close()
            if self._file is not None:
                self._file.close()

    def _finish(self) -> None:
        try:
            self._record(self._video.finish())
        finally:
            self._video.close()
            if self._file is not None:
                self._file.finish()

    def _record(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            time = float((packet.pts or 0) * CLOCK)
            if self._file is None or (packet.is_keyframe and time >= self._end):
                if self._file is not None:
                    self._file.finish()
                self._file = _File(self._names.next(), self._overwrite, self._video.codec, packet, dated=self._metadata)
                self._end = time + self._segment
            self._file.add(packet)


class _File:
    """One file of a recording, with the packets from a key frame on."""

    def __init__(self, path: Path, overwrite: bool, codec: Codec, first: Packet, *, dated: bool) -> None:
        format, options = FORMATS[path.suffix.lower()]
        self._disk = _Disk(path, overwrite)
        self._origin = first.pts or 0
        self._container: Any = None
        try:
            with self._disk.errors():
                self._container = av.open(
                    self._disk, "w", format=format, container_options=options | {"flush_packets": "1"}
                )
            if dated:
                self._container.metadata["creation_time"] = datetime.now(timezone.utc).isoformat()
            self._stream = add_stream(self._container, codec, first)
            encoders.tag(self._stream.codec_context, format)
            with self._disk.errors():
                self._container.start_encoding()
        except BaseException:
            self.close()
            raise

    def add(self, packet: Packet) -> None:
        """Writes a packet, and now and then brings all to the disk."""
        pts = (packet.pts or 0) - self._origin
        packet.pts = packet.dts = pts  # live encoders keep the order
        packet.stream = self._stream
        with self._disk.errors():
            self._container.mux_one(packet)
        self._disk.sync(_FRAGMENT_S)

    def finish(self) -> None:
        """Writes what is left, once."""
        if self._disk.closed:
            return
        try:
            with self._disk.errors():
                self._container.close()
            self._disk.sync(0)
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of the file as it is."""
        self._disk.close()
        if self._container is not None:
            with suppress(av.error.FFmpegError, OSError, ValueError):
                self._container.close()  # it must not be left to the garbage collector


class _Disk:
    """A new file that FFmpeg writes to; it knows why that failed, and brings bytes to the disk.

    Raises:
        SinkError: the file exists, or can't be made.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        self._path = path
        self._error: OSError | None = None
        self._whole = 0
        self._unsynced, self._synced = False, monotonic()
        try:
            if overwrite:
                path.unlink(missing_ok=True)
            self._file = path.open("xb", buffering=0)
            self._sync_name()
        except OSError as error:
            raise SinkError(f"{path}: can't be written: {reason(error)}: choose another name") from error

    def write(self, data: bytes) -> int:
        """All of the bytes; none after a write that has failed."""
        if self._error is not None:
            raise self._error
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self._error = error
            raise
        self._unsynced = True
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of files."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of files."""
        return self._file.tell()

    @property
    def closed(self) -> bool:
        """As of files."""
        return self._file.closed

    def sync(self, interval: float) -> None:
        """Brings the bytes to the disk, unless that was done less than so many seconds ago."""
        if self._unsynced and monotonic() - self._synced >= interval:
            with self.errors():
                os.fdatasync(self._file.fileno())
            self._unsynced, self._synced = False, monotonic()

    def close(self) -> None:
        """As of files."""
        self._file.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of FFmpeg and of the disk as errors of the sink; half a fragment is taken off the file again."""
        try:
            yield
            if self._error is not None:  # FFmpeg doesn't pass on all
                raise self._error
            self._whole = self._file.tell()  # FFmpeg hands over whole fragments only
        except (av.error.FFmpegError, OSError, ValueError) as error:
            cause = self._error or error
            with suppress(OSError):
                self._file.truncate(self._whole)
            full = getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            what = "the disk is full" if full else f"can't be written: {reason(cause)}"
            raise SinkError(f"{self._path}: {what}: free some space; what was recorded before stays") from cause

    def _sync_name(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
