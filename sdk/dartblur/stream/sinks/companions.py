"""The streams that travel with a video: sound and subtitles of text, copied packet by packet.

They are read from the source a second time, apart from the pictures, so that no packet waits in a queue of frames.
Nothing else is ever copied: any other kind of stream, subtitles of bitmaps too, may hold pictures with clear faces.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import av
from av.packet import Packet

from ...errors import SinkError, SourceError
from ..media.files import reason
from ..media.private_data import without_pictures
from ..sources.video_source import VideoSource

_BIG_TAG = 2000
"""Longer tags are not text but embedded pictures."""

_TEXT_SUBTITLES = 1 << 17
"""FFmpeg's property of codecs (AV_CODEC_PROP_TEXT_SUB) whose subtitles are text."""


class Companions:
    """Copies the sound and the subtitles of text of a video file.

    Args:
        source: the video.
        output: PyAV's output container, to which their streams are added.
        suffix: the output's, for messages.
        sound: whether the sound is copied.
        metadata: whether tags are copied, and subtitles: cameras and drones write time and place into these.
        from_zero: leave out what begins before the pictures, as the priming of AAC does. AVI knows no time before 0:
            there it would hold up the pictures.

    Raises:
        SinkError: the container doesn't take the sound's codec.
    """

    def __init__(
        self,
        source: VideoSource,
        output: Any,
        suffix: str,
        *,
        sound: bool = True,
        metadata: bool = True,
        from_zero: bool = False,
    ) -> None:
        self.notices: list[str] = []
        self._source, self._sound, self._metadata, self._from_zero = source, sound, metadata, from_zero
        self._input = av.open(str(source.path.absolute()), metadata_errors="replace")
        try:
            self._streams = self._attach(output, suffix)
        except BaseException:
            self._input.close()
            raise
        self._packets = self._read()
        self._next = next(self._packets, None)

    def until(self, time: float) -> Iterator[Packet[Any]]:
        """The packets that begin up to this time, in seconds of the source's clock; infinity gives all."""
        while self._next is not None and _begin(self._next) <= time:
            packet, self._next = self._next, next(self._packets, None)
            shift = self._source.form.origin * self._source.form.time_base
            ticks = round(shift / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - ticks
            packet.dts = None if packet.dts is None else packet.dts - ticks
            packet.stream = self._streams[packet.stream_index]
            if not (self._from_zero and _begin(packet) < 0):
                yield packet

    def close(self) -> None:
        """Closes the source's second reader."""
        self._packets.close()
        self._input.close()

    def _attach(self, output: Any, suffix: str) -> dict[int, Any]:
        attached: dict[int, Any] = {}
        for stream in self._input.streams:
            if stream.type == "video":
                continue  # the source has said what becomes of these
            name = f"{stream.type} stream {stream.index}"
            if not _is_copied(stream):
                self.notices.append(f"left out: {name}, only sound and subtitles of text are copied")
                continue
            if stream.type == "audio" and not self._sound:
                continue
            if stream.type == "subtitle" and not self._metadata:
                self.notices.append(f"left out: {name}, with the metadata: some cameras write time and place into it")
                continue
            context = stream.codec_context
            codec = context.name if context is not None else "unknown"
            try:
                copy = output.add_stream_from_template(stream)
                if context is not None and context.extradata:
                    copy.codec_context.extradata = without_pictures(codec, context.extradata)
            except (ValueError, av.error.FFmpegError, AttributeError) as error:
                if stream.type == "subtitle":
                    self.notices.append(f"left out: {name}, {suffix} doesn't take {codec}")
                    continue
                raise SinkError(
                    f"{suffix} doesn't take the sound's codec {codec}, and sound is never re-encoded: use .mkv, or "
                    "leave it out with --no-sound"
                ) from error
            if self._metadata:
                copy.metadata.update(text_tags(stream.metadata))
            copy.disposition = stream.disposition.value
            attached[stream.index] = copy
        return attached

    def _read(self) -> Generator[Packet[Any], None, None]:
        if not self._streams:
            return
        packets = self._input.demux([self._input.streams[index] for index in self._streams])
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                if self._source.keep_going:
                    return
                raise SourceError(f"{self._source.path}: can't be read on: {reason(error)}") from error
            if packet is None:
                return
            if packet.size and packet.dts is not None and not packet.is_corrupt:
                yield packet


def _is_copied(stream: Any) -> bool:
    if stream.type != "subtitle":
        return bool(stream.type == "audio")
    context = stream.codec_context
    return context is not None and bool(int(context.codec.properties) & _TEXT_SUBTITLES)


def text_tags(tags: dict[str, str]) -> dict[str, str]:
    """Tags that are text; cover pictures that hide among them, and what names the old container, are left out."""
    old = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps", "handler_name"}
    old |= {"alpha_mode"}  # there is no transparency any more
    pictures = ("picture", "coverart", "thumb", "xmp", "_statistics", "number_of_")
    return {
        key: value
        for key, value in tags.items()
        if key.lower() not in old and len(value) <= _BIG_TAG and not any(part in key.lower() for part in pictures)
    }


def _begin(packet: Packet[Any]) -> float:
    return float((packet.dts or 0) * packet.time_base)
