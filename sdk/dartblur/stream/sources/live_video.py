"""One connection to a live video, through FFmpeg's libraries (PyAV): a camera, or a stream from a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import av

from ...errors import SourceError
from ...frame import Frame, Image
from ..base import Source, SourceInfo
from ..media import orientation
from ..media.colours import ColourTags, ToBgr
from ..media.files import reason
from ..media.video_form import VideoForm, choose_stream, display_matrix
from .whole_pictures import WholePictures

_SHORT_S = 2.0
"""By how much the last frame may be earlier than the end that the server has told."""
_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
"""How Matroska tells the end of a single stream; its duration FFmpeg then takes from the whole file."""
_NOT_VIDEO = {"tty", "concat"}
"""Text that FFmpeg would draw as a picture, and lists of other files."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How a live video is opened.

    Attributes:
        url: for FFmpeg; it may hold a password.
        name: the same for people, without it.
        format: FFmpeg's name of the input format, None to find out.
        options: FFmpeg's options of protocol and format.
        connect_s, read_s: seconds that opening it, and waiting for a packet, may take; None: no limit.
        explain: says in a few words why it failed.
    """

    url: str = field(repr=False)
    name: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    connect_s: float | None = None
    read_s: float | None = None
    explain: Callable[[BaseException], str] = reason


class LiveVideo(Source):
    """One connection to a live video: it ends when the connection does.

    A frame's `time` is that of its time stamps, from the first frame; `pts` is None, for they mean nothing to others.
    The size of the pictures may change. `damaged` counts packets that couldn't be decoded, and those after them that
    were left out until the next key frame.

    Args:
        connection: what to open.

    Raises:
        SourceError: it can't be reached, asks for another password, or gives no video that can be decoded.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._container = _open(connection)
        try:
            self._stream = choose_stream(self._container, connection.name, self.notices)
            self._whole_pictures = WholePictures(self._stream, live=True)
            self._decoded = self._decode()
            self._first: tuple[av.VideoFrame, float] | None = self._first_frame()
            form = VideoForm.of(self._container, self._stream, self._first[0])
        except BaseException:
            self._container.close()
            raise
        self.finite = (self._container.duration or 0) > 0
        self._end = _end_of(self._container, self._stream)
        width, height = form.upright_size
        rotation = orientation.ROTATION[form.orientation]
        self.info = SourceInfo(connection.name, width, height, None, rotation, live=not self.finite)

    def __iter__(self) -> Iterator[Frame]:
        """The frames, upright; `captured` is when the decoder gave them.

        Raises:
            SourceError: the connection is lost.
        """
        to_upright = _Upright()
        began: float | None = None
        before: float | None = None
        seconds = 0.0
        for index, (decoded, captured) in enumerate(self._with_first()):
            if self.stopping.is_set():
                return
            # The first frames of a connection may have no time stamp; the clock of `captured` is another one.
            seconds += 0.0 if before is None else captured - before
            before = captured
            if decoded.pts is not None and decoded.time_base is not None:
                began = decoded.time - seconds if began is None else began
                seconds = max(0.0, decoded.time - began)
            yield Frame(to_upright(decoded), index, seconds, None, captured)
        # An RTSP server that dies looks like one that has sent all; HTTP tells.
        expected = self._end - (began or 0.0)
        if self.finite and not self.stopping.is_set() and seconds < expected - _SHORT_S:
            raise SourceError(
                f"{self._connection.name}: ended after {seconds:.0f} of {expected:.0f} seconds: connection lost"
            )

    def close(self) -> None:
        """Closes the connection."""
        try:
            self._decoded.close()
        except ValueError:
            return  # another thread is reading: closing it under its feet would crash the process
        self._container.close()

    def _with_first(self) -> Iterator[tuple[av.VideoFrame, float]]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._decoded

    def _first_frame(self) -> tuple[av.VideoFrame, float]:
        first = next(self._decoded, None)
        if first is None:
            name = self._connection.name
            raise SourceError(f"{name}: expected a video, got no frame that can be decoded: check what it sends")
        return first

    def _decode(self) -> Generator[tuple[av.VideoFrame, float], None, None]:
        packets = self._container.demux(self._stream)
        while not self.stopping.is_set() and (packet := self._next(packets)) is not None:
            frames = self._whole_pictures.decode(packet)
            self.damaged = self._whole_pictures.damaged
            captured = monotonic()
            for frame in frames:
                yield frame, captured

    def _next(self, packets: Iterator[Any]) -> Any:
        began = monotonic()
        try:
            return next(packets, None)
        except (av.error.FFmpegError, OSError) as error:
            why = self._connection.explain(_cause(error, began, self._connection.read_s))
            message = f"{self._connection.name}: can't be read on: {why}"
        # Raised out here, since the error of FFmpeg holds the URL with its password, and so would the chain.
        raise SourceError(message)


class _Upright:
    """Turns decoded frames into upright BGR arrays, also when their size or colours change."""

    def __init__(self) -> None:
        self._kind: tuple[Any, ...] | None = None

    def __call__(self, decoded: av.VideoFrame) -> Image:
        colours = ColourTags.of(decoded)
        kind = decoded.width, decoded.height, decoded.format.name, decoded.rotation, colours
        if kind != self._kind:
            self._kind = kind
            self._to_bgr = ToBgr(decoded.width, decoded.height, colours)
            # Not for every frame: PyAV ties a frame and its side data into a cycle, so that memory is freed late.
            self._orientation = orientation.from_display_matrix(display_matrix(decoded))
        return orientation.to_upright(self._to_bgr(decoded), self._orientation)


def _open(connection: Connection) -> Any:
    patience = connection.connect_s, connection.read_s
    began = monotonic()
    try:
        container = av.open(
            connection.url,
            format=connection.format,
            options=dict(connection.options),
            timeout=patience,
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        message = f"{connection.name}: {connection.explain(_cause(error, began, connection.connect_s))}"
    else:
        if container.format.name not in _NOT_VIDEO:
            return container
        container.close()
        message = f"{connection.name}: expected a video, got text"
    # Raised out here, since the error of FFmpeg holds the URL with its password, and so would the chain.
    raise SourceError(message)


def _end_of(container: Any, stream: Any) -> float:
    """When a video ends, in seconds of its own clock: it may begin later than its sound, and end earlier."""
    told = _DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if told is not None:
        return 3600 * float(told[1]) + 60 * float(told[2]) + float(told[3])
    if stream.duration is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    return float((container.duration or 0) / av.time_base)


def _cause(error: BaseException, began: float, limit: float | None) -> BaseException:
    """The error, or that time is up: FFmpeg reports its being interrupted as whatever it was just doing."""
    return TimeoutError() if limit is not None and monotonic() - began >= limit else error
