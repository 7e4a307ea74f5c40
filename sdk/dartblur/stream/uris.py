"""Names of sources and sinks: what kind they are, and how they may be shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_HIDDEN = "***"

# Greedy, up to the last @ of the word, and of the line where a URI begins it: a password may itself hold @, /, quotes
# or blanks. Too much hidden is better than too little.
_USERINFO = re.compile(r"\A([A-Za-z][A-Za-z0-9+.-]*://).*@|((?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*://)\S*@")
_SECRET = re.compile(
    r"(?<![\w.-])((?:[\w.-]*(?:passwo?r?d|passphrase|pwd|token|secret|credentials?|signature|session-?id|user-pw|user-id)"
    r"|(?:api|access|auth|stream|x-amz|sas)?[_-]?(?:key|auth|sig)|pass|pw|usr|user|username|proxy-id|proxy-pw)\s*=\s*)"
    r"(\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?|[^&;#\s\"'<>]+)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(\?\w+=.*)?")
"""A camera's number, and perhaps a mode; ``1?.png`` is a pattern."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(gst):", re.IGNORECASE)


def shown(text: object) -> str:
    """A URI, or a text that holds some, without its credentials: for messages, events and logs.

    ``rtsp://user:password@camera/1?token=abc`` becomes ``rtsp://***@camera/1?token=***``. Settings of GStreamer
    elements (``user-pw=...``) are hidden as well.
    """
    return _SECRET.sub(rf"\1{_HIDDEN}", _USERINFO.sub(rf"\1\2{_HIDDEN}@", str(text)))


def scheme_of(uri: str) -> str:
    """The scheme of a URI in lower case, as ``rtsp`` or ``gst``; empty for a path or a camera's number."""
    match = _SCHEME.match(uri)
    return (match[1] or match[2]).lower() if match else ""


def after_scheme(uri: str) -> str:
    """What follows ``scheme://`` or ``gst:``; all of it where there is no scheme."""
    match = _SCHEME.match(uri)
    return uri[match.end() :] if match else uri


def is_camera_number(uri: str) -> bool:
    """Whether it looks like a camera's number: ``0``, or ``0?size=1280x720&fps=30``."""
    return _NUMBER.fullmatch(uri) is not None


def settings_of(uri: str) -> tuple[str, dict[str, str]]:
    """What stands before the ``?``, and the ``name=value&...`` behind it."""
    rest, _, query = uri.partition("?")
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return rest, {name: value for name, _, value in pairs}


def has_host(uri: str) -> bool:
    """Whether a network URI names a host, and a port that can be one."""
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
