"""Encoded pictures as RTP, and their description as SDP."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

import av

from .encoders import CLOCK, Codec
from .live_encoding import add_stream

if TYPE_CHECKING:
    from .encoders import Packet

_PACKET_BYTES = 1400
"""Fits into one packet of a network, also where a relay sends them on by UDP."""

_PAYLOAD = 96
_START_CODE = re.compile(rb"\x00\x00\x00?\x01")
_H264_SPS, _H264_PPS = 7, 8
_H265_SETS = {32: "vps", 33: "sps", 34: "pps"}


class RtpPackets:
    """Cuts the packets of an encoder into those of RTP; reports of RTCP come among them.

    Args:
        codec: of the packets.
        first: a key frame, with what a decoder has to know; it counts as time 0.
    """

    def __init__(self, codec: Codec, first: Packet) -> None:
        self._writer = _Writer()
        self._origin = first.pts or 0
        self._container: Any = av.open(
            self._writer,
            "w",
            format="rtp",
            buffer_size=_PACKET_BYTES,
            container_options={"payload_type": str(_PAYLOAD)},
        )
        try:
            self._stream = add_stream(self._container, codec, first)
        except BaseException:
            self.close()
            raise

    def __call__(self, packet: Packet) -> list[bytes]:
        """The packets of RTP, each with its header."""
        packet.pts = packet.dts = (packet.pts or 0) - self._origin
        packet.time_base = CLOCK
        packet.stream = self._stream
        self._container.mux_one(packet)
        cut, self._writer.packets = self._writer.packets, []
        return cut

    def close(self) -> None:
        """Lets go of FFmpeg's part; it must not be left to the garbage collector."""
        self._container.close()


class _Writer:
    """Takes what FFmpeg writes: one packet at a time."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.packets.append(bytes(data))
        return len(data)


def describe(codec: Codec, first: Packet) -> str:
    """The SDP of a stream that begins with this key frame."""
    units = [unit.rstrip(b"\x00") for unit in _START_CODE.split(bytes(first)) if unit]
    name, settings = _h264(units) if codec == "h264" else _h265(units)
    lines = [
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        "s=dartblur",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        f"m=video 0 RTP/AVP {_PAYLOAD}",
        f"a=rtpmap:{_PAYLOAD} {name}/{CLOCK.denominator}",
        f"a=fmtp:{_PAYLOAD} {settings}",
        "a=control:streamid=0",
    ]
    return "\r\n".join([*lines, ""])


def _h264(units: list[bytes]) -> tuple[str, str]:
    sets = [unit for kind in (_H264_SPS, _H264_PPS) for unit in units if unit[0] & 31 == kind]
    settings = "packetization-mode=1"
    if sets:
        settings += f"; sprop-parameter-sets={','.join(map(_base64, sets))}; profile-level-id={sets[0][1:4].hex()}"
    return "H264", settings


def _h265(units: list[bytes]) -> tuple[str, str]:
    kinds = {unit[0] >> 1 & 63: unit for unit in reversed(units)}
    sets = [f"sprop-{name}={_base64(kinds[kind])}" for kind, name in _H265_SETS.items() if kind in kinds]
    return "H265", "; ".join(sets)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
