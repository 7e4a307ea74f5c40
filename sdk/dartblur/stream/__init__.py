"""Sources by URI, sinks by URI, and the pipeline between them.

::

    with open_source("in.mp4") as source, open_sink("out.mp4", source) as sink:
        summary = run(source, Anonymizer(), sink)
"""

from __future__ import annotations

from pathlib import Path

from ..errors import SinkError, SourceError
from .base import Sink, Skipped, Source, SourceInfo
from .files import reason
from .image_files import ImageSink, ImageSource, is_picture, open_folder, open_pattern
from .pipeline import Summary, run
from .video_sink import DEFAULT_QUALITY, VideoSink, container_for
from .video_source import VideoSource, camera, check_file

__all__ = ["Sink", "Skipped", "Source", "SourceInfo", "Summary", "open_sink", "open_source", "run"]


def open_source(uri: str | Path, *, keep_going: bool = False) -> Source:
    """Opens where frames come from.

    Args:
        uri: a video or picture file, a folder of pictures, a pattern (``'dir/*.jpg'``), or a camera: its number
            (``0``) or ``v4l2:///dev/video0``.
        keep_going: take what there is of a video that was cut short, instead of refusing it.

    Raises:
        SourceError: missing, empty, cut short, not media, or an absent device.
    """
    if not str(uri):
        raise SourceError("source: expected a file, folder, pattern or camera, got an empty name")
    try:
        return _source(str(uri), keep_going)
    except OSError as error:  # a name too long, a folder on the way that isn't readable
        raise SourceError(f"{uri}: can't be read: {reason(error)}") from error


def _source(text: str, keep_going: bool) -> Source:
    if text.isdigit() and not Path(text).exists():
        return camera(text)
    if text.startswith("v4l2://"):
        return camera(text.removeprefix("v4l2://"))
    if "://" in text:
        raise SourceError(f"{text}: expected a file, folder, pattern, camera number or v4l2://, got another scheme")
    path = Path(text)
    if path.is_dir():
        return open_folder(path)
    if not path.exists() and any(sign in text for sign in "*?["):
        return open_pattern(text)
    if is_picture(path):
        check_file(path, keep_going)
        return ImageSource(text, [path], None)
    return VideoSource(text, keep_going=keep_going)


def open_sink(uri: str | Path, source: Source, *, overwrite: bool = False, quality: int = DEFAULT_QUALITY) -> Sink:
    """Opens where the redacted frames of a source go.

    Args:
        uri: a video file (.mp4, .m4v, .mov, .mkv, .webm, .avi) for a video; a picture file for a picture; a folder
            for several pictures.
        source: where the frames come from: the sink keeps its sound, time stamps, notes and layout.
        overwrite: whether outputs may exist. The source is never written over.
        quality: of video, 0 (lossless) .. 51 (worst).

    Raises:
        SinkError: it exists, isn't writable, or can't take what the source gives.
    """
    path = Path(uri)
    if not str(uri):
        raise SinkError("sink: expected a file or folder, got an empty name")
    if "://" in str(uri):
        raise SinkError(f"{uri}: expected a file or folder, got another scheme")
    try:
        if isinstance(source, ImageSource):
            return ImageSink(path, source, overwrite=overwrite)
        if isinstance(source, VideoSource):
            container_for(path)
            return VideoSink(path, source, overwrite=overwrite, quality=quality)
    except OSError as error:  # a name too long, a folder on the way that isn't readable
        raise SinkError(f"{uri}: can't be written: {reason(error)}: choose another name") from error
    raise SinkError(f"{uri}: expected a source from open_source, got {type(source).__name__}")
