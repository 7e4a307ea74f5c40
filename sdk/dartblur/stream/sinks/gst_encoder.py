"""Encoders of the system's GStreamer, such as those of a Jetson, for our recordings and pushed streams."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import av

from ...errors import SinkError
from ...frame import Image
from . import gst_push
from .gst_push import GstPush

if TYPE_CHECKING:
    from .encoders import Encoder, Packet

_POLL_S = 0.002
_PATIENCE_S = 0.015
"""Half the time to the next picture. Some encoders hold each one back until the next is there."""


class GstEncoder:
    """An encoder in GStreamer with the methods of `encoders.LiveEncoder`.

    Args:
        encoder: with elements that turn BGR pictures into its codec.
        size: width and height of the pictures, in pixels.
        bitrate: bits a second.

    Raises:
        SinkError: GStreamer isn't installed, or lacks an element.
    """

    def __init__(self, encoder: Encoder, size: tuple[int, int], bitrate: int) -> None:
        from .encoders import CLOCK

        self.encoder = encoder
        self._clock = CLOCK
        # Start codes, one picture a buffer, and all that a decoder has to know before every key frame.
        caps = f"video/x-{encoder.codec},stream-format=byte-stream,alignment=au"
        tail = f"{encoder.codec}parse config-interval=-1 ! {caps} ! appsink name=packets sync=false"
        elements = (encoder.gst or "").replace("{bitrate}", str(bitrate))
        self._push = GstPush(f"{elements} ! {tail}", f"encoder {encoder.name}")
        self._output = self._push.pipeline.get_by_name("packets")
        try:
            self._push.start(*size)
        except BaseException:
            self.close()
            raise

    def encode(self, image: Image, pts: int, *, keyframe: bool) -> Sequence[Packet]:
        """As of `LiveEncoder`; the packets of pictures before this one may come as well."""
        self._push.push(image, float(pts * self._clock), keyframe=keyframe and pts > 0)
        # A picture that is ready soon goes out at once, not with the next one.
        until = monotonic() + _PATIENCE_S
        while not (packets := self._ready()) and monotonic() < until:
            sleep(_POLL_S)
        return packets

    def finish(self) -> Sequence[Packet]:
        """The packets that were held back.

        Raises:
            SinkError: it failed, or takes too long.
        """
        self._push.end()
        packets: list[Packet] = []
        until = monotonic() + gst_push.TIMEOUT_S
        while not self._output.get_property("eos"):
            self._push.check()
            packets += self._ready()
            if monotonic() > until:
                raise SinkError(f"encoder {self.encoder.name}: did not finish in {gst_push.TIMEOUT_S:g} s")
            sleep(_POLL_S)
        return packets + self._ready()

    def close(self) -> None:
        """Lets go of the pipeline."""
        self._push.close()

    def _ready(self) -> list[Packet]:
        packets = []
        while (sample := self._output.emit("try-pull-sample", 0)) is not None:
            packets.append(self._packet(sample))
        return packets

    def _packet(self, sample: Any) -> Packet:
        gst, buffer = self._push.gst, sample.get_buffer()
        packet: Packet = av.Packet(buffer.extract_dup(0, buffer.get_size()))
        # Some encoders count from another origin, which their segment tells.
        stamp = sample.get_segment().to_running_time(gst.Format.TIME, buffer.pts)
        packet.pts = packet.dts = round(stamp / gst.SECOND / self._clock)
        packet.time_base = self._clock
        packet.is_keyframe = not buffer.has_flags(gst.BufferFlags.DELTA_UNIT)
        return packet
