"""Live video by WebRTC: one encoder for all watchers of a codec, and media only between the two ends of the request.

No STUN or TURN server is asked. The server's end is the address that the page was asked at, and the browser's end the
address that it asked from: so it works without a network and without name resolution, no socket is opened on an
interface that the page isn't served on, and nothing is sent to addresses that somebody writes into an offer.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from concurrent.futures import Executor
from fractions import Fraction
from typing import Any

import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from ....frame import Image
from .channel import Channel, EndedError
from .pictures import fitted

Packet = Any
"""`av.Packet`, which has a type parameter in some releases of PyAV and none in others."""

logger = logging.getLogger("dartblur.page")

_CLOCK = 90_000
_KEY_EVERY_S = 2.0
"""Between whole pictures: how long a watcher who has lost packets may see a damaged one."""
_IDLE_S = 1.0
"""A frame is sent again after this long: the picture stays sharp, and the browser knows that the connection holds."""
_FASTEST_S = 1 / 31
_CONNECT_S = 10.0
_QUEUE = 30
_BIT_RATE = 4_000_000

_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "H264": (
        "libx264",
        {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "profile": "baseline",
            "crf": "23",
            "maxrate": str(_BIT_RATE),
            "bufsize": str(_BIT_RATE // 2),
            "forced-idr": "1",
        },
    ),
    "VP8": (
        "libvpx",
        {
            "deadline": "realtime",
            "cpu-used": "8",
            "lag-in-frames": "0",
            "error-resilient": "1",
            "crf": "20",
            "b": str(_BIT_RATE // 2),
        },
    ),
}
"""By the codec's name in an offer, the best first: FFmpeg's encoder and its options."""

_CODECS = [name for name, (encoder, _) in _ENCODERS.items() if encoder in av.codecs_available]
"""Those that this build of FFmpeg has."""


class Encoder:
    """Encodes images of any size, one after another, for the lowest latency.

    Args:
        codec: ``H264`` or ``VP8``.
    """

    def __init__(self, codec: str) -> None:
        self._name, self._options = _ENCODERS[codec]
        self._context: VideoCodecContext | None = None
        self._began = time.monotonic()
        self._last = -1

    def encode(self, image: Image, key: bool) -> list[Packet]:
        """The packets of an image, BGR; `key` makes it a whole picture, which needs none before it."""
        size = fitted(image.shape[1], image.shape[0])
        context = self._context
        if context is None or (context.width, context.height) != size:
            context = self._context = self._open(*size)
        whole = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame = whole.reformat(*size, format="yuv420p", interpolation="AREA")
        # The clock may stand still between two frames; time stamps may not.
        self._last = frame.pts = max(self._last + 1, int((time.monotonic() - self._began) * _CLOCK))
        frame.time_base = Fraction(1, _CLOCK)
        frame.pict_type = PictureType.I if key else PictureType.NONE
        return context.encode(frame)

    def _open(self, width: int, height: int) -> VideoCodecContext:
        context = av.CodecContext.create(self._name, "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base, context.framerate = Fraction(1, _CLOCK), Fraction(30, 1)
        context.gop_size = 1_000_000  # whole pictures come when they are asked for
        context.thread_count = 1
        context.options = dict(self._options)
        return context


class Track(MediaStreamTrack):
    """What one watcher gets: packets, from a whole picture on."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._packets: asyncio.Queue[Packet | None] = asyncio.Queue()
        self.waits_for_key = True

    def put(self, packets: list[Packet]) -> None:
        """Adds packets; one who is too slow is given none until the next whole picture."""
        if self._packets.qsize() > _QUEUE:
            self.waits_for_key = True
        for packet in packets:
            self.waits_for_key = self.waits_for_key and not packet.is_keyframe
            if not self.waits_for_key:
                self._packets.put_nowait(packet)

    def end(self) -> None:
        """No more will come."""
        self._packets.put_nowait(None)

    async def recv(self) -> Packet:
        """The next packet."""
        packet = await self._packets.get()
        if packet is None:
            self.stop()
            raise MediaStreamError
        return packet


class Feed:
    """The video of a channel in one codec; it is encoded as long as anybody watches."""

    def __init__(self, channel: Channel, codec: str, executor: Executor) -> None:
        self._channel, self._codec, self._executor = channel, codec, executor
        self._tracks: set[Track] = set()
        self._task: asyncio.Task[None] | None = None

    def join(self) -> Track:
        """One more watcher."""
        track = Track()
        self._tracks.add(track)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return track

    def leave(self, track: Track) -> None:
        """One less; after the last one nothing is encoded."""
        self._tracks.discard(track)
        if not self._tracks and self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        encoder, loop = Encoder(self._codec), asyncio.get_running_loop()
        number, last_key = -1, 0.0
        try:
            while True:
                began = loop.time()
                # Newcomers don't wait for the next frame of a source that gives none.
                fresh = any(track.waits_for_key for track in self._tracks)
                number, frame = await self._channel.after(-1 if fresh else number, _IDLE_S)
                key = fresh or began - last_key > _KEY_EVERY_S
                last_key = began if key else last_key
                packets = await loop.run_in_executor(self._executor, encoder.encode, frame.image, key)
                for track in self._tracks:
                    track.put(packets)
                await asyncio.sleep(max(0.0, began + _FASTEST_S - loop.time()))
        except EndedError:
            pass
        except Exception:
            logger.exception("%s: video can't be encoded", self._codec)
        finally:
            for track in self._tracks:
                track.end()


class Calls:
    """The WebRTC connections of one channel.

    Args:
        channel: whose frames.
        executor: threads to encode in.
    """

    def __init__(self, channel: Channel, executor: Executor) -> None:
        self._feeds = {codec: Feed(channel, codec, executor) for codec in _CODECS}
        self._peers: set[RTCPeerConnection] = set()

    def __len__(self) -> int:
        return len(self._peers)

    async def answer(self, offer: str, here: str, there: str) -> str:
        """Takes a browser's offer to receive video.

        Args:
            offer: its session description.
            here: the server's own address to use.
            there: the browser's address.

        Returns:
            The session description of the answer.

        Raises:
            ValueError: this is no such offer.
        """
        media = re.findall(r"^m=(\w+)", offer, re.MULTILINE)
        if media != ["video"]:
            raise ValueError(f"expected an SDP offer to receive one video, got {media or 'another text'}")
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._peers.add(peer)
        try:
            transceiver = peer.addTransceiver("video", direction="sendonly")
            transceiver.setCodecPreferences(_preferred())
            _listen_only_at(here, transceiver.sender)
            await peer.setRemoteDescription(RTCSessionDescription(_from(there, offer), "offer"))
            await peer.setLocalDescription(await peer.createAnswer())
            answer = peer.localDescription.sdp
            self._watch(peer, transceiver.sender, self._feeds[_codec_of(answer)])
        except Exception as error:
            await self._hang_up(peer)
            raise ValueError(f"expected an SDP offer to receive H.264 or VP8 video, got another: {error}") from error
        return answer

    async def close(self) -> None:
        """Ends all."""
        await asyncio.gather(*map(self._hang_up, list(self._peers)))

    def _watch(self, peer: RTCPeerConnection, sender: RTCRtpSender, feed: Feed) -> None:
        tracks: list[Track] = []

        async def ended() -> None:
            await self._hang_up(peer)

        async def changed() -> None:
            if peer.connectionState == "connected" and not tracks:
                tracks.append(feed.join())
                tracks[0].on("ended", ended)
                sender.replaceTrack(tracks[0])
            elif peer.connectionState in ("failed", "closed", "disconnected"):
                for track in tracks:
                    feed.leave(track)
                await self._hang_up(peer)

        async def give_up() -> None:
            await asyncio.sleep(_CONNECT_S)
            if not tracks:
                await self._hang_up(peer)

        peer.on("connectionstatechange", changed)
        patience = asyncio.create_task(give_up())
        peer.on("connectionstatechange", lambda: peer.connectionState == "closed" and patience.cancel())

    async def _hang_up(self, peer: RTCPeerConnection) -> None:
        self._peers.discard(peer)
        await peer.close()


def _preferred() -> list[Any]:
    codecs = RTCRtpSender.getCapabilities("video").codecs
    kinds = [f"video/{name}" for name in _CODECS] + ["video/rtx"]
    return sorted((codec for codec in codecs if codec.mimeType in kinds), key=lambda codec: kinds.index(codec.mimeType))


def _listen_only_at(here: str, sender: RTCRtpSender) -> None:
    # aiortc has no option for it: left alone, it listens on all interfaces except loopback.
    ice = sender.transport.transport.iceGatherer._connection
    gather = ice.get_component_candidates

    async def gather_here(component: int, addresses: list[str], timeout: int = 5) -> Any:
        return await gather(component=component, addresses=[here], timeout=timeout)

    ice.get_component_candidates = gather_here  # type: ignore[method-assign]


def _from(there: str, offer: str) -> str:
    """The offer with UDP candidates of the given address only; browsers write names instead, which mDNS would find."""
    lines = []
    for line in offer.splitlines():
        if line.startswith("a=candidate:"):
            found = re.fullmatch(r"(a=candidate:\S+ \d+ (?i:udp) \d+) \S+ (\d+) typ host\b.*", line)
            if found is None:
                continue
            line = f"{found[1]} {there} {found[2]} typ host"
        lines.append(line)
    return "\r\n".join(lines) + "\r\n"


def _codec_of(answer: str) -> str:
    first = re.search(r"^m=video \S+ \S+ (\d+)", answer, re.MULTILINE)
    name = first and re.search(rf"^a=rtpmap:{first[1]} (\w+)/", answer, re.MULTILINE)
    if not name or name[1] not in _CODECS:
        raise ValueError("no codec in common")
    return name[1]
