"""The publishing side of RTSP: one session with a server, in which it records what we send.

FFmpeg has one too, but PyAV holds Python's lock while it connects and while it says goodbye: a server that doesn't
answer would stop the whole program.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import socket
import ssl
from collections.abc import Iterable
from time import monotonic
from urllib.parse import unquote, urlsplit

_PORTS = {"rtsp": 554, "rtsps": 322}
_OK, _UNAUTHORIZED = 200, 401
_ALIVE_S = 25.0
"""How often a server hears of us beside the pictures; sessions end after 60 seconds of silence."""

_LONGEST_ANSWER = 1 << 20
_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_FIELD = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


class RtspError(OSError):
    """The server refuses, or doesn't speak RTSP."""


class RtspPublisher:
    """A session with one video stream, over TCP; ``rtsps`` is encrypted, and its certificate is checked.

    Args:
        url: ``rtsp://user:password@host:port/name``.
        sdp: what is sent, with ``a=control:streamid=0``.
        timeout: seconds that the server may take to begin the session, and later for each picture.

    Raises:
        OSError: it can't be reached, or refuses (`RtspError`); the message holds no credentials.
    """

    def __init__(self, url: str, sdp: str, timeout: float) -> None:
        parts = urlsplit(url)
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._number = 0
        self._login: dict[str, str] | None = None
        self._socket = connect(url, timeout)
        self._session, self._received = "", b""
        self._until = monotonic() + timeout
        try:
            self._ask("OPTIONS", self._url)
            self._ask("ANNOUNCE", self._url, {"Content-Type": "application/sdp"}, sdp.encode())
            transport = {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record"}
            answer = self._ask("SETUP", f"{self._url.rstrip('/')}/streamid=0", transport)
            self._session = answer.get("session", "").partition(";")[0].strip()
            self._ask("RECORD", self._url, {"Range": "npt=0.000-"})
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(timeout)
        self._heard = monotonic()

    def send(self, packets: Iterable[bytes]) -> None:
        """Sends packets of RTP, and of RTCP.

        Raises:
            OSError: the server has gone, or doesn't read.
        """
        framed = []
        for packet in packets:
            rtcp = 200 <= packet[1] <= 204
            framed.append(b"$" + bytes([rtcp]) + len(packet).to_bytes(2, "big") + packet)
        if monotonic() - self._heard > _ALIVE_S:
            self._heard = monotonic()
            framed.append(self._request("OPTIONS", self._url, {}, b""))
        self._socket.sendall(b"".join(framed))
        self._drain()

    def close(self) -> None:
        """Says goodbye, without waiting for an answer."""
        try:
            self._socket.sendall(self._request("TEARDOWN", self._url, {}, b""))
        except OSError:
            pass  # it has gone already
        finally:
            self._socket.close()

    def _drain(self) -> None:
        """Throws away what the server says meanwhile (its reports), and notices when it has hung up."""
        timeout = self._socket.gettimeout()
        self._socket.setblocking(False)
        try:
            while (received := self._socket.recv(65536)) != b"":
                if b"RTSP/1.0 454" in received:
                    raise RtspError("the server has ended the session")
            raise ConnectionResetError("the server has hung up")
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self._socket.settimeout(timeout)

    def _ask(self, method: str, url: str, fields: dict[str, str] | None = None, body: bytes = b"") -> dict[str, str]:
        """Sends a request; the fields of its answer, in lower case."""
        for _ in range(2):
            self._hurry()
            self._socket.sendall(self._request(method, url, fields or {}, body))
            status, phrase, answer, challenges = self._answer()
            if status != _UNAUTHORIZED or not self._user or not challenges:
                break
            self._login = _choose(challenges)
        if status != _OK:
            raise RtspError(f"{status} {phrase} to {method}")
        return answer

    def _request(self, method: str, url: str, fields: dict[str, str], body: bytes) -> bytes:
        self._number += 1
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {self._number}", "User-Agent: dartblur"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        lines += [f"Session: {self._session}"] if self._session else []
        lines += [f"Authorization: {self._credentials(method, url)}"] if self._login is not None else []
        lines += [f"Content-Length: {len(body)}"] if body else []
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _answer(self) -> tuple[int, str, dict[str, str], list[str]]:
        """Status, its phrase, fields, and the ways to log in."""
        while (first := self._take(1)) == b"$":  # packets of its own
            self._take(int.from_bytes(self._take(3)[1:], "big"))
        version, _, rest = (first.decode("latin-1") + self._line()).partition(" ")
        number, _, phrase = rest.partition(" ")
        if not version.startswith("RTSP/") or not number.isdigit():
            raise RtspError("expected an RTSP server, got something else")
        fields: dict[str, str] = {}
        challenges = []
        while line := self._line():
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
            if name.strip().lower() == "www-authenticate":
                challenges.append(value.strip())
        length = fields.get("content-length", "0")
        self._take(min(int(length), _LONGEST_ANSWER) if length.isdigit() else 0)
        return int(number), phrase, fields, challenges

    def _line(self) -> str:
        while b"\n" not in self._received:
            self._receive()
        line, _, self._received = self._received.partition(b"\n")
        return line.decode("utf-8", "replace").strip()

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._receive()
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def _receive(self) -> None:
        self._hurry()
        received = self._socket.recv(4096)
        if not received:
            raise ConnectionResetError("the server has hung up")
        self._received += received
        if len(self._received) > _LONGEST_ANSWER:
            raise RtspError("expected an RTSP server, got an endless answer")

    def _hurry(self) -> None:
        """Leaves the next step what is left of the time; a server that dribbles gets no more than one that is mute."""
        left = self._until - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)

    def _credentials(self, method: str, url: str) -> str:
        login = self._login or {}
        if login["scheme"] == "Basic":
            return "Basic " + base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        digest = _HASHES[login.get("algorithm", "MD5")]

        def hashed(*texts: str) -> str:
            return digest(":".join(texts).encode()).hexdigest()

        realm, nonce = login.get("realm", ""), login.get("nonce", "")
        who, what = hashed(self._user, realm, self._password), hashed(method, url)
        fields = {"username": self._user, "realm": realm, "nonce": nonce, "uri": url}
        text = "Digest " + ", ".join(f'{name}="{value}"' for name, value in fields.items())
        if "algorithm" in login:
            text += f", algorithm={login['algorithm']}"
        if "opaque" in login:
            text += f', opaque="{login["opaque"]}"'
        if "auth" not in login.get("qop", "").replace(" ", "").split(","):
            return f'{text}, response="{hashed(who, nonce, what)}"'
        count, ours = f"{self._number:08x}", secrets.token_hex(8)
        return (
            f'{text}, qop=auth, nc={count}, cnonce="{ours}", response="{hashed(who, nonce, count, ours, "auth", what)}"'
        )


def connect(url: str, timeout: float) -> socket.socket:
    """A connection to the server of a URL.

    Raises:
        OSError: there is none.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    opened = socket.create_connection((host, parts.port or _PORTS[parts.scheme.lower()]), timeout)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if parts.scheme.lower() != "rtsps":
        return opened
    try:
        return ssl.create_default_context().wrap_socket(opened, server_hostname=host)
    except BaseException:
        opened.close()
        raise


def _choose(challenges: list[str]) -> dict[str, str]:
    """The best way to log in that we know: digest, by the first hash that we have; else basic."""
    basic = None
    for challenge in challenges:
        scheme, _, rest = challenge.partition(" ")
        fields = {name.lower(): quoted or plain for name, quoted, plain in _FIELD.findall(rest)}
        if scheme.lower() == "digest" and fields.get("algorithm", "MD5") in _HASHES:
            return fields | {"scheme": "Digest"}
        if scheme.lower() == "basic":
            basic = {"scheme": "Basic"}
    if basic is None:
        raise RtspError("the server asks for a login that is not known here: expected Basic or Digest")
    return basic
