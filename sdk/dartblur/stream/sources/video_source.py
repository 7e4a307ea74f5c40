"""Video files and cameras, through FFmpeg's libraries (PyAV)."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.stream import VideoStream

from ..errors import SourceError
from ..frame import Frame
from . import orientation
from .base import Source, SourceInfo
from .colours import ColourTags, ToBgr
from .files import reason
from .integrity import missing_bytes

_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_CLOCK_FROM_ANYWHERE = {"mpegts", "mpeg", "video4linux2,v4l2"}
"""Formats whose first time stamp means nothing: time begins at their start."""


_NOT_VIDEO = {"tty", "concat", "hls", "dash"}
"""Text that FFmpeg would draw as a picture, and lists of other files, which the checks here wouldn't see."""


@dataclass(frozen=True, slots=True)
class VideoForm:
    """How a video is stored: all that its output has to keep.

    Attributes:
        width, height: stored pixels, before turning upright.
        time_base: seconds of one tick of the time stamps.
        rate: frames a second on average, for the encoder's rate control only.
        origin: the tick that counts as time 0.
        aspect: width of a pixel by its height.
        matrix: the display matrix, nine numbers; None where there is none.
        orientation: the same as EXIF numbers it, 1..8.
        colours: primaries, transfer, matrix and range.
        interlaced: ``tff``, ``bff``, or None for progressive.
    """

    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    origin: int
    aspect: Fraction
    matrix: tuple[int, ...] | None
    orientation: int
    colours: ColourTags
    interlaced: str | None


class VideoSource(Source):
    """A video file, or a camera of Video4Linux.

    A packet that can't be decoded is left out and counted in `damaged`; its frame is missing in the output. A file that
    was cut short, or that ends in a read error, is refused unless `keep_going`.

    Args:
        uri: path of the file or device.
        format: FFmpeg's name of the input format, None to find out.
        live: a camera: it never ends by itself.
        keep_going: take what there is of a damaged file.

    Raises:
        SourceError: missing, empty, cut short, not media, or without a video stream.
    """

    def __init__(self, uri: str, *, format: str | None = None, live: bool = False, keep_going: bool = False) -> None:
        super().__init__()
        self.path = Path(uri)
        self.keep_going = keep_going
        if not live:
            check_file(self.path, keep_going)
        self.container = _open(uri, format, live)
        try:
            self.stream = self._choose_stream()
            self.stream.thread_type = "AUTO"
            self._decoded = self._decode()
            self._first = self._first_frame()
            self.form = _form(self.container, self.stream, self._first)
        except BaseException:
            self.container.close()
            raise
        turned = orientation.swaps_sides(self.form.orientation)
        width, height = self.form.width, self.form.height
        self.info = SourceInfo(
            uri=uri,
            width=height if turned else width,
            height=width if turned else height,
            frames=None if live else self._estimate(),
            rotation=orientation.ROTATION[self.form.orientation],
            live=live,
        )

    def __iter__(self) -> Iterator[Frame]:
        """The frames, upright, with the time stamps of the container.

        Raises:
            SourceError: the file can't be read on, and `keep_going` is off.
        """
        form = self.form
        to_bgr = ToBgr(form.width, form.height, form.colours)
        step = max(1, round(1 / (form.rate * form.time_base)))
        last: int | None = None
        for index, decoded in enumerate(self._with_first()):
            pts = decoded.pts
            if pts is None:  # some old containers number their packets only
                pts = form.origin if last is None else last + step
            last = pts
            image = orientation.to_upright(to_bgr(decoded), form.orientation)
            yield Frame(image, index, float((pts - form.origin) * form.time_base), pts)

    @property
    def files(self) -> list[Path]:
        """The video file or device."""
        return [self.path]

    def close(self) -> None:
        """Closes the file or device."""
        try:
            self._decoded.close()
        except ValueError:
            return  # a camera hangs in another thread: closing it under its feet would crash the process
        self.container.close()

    def _with_first(self) -> Iterator[av.VideoFrame]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._decoded

    def _choose_stream(self) -> VideoStream:
        videos: list[VideoStream] = [
            stream for stream in self.container.streams.video if not stream.disposition & _PICTURES
        ]
        videos = [stream for stream in videos if stream.codec_context is not None]
        if not videos:
            raise SourceError(f"{self.path}: expected a video, got a file without a video stream that can be decoded")
        best = max(videos, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height, -s.index))
        others = len(self.container.streams.video) - 1
        if others:
            self.notices.append(
                f"left out, as they would show clear faces: {others} more video or cover picture streams"
            )
        return best

    def _first_frame(self) -> Any:
        frame = next(self._decoded, None)
        if frame is None:
            raise SourceError(f"{self.path}: expected a video, got no frame that can be decoded: check the file")
        return frame

    def _decode(self) -> Generator[av.VideoFrame, None, None]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                if self.keep_going:
                    self.damaged += 1
                    return
                raise SourceError(
                    f"{self.path}: can't be read on: {reason(error)}: give --keep-going to take what there is"
                ) from error
            if packet is None:
                return
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                self.damaged += 1

    def _estimate(self) -> int | None:
        if self.stream.frames:
            return self.stream.frames
        duration: int | None = self.container.duration  # in microseconds
        return None if duration is None else round(Fraction(duration, 1_000_000) * self.form.rate)


def camera(device: str) -> VideoSource:
    """A camera by its number or device: ``0`` or ``/dev/video0``.

    Raises:
        SourceError: there is no such device, or it is busy.
    """
    path = f"/dev/video{device}" if device.isdigit() else device
    if not os.path.lexists(path):
        raise SourceError(f"{path}: no such camera: `ls /dev/video*` shows those that are there")
    if not stat.S_ISCHR(Path(path).stat().st_mode):
        raise SourceError(f"{path}: expected a camera device, got a file: give its path without v4l2://")
    return VideoSource(path, format="v4l2", live=True)


def check_file(path: Path, keep_going: bool) -> None:
    """Refuses what can't be a media file before it is opened.

    Raises:
        SourceError: missing, a folder, empty, unreadable or cut short.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such file")
    if not path.is_file():
        raise SourceError(f"{path}: expected a file, got something else")
    if path.stat().st_size == 0:
        raise SourceError(f"{path}: the file is empty: record or copy it again")
    try:
        missing = missing_bytes(path)
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {reason(error)}") from error
    if missing and not keep_going:
        raise SourceError(
            f"{path}: cut short, at least {missing} bytes are missing at its end: "
            "copy it again, or give --keep-going to take what there is"
        )


def _open(uri: str, format: str | None, live: bool) -> Any:
    what = "can't be opened as a camera" if live else "expected a video or picture, got something that is neither"
    try:
        container = av.open(uri, format=format, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"{uri}: {what} ({reason(error)})") from error
    if container.format.name in _NOT_VIDEO:
        container.close()
        raise SourceError(f"{uri}: {what} (a file of text)")
    return container


def _form(container: Any, stream: VideoStream, first: av.VideoFrame) -> VideoForm:
    time_base = stream.time_base or Fraction(1, 1000)
    origin = 0
    if container.format.name in _CLOCK_FROM_ANYWHERE:
        start = container.start_time  # of all its streams, in microseconds
        origin = (first.pts or 0) if start is None else round(Fraction(start, 1_000_000) / time_base)
    matrix = _display_matrix(first)
    return VideoForm(
        width=first.width,
        height=first.height,
        time_base=time_base,
        rate=stream.average_rate or stream.guessed_rate or Fraction(25),
        origin=origin,
        aspect=stream.sample_aspect_ratio or Fraction(1),
        matrix=matrix,
        orientation=orientation.from_display_matrix(matrix),
        colours=ColourTags.of(first),
        interlaced=_field_order(stream, first),
    )


def _display_matrix(frame: Any) -> tuple[int, ...] | None:
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return tuple(np.frombuffer(memoryview(data), np.int32).tolist())
    return None


def _field_order(stream: VideoStream, frame: av.VideoFrame) -> str | None:
    if not frame.interlaced_frame:
        return None
    bottom_first = {3, 4}  # AV_FIELD_BB, AV_FIELD_TB: the bottom field is shown first
    return "bff" if int(getattr(stream.codec_context, "field_order", 0) or 0) in bottom_first else "tff"
