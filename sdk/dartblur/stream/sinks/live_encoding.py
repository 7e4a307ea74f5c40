"""The frames of a live stream as encoded packets, for recordings and pushed streams."""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import av

from ...errors import SinkError
from ...frame import RedactedFrame
from ..media.files import reason
from . import encoders
from .encoders import CLOCK, Codec
from .fitting import even, fit
from .timeline import Timeline

if TYPE_CHECKING:
    from .encoders import Packet

KEYFRAME_S = 2.0
"""From one key frame to the next: how long a viewer who comes later waits at most."""


class LiveEncoding:
    """Encodes redacted frames in the size of the first one, with their real time stamps.

    Args:
        codec, encoder: as `encoders.choose` takes them.
        quality: 0 (lossless) .. 51, where bits a second aren't bounded.
        bitrate: bits a second; 0 to go by the size of the picture, None to go by quality.

    Raises:
        SinkError: the encoder is unknown or doesn't work here.
    """

    def __init__(self, codec: Codec | None, encoder: str, quality: int, bitrate: int | None = None) -> None:
        if not 0 <= quality <= 51:
            raise SinkError(f"quality: expected a number from 0 (lossless) to 51, got {quality}")
        if bitrate is not None and 0 != bitrate < 1000:
            raise SinkError(f"bitrate: expected bits a second, at least 1000, got {bitrate}")
        self._asked = codec, encoder
        self._quality, self._bitrate = quality, bitrate
        # Told now, so that a wrong name ends the program before the camera runs.
        self._choice = encoders.choose(codec, encoder)
        self._notices = [encoders.notice(self._choice)]
        self._encoder: encoders.LiveEncoder | None = None
        self._size = 0, 0
        self._timeline = Timeline()
        self._next_keyframe = 0.0

    def take_notices(self) -> list[str]:
        """Which encoder is used: once, and again where the size of the pictures asks for another."""
        taken, self._notices = self._notices, []
        return taken

    @property
    def codec(self) -> Codec:
        """What the packets are."""
        return self._choice.codec

    def encode(self, frame: RedactedFrame, *, keyframe_at: float = inf) -> Sequence[Packet]:
        """The packets that are ready; their time stamps count ticks of `CLOCK` from the first frame.

        Args:
            frame: of any size: it is put into that of the first.
            keyframe_at: seconds since the first frame from which on a key frame is wanted; there is one every
                `KEYFRAME_S` in any case.

        Raises:
            SinkError: the encoder failed.
        """
        encoder = self._encoder or self._open(frame)
        time = self._timeline.at(frame)
        keyframe = time >= min(self._next_keyframe, keyframe_at)
        if keyframe:
            self._next_keyframe = time + KEYFRAME_S
        return encoder.encode(fit(frame.image, *self._size), round(time / CLOCK), keyframe=keyframe)

    def finish(self) -> Sequence[Packet]:
        """The packets that were held back."""
        return () if self._encoder is None else self._encoder.finish()

    def close(self) -> None:
        """Lets go of the encoder."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def _open(self, first: RedactedFrame) -> encoders.LiveEncoder:
        height, width = first.image.shape[:2]
        self._size = even(width), even(height)
        choice = encoders.choose(*self._asked, self._size)
        if choice != self._choice:
            self._choice = choice
            self._notices.append(encoders.notice(choice))
        bitrate = encoders.live_bitrate(*self._size, choice.codec) if self._bitrate == 0 else self._bitrate
        self._encoder = encoders.open_live(choice, self._size, quality=self._quality, bitrate=bitrate)
        return self._encoder


def add_stream(container: Any, codec: Codec, first: Packet) -> Any:
    """A stream of a container, for packets that are there already.

    Args:
        container: an output of PyAV.
        codec: of the packets.
        first: the first one, a key frame: it says what decoders have to know.

    Raises:
        SinkError: it doesn't.
    """
    name = {"h264": "h264", "h265": "hevc"}[codec]
    try:
        with av.open(io.BytesIO(bytes(first)), format=name) as described:
            stream = container.add_stream_from_template(described.streams.video[0], opaque=True)
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        raise SinkError(f"encoder: expected {codec} with start codes, got something else ({reason(error)})") from error
    stream.time_base = CLOCK
    return stream
