"""Where a server listens: read from text, bound, and shown to people."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from ....errors import InputError
from ...media.files import reason

_EXPECTED = "expected http://HOST:PORT or HOST:PORT, such as http://127.0.0.1:8080 or [::1]:9090"


def bind(text: str, refuse: type[InputError]) -> socket.socket:
    """A listening socket.

    Args:
        text: ``http://HOST:PORT`` or ``HOST:PORT``; port 0 takes a free one, ``0.0.0.0`` and ``[::]`` all interfaces.
        refuse: what is raised.

    Raises:
        refuse: this is no such address, it isn't one of this machine, or it is in use.
    """
    host, port = _parse(text, refuse)
    shown = f"http://{_bracketed(host)}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name may have several: IPv4 is the one that every browser gets to.
        family, _, _, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        everywhere = family == socket.AF_INET6 and ipaddress.ip_address(host.split("%")[0]).is_unspecified
        return socket.create_server(
            place[:2], family=family, dualstack_ipv6=everywhere and socket.has_dualstack_ipv6(), backlog=64
        )
    except (OSError, ValueError) as error:
        # create_server puts the address into its message once more.
        cause = reason(error).split(" (while attempting")[0]
        raise refuse(f"{shown}: can't be served: {cause}: choose another address or port") from error


def _parse(text: str, refuse: type[InputError]) -> tuple[str, int]:
    scheme, _, rest = text.rpartition("://")
    try:
        parts = urlsplit(f"http://{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise refuse(f"address: {_EXPECTED}: {error}") from error
    # What was given isn't shown: it may hold a password or a token.
    if scheme not in ("", "http"):
        raise refuse(f"address: expected http://HOST:PORT, got {scheme}://: for TLS put a reverse proxy in front of it")
    if parts.username is not None or parts.password is not None or parts.query:
        raise refuse("address: expected http://HOST:PORT alone: give the token by --token or DARTBLUR_TOKEN")
    if host is None or port is None or parts.path not in ("", "/") or parts.fragment:
        raise refuse(f"{text}: {_EXPECTED}")
    return host, port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0].split("%")[0]).is_loopback


def url_of(listener: socket.socket) -> str:
    """Its URL, by which another machine finds it, too, where it can: ``http://192.168.1.7:8080/``."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host.split("%")[0]).is_unspecified:
        host = _outward() or "127.0.0.1"
    return f"http://{_bracketed(host)}:{port}/"


def _outward() -> str | None:
    """The address of this machine in its network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:  # no network
            return None
        return str(probe.getsockname()[0])


def plain(host: str) -> str:
    """An address as it is usually written: without the zone, and IPv4 where it came through a socket of both kinds."""
    address = ipaddress.ip_address(host.split("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
