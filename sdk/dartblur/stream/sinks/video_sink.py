"""Video files: H.264 or H.265 (VP9 in WebM), with the sound, time stamps, aspect, rotation, colours and tags of their
source.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ...errors import SinkError, SourceError
from ...frame import RedactedFrame
from ..base import Sink
from ..media import orientation
from ..media.colours import FromBgr
from ..media.files import PendingFile, check_target, reason, remove_leftovers_of
from ..media.integrity import missing_bytes
from ..media.video_form import subsampling
from ..sources.video_source import VideoSource
from . import encoders
from .companions import Companions, text_tags
from .encoders import DEFAULT_QUALITY, Codec
from .fitting import even


@dataclass(frozen=True, slots=True)
class Container:
    """A file format: FFmpeg's name, its only encoder if it has one, and whether it keeps a rotation, any time stamp,
    and H.265.
    """

    format: str
    encoder: str | None = None
    keeps_rotation: bool = True
    free_clock: bool = True
    h265: bool = True


CONTAINERS = {
    ".mp4": Container("mp4"),
    ".m4v": Container("mp4"),
    ".mov": Container("mov"),
    ".mkv": Container("matroska"),
    ".webm": Container("webm", encoder="libvpx-vp9"),
    ".avi": Container("avi", keeps_rotation=False, free_clock=False, h265=False),
}


class VideoSink(Sink):
    """Writes a video file beside its target and renames it when it is complete.

    Pixels are stored as in the source, with the display matrix of the source. Where the container can't keep a
    rotation (AVI, or a PyAV before 18), the picture is stored upright.

    Args:
        path: the file to write; its suffix chooses the container.
        source: the video that the frames come from.
        overwrite: whether the file may exist.
        quality: 0 (lossless) .. 51 (worst), as x264's CRF.
        codec: ``h264`` or ``h265``; None for that of the encoder, or H.264. WebM takes neither.
        encoder: ``auto`` or one of FFmpeg's, see `encoders.choose`.
        sound: whether the sound is copied.
        metadata: whether tags are copied, and subtitles, into which some cameras write time and place.

    Raises:
        SinkError: unknown suffix, existing or unwritable target, a codec that the container doesn't take, or an encoder
            that doesn't work here.
    """

    whole = True

    def __init__(
        self,
        path: Path,
        source: VideoSource,
        *,
        overwrite: bool = False,
        quality: int = DEFAULT_QUALITY,
        codec: Codec | None = None,
        encoder: str = "auto",
        sound: bool = True,
        metadata: bool = True,
    ) -> None:
        super().__init__(str(path))
        self._container = container_for(path)
        if not 0 <= quality <= 51:
            raise SinkError(f"quality: expected a number from 0 (lossless) to 51, got {quality}")
        check_target(path, [source.path], overwrite)
        remove_leftovers_of(path)
        self._source, form = source, source.form
        self._companions: Companions | None = None
        self._last: int | None = None
        self._encoder = self._choose_encoder(quality, codec, encoder)
        self._file = PendingFile(path, overwrite)
        try:
            with self._errors():
                self._output = av.open(
                    str(self._file.path.absolute()),  # in "12:30.mp4" FFmpeg would see a protocol
                    "w",
                    format=self._container.format,
                    container_options={"movflags": "use_metadata_tags"}
                    if self._container.format in ("mp4", "mov")
                    else {},
                )
                self._stream = self._add_video(quality)
                self._copy_tags(metadata)
                if not source.info.live:
                    self._companions = Companions(
                        source,
                        self._output,
                        path.suffix,
                        sound=sound,
                        metadata=metadata,
                        from_zero=not self._container.free_clock,
                    )
                    self.notices += self._companions.notices
                self._output.start_encoding()
        except BaseException:
            self.discard()
            raise
        self._from_bgr = FromBgr(self._stream.pix_fmt or "yuv420p", form.colours)

    def _write(self, frame: RedactedFrame) -> None:
        form = self._source.form
        encoded = self._from_bgr(orientation.to_stored(frame.image, self._turn))
        encoded.time_base = self._time_base
        encoded.pts = self._time_stamp(frame)
        with self._errors():
            self._output.mux(self._stream.encode(encoded))
            self._copy_companions(frame.time + float(form.origin * form.time_base))

    def commit(self) -> None:
        """Drains the encoder, copies the rest of the sound, and gives the file its name.

        Raises:
            SinkError: the disk is full, or no frame came.
        """
        if self._last is None:
            raise SinkError(f"{self.uri}: no frame came, so nothing is written")
        with self._errors():
            self._output.mux(self._stream.encode(None))
            self._copy_companions(float("inf"))
            self._close()
        if missing_bytes(self._file.path):
            raise SinkError(f"{self.uri}: could not be written whole: free some space or choose another folder")
        self._file.commit()

    def discard(self) -> None:
        """Removes the unfinished file."""
        try:
            self._close()
        except (av.error.FFmpegError, OSError, ValueError):
            pass  # the file goes away in any case
        finally:
            self._file.discard()

    def _abandon(self) -> None:
        self._file.discard()

    def _close(self) -> None:
        if self._companions is not None:
            self._companions.close()
        if hasattr(self, "_output"):
            self._output.close()

    def _add_video(self, quality: int) -> Any:
        form, container = self._source.form, self._container
        notes_rotation = container.keeps_rotation and hasattr(av.VideoStream, "set_display_matrix")
        self._turn = form.orientation if notes_rotation else orientation.UPRIGHT
        turned = orientation.swaps_sides(form.orientation) and not notes_rotation
        width, height = (form.height, form.width) if turned else (form.width, form.height)
        # A fixed clock ticks once a frame; all others go on ticking as the source's.
        self._time_base = form.time_base if container.free_clock else 1 / form.rate
        options = _encoder_options(self._encoder, container, quality, (width, height), form.interlaced)
        stream: Any = self._output.add_stream(self._encoder, rate=form.rate, options=options)
        if notes_rotation:
            stream.set_display_matrix(form.matrix)
        context = stream.codec_context
        context.width, context.height = width, height
        # H.264 halves the colours of even sizes only; at odd ones it keeps them whole.
        odd = width % 2 or height % 2
        whole = bool(odd) and self._encoder in ("libx264", "libx265")
        context.pix_fmt = "yuv444p" if whole else encoders.pixel_format(self._encoder)
        self.notices += _losses(form.pixels, (width, height), whole)
        context.time_base = self._time_base
        context.sample_aspect_ratio = 1 / form.aspect if turned else form.aspect
        context.color_primaries, context.color_trc = form.colours.primaries, form.colours.transfer
        context.colorspace, context.color_range = form.colours.matrix, form.colours.range
        context.thread_count = 0
        encoders.tag(context, container.format)
        return stream

    def _choose_encoder(self, quality: int, codec: Codec | None, name: str) -> str:
        form, container = self._source.form, self._container
        if container.encoder is not None:
            if codec is not None or name not in ("auto", container.encoder):
                raise SinkError(f"{self.uri}: this format takes {container.encoder} only: use .mp4 or .mkv for others")
            return container.encoder
        odd = bool(form.width % 2 or form.height % 2)
        if name == "auto" and (odd or form.interlaced or quality == 0):
            name = "libx265" if codec == "h265" else "libx264"  # what no hardware does
        chosen = encoders.choose(codec, name, (even(form.width), even(form.height)), ffmpeg_only=True)
        if odd and chosen.hardware:
            raise SinkError(f"{self.uri}: {chosen.name} takes no {form.width}x{form.height}: use auto")
        if chosen.codec == "h265" and (form.interlaced or not container.h265):
            what = "interlaced video" if form.interlaced else "this format"
            raise SinkError(f"{self.uri}: H.265 does not go with {what}: use h264")
        if chosen.name != "libx264":
            self.notices.append(encoders.notice(chosen))
        return chosen.name

    def _copy_tags(self, metadata: bool) -> None:
        chapters = self._source.container.chapters()
        for chapter in chapters:
            chapter["metadata"] = text_tags(chapter["metadata"]) if metadata else {}
        if metadata:
            self._output.metadata.update(text_tags(self._source.container.metadata))
            self._stream.metadata.update(text_tags(self._source.stream.metadata))
        if chapters:
            self._output.set_chapters(chapters)

    def _time_stamp(self, frame: RedactedFrame) -> int:
        form = self._source.form
        pts = (frame.pts or 0) - form.origin
        if not self._container.free_clock:
            exact = pts * form.time_base / self._time_base
            pts = round(exact)
            if abs(exact - pts) > Fraction(1, 4):
                raise SinkError(f"{self.uri}: .avi has a fixed frame rate, and this video's varies: use .mkv or .mp4")
        if self._last is not None and pts <= self._last:
            pts = self._last + 1  # a broken clock; no muxer takes a frame that goes back in time
        self._last = pts
        return pts

    def _copy_companions(self, time: float) -> None:
        if self._companions is not None:
            self._mux(self._companions.until(time))

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            self._output.mux_one(packet)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of FFmpeg as errors of this sink."""
        try:
            yield
        except (SinkError, SourceError):
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SinkError(
                f"{self.uri}: can't be written: {reason(error)}: check the free space and the format"
            ) from error


def _losses(pixels: str, size: tuple[int, int], whole: bool) -> list[str]:
    """What becomes of the colours, a line each, where that isn't how they were."""
    if whole:
        return [f"{size[0]}x{size[1]} is an odd size: colours are stored whole (4:4:4), which some players don't take"]
    before = subsampling(pixels)
    return [f"colours in {before} become 4:2:0: a quarter as many as pixels"] if before in ("4:2:2", "4:4:4") else []


def container_for(path: Path) -> Container:
    """The container of a file name.

    Raises:
        SinkError: the suffix is none of those that are written.
    """
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError:
        known = ", ".join(CONTAINERS)
        raise SinkError(
            f"{path}: expected a video file ending in {known}, got {path.suffix or 'no suffix'!r}"
        ) from None


def _encoder_options(
    name: str, container: Container, quality: int, size: tuple[int, int], interlaced: str | None
) -> dict[str, str]:
    if name == "libvpx-vp9":
        crf = round(quality * 63 / 51)
        return {
            "crf": str(crf),
            "deadline": "realtime",
            "cpu-used": "8",
            "row-mt": "1",
            "threads": str(os.cpu_count() or 1),
        }
    bitrate = None if encoders.knows_quality(name) else encoders.quality_bitrate(*size, quality)
    options = encoders.options_for(name, quality, live=False, bitrate=bitrate)
    if interlaced:
        options["x264-params"] = f"{interlaced}=1"
    if not container.free_clock:
        options["bf"] = "0"  # AVI has no place for the order of B-frames
    return options
