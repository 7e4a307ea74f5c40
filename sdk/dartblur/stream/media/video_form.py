"""How a video is stored, and which stream of a container is the video."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.stream import VideoStream

from ...errors import SourceError
from . import orientation
from .colours import ColourTags

_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_CLOCK_FROM_ANYWHERE = {"mpegts", "mpeg", "video4linux2,v4l2"}
"""Formats whose first time stamp means nothing: time begins at their start."""


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
        pixels: FFmpeg's name of the pixel format.
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
    pixels: str

    @classmethod
    def of(cls, container: Any, stream: VideoStream, first: av.VideoFrame) -> VideoForm:
        """That of a stream, whose first decoded frame knows most of it."""
        time_base = stream.time_base or Fraction(1, 1000)
        origin = 0
        if container.format.name in _CLOCK_FROM_ANYWHERE:
            start = container.start_time  # of all its streams, in microseconds
            origin = (first.pts or 0) if start is None else round(Fraction(start, 1_000_000) / time_base)
        matrix = display_matrix(first)
        return cls(
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
            pixels=first.format.name,
        )

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the upright picture."""
        turned = orientation.swaps_sides(self.orientation)
        return (self.height, self.width) if turned else (self.width, self.height)


def choose_stream(container: Any, name: str, notices: list[str]) -> VideoStream:
    """The video stream of a container that is shown by default, or the largest; the others are named in the notices.

    Raises:
        SourceError: there is none, or it can't be decoded.
    """
    videos: list[VideoStream] = [stream for stream in container.streams.video if not stream.disposition & _PICTURES]
    decodable = [stream for stream in videos if stream.codec_context is not None]
    if not decodable:
        got = (
            "one in a codec that this FFmpeg doesn't know"
            if videos
            else "one without a video stream that can be decoded"
        )
        raise SourceError(f"{name}: expected a video, got {got}: send H.264, H.265 or MJPEG")
    best = max(decodable, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height, -s.index))
    others = len(container.streams.video) - 1
    if others:
        notices.append(f"left out, as they would show clear faces: {others} more video or cover picture streams")
    return best


def subsampling(pixels: str) -> str:
    """How many of a pixel format's colours are stored: ``4:2:0``, ``4:2:2``, ``4:4:4`` (RGB too) ...; empty for grey.

    Args:
        pixels: FFmpeg's name of the format.
    """
    form = av.VideoFormat(pixels, 64, 64)
    if len([part for part in form.components if not part.is_alpha]) < 3 and not form.has_palette:
        return ""
    wide, high = form.chroma_width(64), form.chroma_height(64)
    return {(64, 64): "4:4:4", (32, 64): "4:2:2", (32, 32): "4:2:0", (64, 32): "4:4:0", (16, 64): "4:1:1"}.get(
        (wide, high), "4:1:0"
    )


def losses(stream: Any, pixels: str) -> list[str]:
    """What of a video is lost when it is read as 8 bits of blue, green and red, a line each.

    Args:
        stream: of the container.
        pixels: FFmpeg's name of the pixel format of its frames.
    """
    form = av.VideoFormat(pixels, 64, 64)
    bits = 8 if form.has_palette else max(part.bits for part in form.components)
    lost = [f"{bits} bits a colour become 8"] if bits > 8 else []
    # VP8 and VP9 keep transparency in a picture of its own, which isn't decoded.
    apart = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
    if apart or any(part.is_alpha for part in form.components):
        lost.append("left out: the transparency of the video")
    return lost


def display_matrix(frame: Any) -> tuple[int, ...] | None:
    """A frame's display matrix, nine numbers; None where there is none."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return tuple(np.frombuffer(memoryview(data), np.int32).tolist())
    return None


def _field_order(stream: VideoStream, frame: av.VideoFrame) -> str | None:
    if not frame.interlaced_frame:
        return None
    bottom_first = {3, 4}  # AV_FIELD_BB, AV_FIELD_TB: the bottom field is shown first
    return "bff" if int(getattr(stream.codec_context, "field_order", 0) or 0) in bottom_first else "tff"
