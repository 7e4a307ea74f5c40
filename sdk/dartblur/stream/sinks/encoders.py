"""Video encoders: which ones work on this machine, and how they are set.

An encoder works when it has encoded a picture, not when a library has its name: FFmpeg knows ``h264_nvenc`` on machines
without a GPU too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import av
import numpy as np

from ...errors import InputError, SinkError
from ...frame import Image
from ..media.colours import LIMITED, ColourTags, FromBgr
from ..media.files import reason

if TYPE_CHECKING:
    Packet = av.Packet[Any]

Codec = Literal["h264", "h265"]
CODECS: tuple[Codec, ...] = get_args(Codec)

DEFAULT_QUALITY = 19
CLOCK = Fraction(1, 90_000)
"""The time base of encoders of live streams: that of RTP."""

GST = "gst:"
_NOMINAL_FPS = 30
"""For the rate control of streams whose rate isn't known; their time stamps are the frames' own."""

_GOP_FRAMES = 250
"""The longest way between key frames of an encoder that makes none when it is asked to."""

_PROBE_SIZE = 640, 360
_BT601 = ColourTags(primaries=2, transfer=2, matrix=6, range=LIMITED)
_BT709 = ColourTags(primaries=1, transfer=1, matrix=1, range=LIMITED)


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder by its name.

    Attributes:
        name: as FFmpeg or GStreamer has it.
        codec: what it makes.
        hardware: not the CPU.
        gst: the elements of GStreamer that take BGR pictures and give the codec; None for FFmpeg's encoders.
            ``{bitrate}`` in it becomes the bits a second.
    """

    name: str
    codec: Codec
    hardware: bool = True
    gst: str | None = None


def _nvv4l2(number: int) -> str:
    """The encoder of a Jetson, which takes pictures from memory of its own."""
    return (
        "videoconvert ! video/x-raw,format=BGRx ! nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! "
        f"nvv4l2h{number}enc bitrate={{bitrate}} insert-sps-pps=true idrinterval={_GOP_FRAMES} "
        f"iframeinterval={_GOP_FRAMES} maxperf-enable=true"
    )


ENCODERS: tuple[Encoder, ...] = (
    Encoder("nvv4l2h264enc", "h264", gst=_nvv4l2(264)),
    Encoder("nvv4l2h265enc", "h265", gst=_nvv4l2(265)),
    Encoder("h264_nvenc", "h264"),
    Encoder("hevc_nvenc", "h265"),
    Encoder("h264_qsv", "h264"),
    Encoder("hevc_qsv", "h265"),
    Encoder("h264_v4l2m2m", "h264"),
    Encoder("hevc_v4l2m2m", "h265"),
    Encoder("libx264", "h264", hardware=False),
    Encoder("libx265", "h265", hardware=False),
)
"""The best first. (VAAPI is not among them: PyAV's wheels come without it.)"""

_JETSON_DEVICES = "/dev/v4l2-nvenc", "/dev/nvhost-msenc"


def choose(
    codec: Codec | None, name: str = "auto", size: tuple[int, int] = _PROBE_SIZE, *, ffmpeg_only: bool = False
) -> Encoder:
    """The encoder to use.

    Args:
        codec: what it is to make; None: what the named encoder makes, or H.264.
        name: ``auto`` for the best that works here; one of `ENCODERS`; or ``gst:`` and GStreamer's elements, from
            BGR pictures to the codec.
        size: width and height of the pictures, in pixels: hardware takes not all.
        ffmpeg_only: GStreamer's can't be used.

    Raises:
        SinkError: the encoder is unknown, makes another codec, or doesn't work here.
    """
    if codec is not None and codec not in CODECS:
        raise SinkError(f"codec: expected one of {', '.join(CODECS)}, got {codec!r}")
    if name == "auto":
        return _best(codec or "h264", size, ffmpeg_only)
    usable = [encoder for encoder in ENCODERS if not (ffmpeg_only and encoder.gst)]
    if name.startswith(GST) and not ffmpeg_only:
        usable.append(Encoder(name, codec or "h264", hardware=False, gst=name.removeprefix(GST).strip()))
    chosen = next((encoder for encoder in usable if encoder.name == name), None)
    if chosen is None:
        raise SinkError(f"encoder: expected auto or one of {', '.join(e.name for e in usable)}, got {name!r}")
    if codec is not None and chosen.codec != codec:
        raise SinkError(f"encoder: expected one for {codec}, got {name}, which makes {chosen.codec}")
    why = _failure(chosen, size)
    if why is not None:
        others = [e for e in _candidates(chosen.codec, ffmpeg_only) if e != chosen and _failure(e, size) is None]
        working = " or ".join(other.name for other in others) or "another codec"
        raise SinkError(f"encoder: {name} does not work here ({why}): use auto or {working}")
    return chosen


def notice(encoder: Encoder) -> str:
    """One line that says what is used."""
    where = "hardware" if encoder.hardware else "software"
    return f"video is encoded in {encoder.codec} by {encoder.name}" + (
        "" if encoder.name.startswith(GST) else f" ({where})"
    )


def live_bitrate(width: int, height: int, codec: Codec) -> int:
    """Bits a second for a live stream at about 30 frames a second: 2.8 million for 720p in H.264."""
    bits = width * height * _NOMINAL_FPS * (0.1 if codec == "h264" else 0.065)
    return int(min(max(bits, 300_000), 20_000_000))


def quality_bitrate(width: int, height: int, quality: int) -> int:
    """Bits a second that come near a quality, for encoders that know no quality: six steps are twice the bits."""
    return int(min(max(width * height * _NOMINAL_FPS * 0.1 * 2 ** ((23 - quality) / 6), 300_000), 100_000_000))


def options_for(name: str, quality: int, *, live: bool, bitrate: int | None = None) -> dict[str, str]:
    """FFmpeg's options of an encoder.

    Args:
        name: FFmpeg's.
        quality: 0..51, where no bit rate is given.
        live: no frame waits for later ones; key frames when they are asked for.
        bitrate: bits a second, never more over a second.
    """
    options: dict[str, str] = {}
    if name in ("libx264", "libx265"):
        options = {"preset": "veryfast" if name == "libx264" or not live else "superfast"}
        options |= {"tune": "zerolatency", "forced-idr": "1"} if live else {}
        options |= {} if bitrate else {"crf": str(quality)}
        if name == "libx265":  # frames that are encoded at the same time hold each other up
            options["x265-params"] = "log-level=none" + (":frame-threads=1" if live else "")
    elif name.endswith("_nvenc"):
        options = {"preset": "p4", "tune": "ll", "delay": "0", "forced-idr": "1"} if live else {"preset": "p5"}
        # NVENC takes quality 0 for "choose yourself".
        options |= {"rc": "cbr"} if bitrate else {"rc": "vbr", "cq": str(max(1, quality)), "b": "0"}
    elif name.endswith("_qsv"):
        options = {"preset": "veryfast"} | ({"async_depth": "1", "forced_idr": "1"} if live else {})
        options |= {} if bitrate else {"global_quality": str(max(1, quality))}
    if bitrate:
        options |= {"b": str(bitrate), "maxrate": str(bitrate), "bufsize": str(bitrate)}
    if live:
        options["bf"] = "0"
    return options


def tag(context: Any, format: str) -> None:
    """Marks H.265 in the way that Apple's players want, where the format has a choice.

    Args:
        context: the codec context of an output stream.
        format: FFmpeg's name of the container.
    """
    if context.codec.canonical_name == "hevc" and format in ("mp4", "mov"):
        context.codec_tag = "hvc1"


def knows_quality(name: str) -> bool:
    """Whether an encoder of FFmpeg takes a quality; the others take bits a second."""
    return not name.endswith("_v4l2m2m")


def pixel_format(name: str) -> str:
    """How an encoder of FFmpeg wants the pixels."""
    return "nv12" if name.endswith("_qsv") else "yuv420p"


class LiveEncoder:
    """An encoder of FFmpeg, set for live streams.

    Args:
        encoder: one of FFmpeg's.
        size: width and height in pixels, both even.
        quality: 0..51, where no bit rate is given.
        bitrate: bits a second; None to go by quality.

    Raises:
        SinkError: it can't be opened.
    """

    def __init__(self, encoder: Encoder, size: tuple[int, int], quality: int, bitrate: int | None = None) -> None:
        self.encoder = encoder
        width, height = size
        if bitrate is None and not knows_quality(encoder.name):
            bitrate = quality_bitrate(width, height, quality)
        tags = _BT709 if height >= 720 else _BT601
        try:
            context: Any = av.CodecContext.create(encoder.name, "w")
            context.width, context.height, context.pix_fmt = width, height, pixel_format(encoder.name)
            context.time_base, context.framerate = CLOCK, Fraction(_NOMINAL_FPS)
            context.gop_size = _GOP_FRAMES
            context.color_primaries, context.color_trc = tags.primaries, tags.transfer
            context.colorspace, context.color_range = tags.matrix, tags.range
            # Without delay every thread encodes a slice of its own, and slices cost bits.
            context.thread_count = min(4, os.cpu_count() or 1)
            context.options = options_for(encoder.name, quality, live=True, bitrate=bitrate)
            context.open()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SinkError(
                f"encoder: {encoder.name} takes no pictures of {width}x{height} here ({reason(error)}): choose another"
            ) from error
        self._context = context
        self._from_bgr = FromBgr(context.pix_fmt, tags)

    def encode(self, image: Image, pts: int, *, keyframe: bool) -> Sequence[Packet]:
        """The packets that are ready: mostly the one of this picture.

        Args:
            image: uint8 ``[H, W, 3]`` BGR, of the size of the encoder.
            pts: time stamp in ticks of `CLOCK`.
            keyframe: whether playing can begin here.

        Raises:
            SinkError: the encoder failed.
        """
        frame = self._from_bgr(image)
        frame.pts, frame.time_base = pts, CLOCK
        frame.pict_type = av.video.frame.PictureType.I if keyframe else av.video.frame.PictureType.NONE
        return self._packets(frame)

    def finish(self) -> Sequence[Packet]:
        """The packets that were held back."""
        return self._packets(None)

    def close(self) -> None:
        """Nothing is held beyond this object."""

    def _packets(self, frame: av.VideoFrame | None) -> Sequence[Packet]:
        try:
            packets: list[Packet] = self._context.encode(frame)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SinkError(f"encoder: {self.encoder.name} failed ({reason(error)}): choose another") from error
        for packet in packets:
            packet.time_base = CLOCK
        return packets


def _best(codec: Codec, size: tuple[int, int], ffmpeg_only: bool) -> Encoder:
    failures = []
    for encoder in _candidates(codec, ffmpeg_only):
        why = _failure(encoder, size)
        if why is None:
            return encoder
        failures.append(f"{encoder.name}: {why}")
    raise SinkError(f"encoder: none for {codec} and {size[0]}x{size[1]} pixels works here ({'; '.join(failures)})")


def _candidates(codec: Codec, ffmpeg_only: bool) -> list[Encoder]:
    """Those that may work here, the best first; GStreamer isn't loaded for nothing."""
    on_jetson = any(Path(device).exists() for device in _JETSON_DEVICES)
    return [e for e in ENCODERS if e.codec == codec and (e.gst is None or (on_jetson and not ffmpeg_only))]


_working: set[tuple[Encoder, tuple[int, int]]] = set()
"""Encoders that have encoded a picture of a size. Those that failed are tried again: hardware may have been busy."""


def _failure(encoder: Encoder, size: tuple[int, int]) -> str | None:
    """Why the encoder doesn't work for pictures of this size; None when it has encoded one."""
    if (encoder, size) not in _working:
        why = _try_out(encoder, size)
        if why is not None:
            return why
        _working.add((encoder, size))
    return None


def _try_out(encoder: Encoder, size: tuple[int, int]) -> str | None:
    width, height = size
    grey = np.full((height, width, 3), 128, np.uint8)
    try:
        opened = open_live(encoder, size, quality=DEFAULT_QUALITY)
        try:
            packets = [*opened.encode(grey, 0, keyframe=True), *opened.finish()]
        finally:
            opened.close()
    except InputError as error:
        cause = error.__cause__
        return reason(cause) if cause is not None else str(error)
    return None if any(packet.size for packet in packets) else "it gave no picture"


def open_live(encoder: Encoder, size: tuple[int, int], *, quality: int, bitrate: int | None = None) -> Any:
    """Opens an encoder for a live stream: something with the methods of `LiveEncoder`.

    Raises:
        SinkError: it can't be opened.
    """
    if encoder.gst is None:
        return LiveEncoder(encoder, size, quality, bitrate)
    from .gst_encoder import GstEncoder

    return GstEncoder(encoder, size, bitrate or quality_bitrate(*size, quality))
