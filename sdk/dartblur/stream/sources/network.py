"""Cameras and videos on a network: RTSP and HTTP(S), through FFmpeg's libraries (PyAV).

Passwords in a URI go to the server and nowhere else: messages and events show it without them, PyAV keeps FFmpeg's own
log silent unless a program turns it on, and FFmpeg's errors, which hold the URI, are not chained.
"""

from __future__ import annotations

import errno
import socket
import ssl
from functools import partial
from urllib.parse import urlsplit

import av

from ...errors import SourceError
from ..base import Source
from ..media.files import reason
from ..uris import after_scheme, has_host, scheme_of, shown
from .live_video import Connection, LiveVideo
from .reconnecting import STALL_S, Reconnecting, check_stall

CONNECT_S = 10.0
"""How long a connection may take, up to the first packets."""

SCHEMES = ("rtsp", "rtsps", "rtspt", "rtspu", "http", "https")
"""As GStreamer has them, ``rtspt://`` is RTSP over TCP and ``rtspu://`` over UDP."""

_TRANSPORT = {"rtspt": "tcp", "rtspu": "udp"}
_ANALYSE = {"analyzeduration": "1000000", "probesize": "1000000", "fpsprobesize": "0"}
"""How much of a stream is read to find out what it is: a second (in microseconds), a million bytes, and nothing more to
find out its rate. FFmpeg's ``nobuffer`` is not among them: it throws away what was read, and with it the key frame.
What is kept is decoded at once, and all but the newest frame is dropped."""


def open_network(
    uri: str,
    *,
    transport: str = "tcp",
    stall: float = STALL_S,
    reconnect: bool = True,
    verify: bool = True,
) -> Source:
    """Opens a camera or video by its URL.

    A stream without an end is live: only its newest frame is kept, and it is connected to again when it is lost. A
    video file behind HTTP gives all its frames and ends.

    Args:
        uri: ``rtsp[s]://[user:password@]host[:port]/path`` or ``http[s]://...``.
        transport: of RTSP, ``tcp`` or ``udp``. UDP loses packets where the network is busy.
        stall: seconds without a frame after which a live stream counts as lost.
        reconnect: connect again when a live stream is lost; otherwise that is a SourceError.
        verify: whether a server's certificate must be valid (https, rtsps).

    Raises:
        SourceError: not reachable, wrong credentials, no video that can be decoded, or an option out of its range. One
            line, without credentials.
    """
    connection = connection_to(uri, transport=transport, stall=stall, verify=verify)
    first = LiveVideo(connection)
    if first.finite:
        return first
    return Reconnecting(partial(LiveVideo, connection), first=first, stall=stall, reconnect=reconnect)


def connection_to(uri: str, *, transport: str = "tcp", stall: float = STALL_S, verify: bool = True) -> Connection:
    """How a URL is opened; see `open_network`."""
    scheme, name = scheme_of(uri), shown(uri)
    if scheme not in SCHEMES:
        raise SourceError(f"{name}: expected a URL with {', '.join(SCHEMES)}, got another scheme")
    if not has_host(uri):
        raise SourceError(f"{name}: expected {scheme}://host[:port]/path, got no host or a wrong port")
    if transport not in ("tcp", "udp"):
        raise SourceError(f"{name}: expected transport tcp or udp, got {transport!r}")
    check_stall(name, stall)
    rtsp = scheme.startswith("rtsp")
    url = uri
    if scheme in _TRANSPORT:
        transport, url = _TRANSPORT[scheme], "rtsp://" + after_scheme(uri)
    options = dict(_ANALYSE)
    if rtsp:
        # At most 0.2 s are waited for a UDP packet that is late; sound isn't even asked for.
        options |= {"rtsp_transport": transport, "max_delay": "200000", "allowed_media_types": "video"}
    else:
        # A redirection or playlist must not lead to files of this machine.
        options |= {"protocol_whitelist": "http,https,tcp,tls,httpproxy,crypto", "user_agent": "dartblur"}
    if scheme in ("https", "rtsps"):
        options |= _trust(verify)
    return Connection(
        url,
        name,
        options=options,
        connect_s=CONNECT_S,
        # The watchdog speaks first, and tells more; this ends a thread that it has given up.
        read_s=stall + 2,
        explain=partial(_explain, urlsplit(uri).hostname or "", verify and scheme in ("https", "rtsps")),
    )


def _trust(verify: bool) -> dict[str, str]:
    if not verify:
        return {"tls_verify": "0"}
    authorities = ssl.get_default_verify_paths().cafile
    return {"tls_verify": "1", **({"ca_file": authorities} if authorities else {})}


def _explain(host: str, verified: bool, error: BaseException) -> str:
    """Why it failed, and what to do."""
    status = {
        av.error.HTTPUnauthorizedError: "wrong user or password, or none given (401): check them",
        av.error.HTTPForbiddenError: "the user may not see this (403): check the user's rights",
        av.error.HTTPNotFoundError: "there is no such stream on the server (404): check the path",
        av.error.HTTPServerError: "the server reports an error of its own (5xx): look at the camera or server",
        av.error.HTTPClientError: "the server refuses (4xx): does it send video at this path?",
        av.error.InvalidDataError: "it answers, but not with a video that can be read: check the URL",
        av.error.ProtocolNotFoundError: "this FFmpeg lacks the protocol, or it isn't allowed here: use rtsp or http",
        ConnectionRefusedError: "connection refused: is the camera or server running, and the port right?",
        TimeoutError: "no answer in time: check address and network",
        av.error.ExitError: "no answer in time: check address and network",
    }
    for kind, text in status.items():
        if isinstance(error, kind):
            return text
    number = getattr(error, "errno", None)
    if number in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return "no route to the host: check address and network"
    if number in (errno.ECONNRESET, errno.EPIPE):
        return "the connection was closed by the other side"
    if number == errno.EIO and not _known(host):
        return f"host {host!r} isn't known: check the name and the network"
    if number == errno.EIO and verified:
        return (
            "no secure connection: its certificate is expired, of another host, or of an authority that isn't known "
            "here: if it is the camera's own, name a file with it (PEM) in the environment variable SSL_CERT_FILE"
        )
    return shown(f"can't be opened or read ({reason(error)}): check the URL")


def _known(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
