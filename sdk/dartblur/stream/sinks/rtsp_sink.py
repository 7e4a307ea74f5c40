"""Live streams pushed to an RTSP server, such as MediaMTX."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from ...errors import SinkError
from ...frame import RedactedFrame
from ..base import Sink
from ..media.files import reason
from ..observers import Event
from ..uris import has_host, shown
from .encoders import DEFAULT_QUALITY, Codec
from .live_encoding import LiveEncoding
from .rtp import RtpPackets, describe
from .rtsp_publisher import RtspPublisher, connect

if TYPE_CHECKING:
    from .encoders import Packet

TIMEOUT_S = 5.0
"""How long the server may take for anything."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0


class RtspSink(Sink):
    """Pushes a live stream to an RTSP server (ANNOUNCE, RECORD), over TCP.

    When the server is lost it is tried again, first after half a second, then less and less often; frames that come
    meanwhile are not sent. Nothing waits longer than `TIMEOUT_S` for the server.

    Args:
        uri: ``rtsp://user:password@host:8554/name``, or ``rtsps://`` for encryption. Credentials are never shown.
        codec: ``h264`` or ``h265``; None for that of the encoder, or H.264.
        encoder: ``auto`` or a name, see `encoders.choose`.
        bitrate: bits a second, never more over a second; None to go by the size of the picture.

    Raises:
        SinkError: nobody listens there, or the encoder doesn't work here. That the server takes no stream, or not with
            these credentials, is known with the first frame.
    """

    remains = "what was sent before has left"

    def __init__(
        self, uri: str, *, codec: Codec | None = None, encoder: str = "auto", bitrate: int | None = None
    ) -> None:
        super().__init__(shown(uri))
        self._url = uri
        self._video = LiveEncoding(codec, encoder, DEFAULT_QUALITY, bitrate or 0)
        self.notices += self._video.take_notices()
        self._check_server()
        self._connection: _Connection | None = None
        self._connected_before = False
        self._pause, self._next_try = _FIRST_PAUSE_S, 0.0

    def _write(self, frame: RedactedFrame) -> None:
        if self._connection is None and monotonic() < self._next_try:
            return
        packets = self._video.encode(frame, keyframe_at=0 if self._connection is None else float("inf"))
        self.notices += self._video.take_notices()
        try:
            self._send(packets)
        except OSError as error:  # as are those of FFmpeg
            self._lost(error)

    def commit(self) -> None:
        """Sends what was held back, and ends the stream."""
        if self._connection is not None:
            with suppress(OSError):
                self._send(self._video.finish())
        self.discard()

    def discard(self) -> None:
        """Ends the stream."""
        self._disconnect()
        self._video.close()

    def _send(self, packets: Sequence[Packet]) -> None:
        for packet in packets:
            if self._connection is None:
                if not packet.is_keyframe:
                    continue
                self._connection = _Connection(self._url, self._video.codec, packet)
                self._connected()
            self._connection.send(packet)

    def _connected(self) -> None:
        self._connected_before = True
        self._pause = _FIRST_PAUSE_S
        self.observe(Event("connected", f"{self.uri}: the server takes the stream", self.uri))

    def _lost(self, error: Exception) -> None:
        why = reason(error)
        if not self._connected_before:
            raise SinkError(
                f"{self.uri}: the server does not take the stream ({why}): check its address, name and password"
            ) from error
        self._disconnect()
        self._next_try = monotonic() + self._pause
        message = f"{self.uri}: lost ({why}): tried again in {self._pause:g} s"
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)
        self.observe(Event("reconnecting", message, self.uri))

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _check_server(self) -> None:
        if not has_host(self._url):
            raise SinkError(f"{self.uri}: expected rtsp://host:port/name, got no host: name the server")
        try:
            connect(self._url, TIMEOUT_S).close()
        except OSError as error:
            why = reason(error)
            raise SinkError(f"{self.uri}: can't be reached: {why}: check the address and the server") from error


class _Connection:
    """One session with the server, from a key frame on."""

    def __init__(self, url: str, codec: Codec, first: Packet) -> None:
        self._packets = RtpPackets(codec, first)
        try:
            self._publisher = RtspPublisher(url, describe(codec, first), TIMEOUT_S)
        except BaseException:
            self._packets.close()
            raise

    def send(self, packet: Packet) -> None:
        """Sends a packet; waits no longer than the time-out."""
        self._publisher.send(self._packets(packet))

    def close(self) -> None:
        """Ends the session."""
        self._publisher.close()
        self._packets.close()
