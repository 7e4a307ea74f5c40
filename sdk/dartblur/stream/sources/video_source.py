"""Video files, through FFmpeg's libraries (PyAV), and cameras of this machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ...errors import SourceError
from ...frame import Frame
from ..base import Source, SourceInfo
from ..media import orientation
from ..media.colours import ToBgr
from ..media.files import reason
from ..media.integrity import lacks_index, missing_bytes
from ..media.video_form import VideoForm, choose_stream, losses
from ..uris import settings_of
from .live_video import Connection, LiveVideo
from .reconnecting import STALL_S, Reconnecting, check_stall
from .whole_pictures import WholePictures

_MODE = {"size": "video_size", "fps": "framerate", "format": "input_format"}
"""What Video4Linux's settings are called in FFmpeg."""
_NOT_VIDEO = {"tty", "concat", "hls", "dash"}
"""Text that FFmpeg would draw as a picture, and lists of other files, which the checks here wouldn't see."""


class VideoSource(Source):
    """A video file.

    What can't be decoded as it was recorded is left out, up to the next key frame, and counted in `damaged`; its frames
    are missing in the output. A file that was cut short, or that ends in a read error, is refused unless `keep_going`.

    Args:
        uri: path of the file.
        keep_going: take what there is of a damaged file.

    Raises:
        SourceError: missing, empty, cut short, not media, or without a video stream.
    """

    def __init__(self, uri: str, *, keep_going: bool = False) -> None:
        super().__init__()
        self.path = Path(uri)
        self.keep_going = keep_going
        check_file(self.path, keep_going)
        self.container = _open(uri)
        try:
            self.stream = choose_stream(self.container, uri, self.notices)
            self._whole_pictures = WholePictures(self.stream, live=False)
            self._decoded = self._decode()
            self._first = self._first_frame()
            self.form = VideoForm.of(self.container, self.stream, self._first)
            self.notices += losses(self.stream, self.form.pixels)
        except BaseException:
            self.container.close()
            raise
        width, height = self.form.upright_size
        self.info = SourceInfo(
            uri=uri,
            width=width,
            height=height,
            frames=self._estimate(),
            rotation=orientation.ROTATION[self.form.orientation],
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
        """The video file."""
        return [self.path]

    def close(self) -> None:
        """Closes the file."""
        try:
            self._decoded.close()
        except ValueError:
            return  # another thread is reading: closing it under its feet would crash the process
        self.container.close()

    def _with_first(self) -> Iterator[av.VideoFrame]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._decoded

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
            frames = self._whole_pictures.decode(packet)
            self.damaged = self._whole_pictures.damaged
            yield from frames

    def _estimate(self) -> int | None:
        if self.stream.frames:
            return self.stream.frames
        duration: int | None = self.container.duration  # in microseconds
        return None if duration is None else round(Fraction(duration, 1_000_000) * self.form.rate)


def camera(device: str, *, stall: float = STALL_S, reconnect: bool = True) -> Reconnecting:
    """A camera of this machine by its number or device: ``0`` or ``/dev/video0``.

    Args:
        device: its number, or the path of the device; ``?size=1280x720&fps=30&format=mjpeg`` behind it asks for a
            mode, as ``v4l2-ctl --list-formats-ext`` lists them.
        stall: seconds without a frame after which it counts as lost.
        reconnect: open it again when it is lost (unplugged, say); otherwise that is a SourceError.

    Raises:
        SourceError: there is no such device, it is busy, or doesn't have this mode.
    """
    name, mode = settings_of(device)
    path = f"/dev/video{name}" if name.isdigit() else name
    if wrong := sorted(mode.keys() - _MODE.keys()):
        raise SourceError(f"{path}: expected settings {', '.join(_MODE)} for a camera, got {', '.join(wrong)}")
    check_stall(path, stall)
    options = {_MODE[setting]: value for setting, value in mode.items()}
    return Reconnecting(lambda: _open_camera(path, options), stall=stall, reconnect=reconnect)


def _open_camera(path: str, options: dict[str, str]) -> LiveVideo:
    if not os.path.lexists(path):
        raise SourceError(f"{path}: no such camera: `ls /dev/video*` shows those that are there")
    if not stat.S_ISCHR(Path(path).stat().st_mode):
        raise SourceError(f"{path}: expected a camera device, got a file: give its path without v4l2://")

    def explain(error: BaseException) -> str:
        return f"can't be opened or read as a camera ({reason(error)}): does another program use it, has it the mode?"

    return LiveVideo(Connection(path, path, format="v4l2", options=options, explain=explain))


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
        missing, lost = missing_bytes(path), lacks_index(path)
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {reason(error)}") from error
    if lost:
        raise SourceError(
            f"{path}: cut short, its index (moov) is missing: nothing can be taken from it: copy or record it again"
        )
    if missing and not keep_going:
        raise SourceError(
            f"{path}: cut short, at least {missing} bytes are missing at its end: "
            "copy it again, or give --keep-going to take what there is"
        )


def _open(uri: str) -> Any:
    what = "expected a video or picture, got something that is neither"
    try:
        # In a relative "12:30.mp4" FFmpeg would see a protocol.
        container = av.open(str(Path(uri).absolute()), metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"{uri}: {what} ({reason(error)})") from error
    if container.format.name in _NOT_VIDEO:
        container.close()
        raise SourceError(f"{uri}: {what} (a file of text)")
    return container
