"""Sources and sinks by URI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SinkError, SourceError
from .base import Sink, Source
from .image_files import ImageSink, ImageSource, is_picture, open_folder, open_pattern
from .media import picture
from .media.files import reason
from .options import SinkOptions, SourceOptions
from .sinks.video_sink import VideoSink, container_for
from .sources.video_source import VideoSource, camera, check_file
from .uris import after_scheme, is_camera_number, scheme_of, shown

if TYPE_CHECKING:
    from ..records.metrics import Metrics

_NETWORK = {"rtsp", "rtsps", "rtspt", "rtspu", "http", "https"}


def open_source(uri: str | Path, options: SourceOptions | None = None) -> Source:
    """Opens where frames come from.

    Args:
        uri: a video or picture file, a folder of pictures, a pattern (``'dir/*.jpg'``); or a camera: its number
            (``0``, or ``0?size=1280x720&fps=30``), ``v4l2:///dev/video0``, ``csi://0`` (Jetson), ``rtsp://``,
            ``http://`` (MJPEG, or any video), ``gst:PIPELINE``.
        options: how it is read.

    Raises:
        SourceError: missing, empty, cut short, not media, an absent device, or not reachable.
    """
    options = options or SourceOptions()
    if not str(uri):
        raise SourceError("source: expected a file, folder, pattern or camera, got an empty name")
    if options.rtsp_transport not in ("tcp", "udp"):
        raise SourceError(f"rtsp_transport: expected tcp or udp, got {options.rtsp_transport!r}")
    if options.loop and not options.realtime:
        raise SourceError("loop: expected realtime with it: a file that isn't read in real time is read once")
    try:
        source = _source(str(uri), options)
    except OSError as error:  # a name too long, a folder on the way that isn't readable
        raise SourceError(f"{shown(uri)}: can't be read: {reason(error)}") from error
    if options.realtime and not source.info.live:
        from .sources.realtime import Paced

        return Paced(source, again=(lambda: _source(str(uri), options)) if options.loop else None)
    return source


def _source(text: str, options: SourceOptions) -> Source:
    scheme, stall, reconnect = scheme_of(text), options.stall, options.reconnect
    if is_camera_number(text) and not Path(text).exists():
        return camera(text, stall=stall, reconnect=reconnect)
    if scheme == "v4l2":
        return camera(after_scheme(text), stall=stall, reconnect=reconnect)
    if scheme in _NETWORK:
        from .sources.network import open_network

        return open_network(text, transport=options.rtsp_transport, stall=stall, reconnect=reconnect)
    if scheme in ("gst", "csi"):
        from .sources.gstreamer import open_gst

        return open_gst(text, stall=stall, reconnect=reconnect)
    if scheme:
        raise SourceError(
            f"{shown(text)}: expected a file, folder, pattern, camera number, v4l2://, csi://, rtsp://, http:// "
            "or gst:, got another scheme"
        )
    return _files(text, options.keep_going)


def _files(text: str, keep_going: bool) -> Source:
    path = Path(text)
    if path.is_dir():
        return open_folder(path)
    if not path.exists() and any(sign in text for sign in "*?["):
        return open_pattern(text)
    if is_picture(path):
        check_file(path, keep_going)
        return ImageSource(text, [path], None)
    if path.is_file() and path.suffix.lower() in picture.OTHERS:
        known = ", ".join(picture.SUFFIXES)
        raise SourceError(f"{path}: this format of pictures isn't read: expected {known}: convert it first")
    return VideoSource(text, keep_going=keep_going)


def open_sink(
    uri: str | Path, source: Source, options: SinkOptions | None = None, *, metrics: Metrics | None = None
) -> Sink:
    """Opens where the redacted frames of a source go.

    Args:
        uri: a video file (.mp4, .m4v, .mov, .mkv, .webm, .avi; of a live source .mp4 or .mkv), a picture file for a
            picture, a folder for several pictures or for the frames of a video; ``http://127.0.0.1:8080`` (web page),
            ``rtsp://`` (pushed to a server), ``v4l2:///dev/video9`` (virtual camera), ``display://0`` (window),
            ``gst:PIPELINE``.
        source: where the frames come from. Of a file the sink keeps its sound, time stamps, notes and layout, and never
            writes over it.
        options: how it is written.
        metrics: of the stream, for the web page.

    Raises:
        SinkError: it exists, isn't writable, can't be reached, or can't take what the source gives.
    """
    options = options or SinkOptions()
    if not str(uri):
        raise SinkError("sink: expected a file, folder or device, got an empty name")
    try:
        if scheme_of(str(uri)):
            return _device(str(uri), options, metrics)
        return _file(Path(uri), source, options, folder=str(uri).endswith("/"))
    except OSError as error:  # a name too long, a folder on the way that isn't readable
        raise SinkError(f"{shown(uri)}: can't be written: {reason(error)}: choose another name") from error


def _device(uri: str, options: SinkOptions, metrics: Metrics | None) -> Sink:
    """A sink that is no file."""
    match scheme_of(uri):
        case "http":
            from .sinks.page import PageSink

            return PageSink(uri, token=options.token, metrics=metrics, name=metrics.stream if metrics else "live")
        case "rtsp" | "rtsps":
            from .sinks.rtsp_sink import RtspSink

            return RtspSink(uri, codec=options.codec, encoder=options.encoder, bitrate=options.bitrate)
        case "v4l2":
            from .sinks.virtual_camera import VirtualCameraSink

            return VirtualCameraSink(uri)
        case "display":
            from .sinks.display import DisplaySink

            return DisplaySink(uri)
        case "gst":
            from .sinks.gst_sink import GstSink

            return GstSink(uri)
    raise SinkError(
        f"{shown(uri)}: expected a file, folder, http://, rtsp://, v4l2://, display:// or gst:, got another scheme"
    )


def _file(path: Path, source: Source, options: SinkOptions, *, folder: bool) -> Sink:
    """A file or folder: what a file becomes keeps all that it has; what a camera gives is recorded."""
    if isinstance(source, ImageSource):
        return ImageSink(path, source, overwrite=options.overwrite, metadata=options.metadata, folder=folder)
    if folder or not path.suffix or path.is_dir():
        from .sinks.live_images import LiveImageSink

        return LiveImageSink(
            path,
            sources=source.files,
            overwrite=options.overwrite,
            format=options.pictures,
            every=options.every,
            max_fps=options.max_fps,
        )
    container_for(path)
    if isinstance(source, VideoSource):
        if options.segment is not None:
            raise SinkError(f"{path}: segments are for live sources: leave segment out, or add realtime")
        return VideoSink(
            path,
            source,
            overwrite=options.overwrite,
            quality=options.quality,
            codec=options.codec,
            encoder=options.encoder,
            sound=options.sound,
            metadata=options.metadata,
        )
    from .sinks.recording import RecordingSink

    sink = RecordingSink(
        path,
        sources=source.files,
        overwrite=options.overwrite,
        quality=options.quality,
        codec=options.codec,
        encoder=options.encoder,
        segment=options.segment,
        metadata=options.metadata,
    )
    if source.files and options.sound:
        sink.notices.append(f"{path}: left out: the sound, since a file in real time is recorded as a camera is")
    return sink
