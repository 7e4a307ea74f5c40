"""What a user may say of how pictures are written, for all kinds of sinks at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from .sinks.encoders import DEFAULT_QUALITY, Codec


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """Options of sinks. A sink takes what concerns it, and checks it.

    Attributes:
        overwrite: files that exist may be replaced.
        quality: of video files and recordings: 0 (lossless) .. 51 (worst).
        codec: ``h264`` or ``h265``; None for that of the encoder, or H.264.
        encoder: ``auto``, one of FFmpeg's (``libx264``, ``h264_nvenc``, ...), ``nvv4l2h264enc`` of a Jetson, or
            ``gst:`` and elements of GStreamer.
        bitrate: of a pushed stream, in bits a second; None to go by the size of the picture.
        segment: seconds of a recording that go into one file; None for all into one.
        pictures: of a folder of pictures of a stream: ``jpg`` or ``png``.
        every: of a folder of pictures: one in so many frames.
        max_fps: of a folder of pictures: at most so many a second; None for all.
        sound: of video files: whether it is copied.
        metadata: of files: whether tags, place, time and notes are copied; orientation and colours always are.
        token: what the web page asks for; None where it needs none, or for one by chance.
    """

    overwrite: bool = False
    quality: int = DEFAULT_QUALITY
    codec: Codec | None = None
    encoder: str = "auto"
    bitrate: int | None = None
    segment: float | None = None
    pictures: str = "jpg"
    every: int = 1
    max_fps: float | None = None
    sound: bool = True
    metadata: bool = True
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Options of sources. A source takes what concerns it.

    Attributes:
        keep_going: take what there is of a video file that was cut short, instead of refusing it.
        realtime: read a file or folder at the speed of its time stamps, as if it were a camera.
        loop: begin a file that is read in real time anew when it ends.
        rtsp_transport: ``tcp`` or ``udp``.
        stall: seconds without a frame after which a camera counts as lost.
        reconnect: try again for ever when a camera is lost; otherwise the stream ends.
    """

    keep_going: bool = False
    realtime: bool = False
    loop: bool = False
    rtsp_transport: str = "tcp"
    stall: float = 5.0
    reconnect: bool = True
