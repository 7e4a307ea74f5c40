"""Asks a service that runs how it is, for the health checks of containers."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from ..errors import InputError
from .config import ServiceSettings

_PATIENCE_S = 3.0
_TOKEN_VARIABLE = "DARTBLUR_TOKEN"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_NOT_WELL = 503


def ask(settings: ServiceSettings) -> tuple[bool, str]:
    """Whether all streams are well, and a line that says how they are.

    Raises:
        InputError: the service has no address to ask at, or wants another token.
    """
    address = settings.metrics or settings.page
    if address is None:
        raise InputError("health: expected metrics or page in the config, got neither: add metrics: 127.0.0.1:9090")
    request = Request(_url(address))
    token = settings.token or os.environ.get(_TOKEN_VARIABLE)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        # Straight there: a proxy of the environment doesn't know this machine's loopback.
        with build_opener(ProxyHandler({})).open(request, timeout=_PATIENCE_S) as response:
            return True, _told(response.read())
    except HTTPError as error:
        with error:
            if error.code == _NOT_WELL:
                return False, _told(error.read())
            if error.code == 401:
                raise InputError(
                    "health: the service wants another token: give token_file, or DARTBLUR_TOKEN"
                ) from None
            return False, f"{_url(address)}: answers {error.code}"
    except (URLError, OSError) as error:
        return False, f"{_url(address)}: no answer: {getattr(error, 'reason', error)}"


def _url(address: str) -> str:
    parts = urlsplit(f"http://{address.rpartition('://')[2]}")
    host = _EVERYWHERE.get(parts.hostname or "", parts.hostname or "")
    return f"http://{f'[{host}]' if ':' in host else host}:{parts.port}/health"


def _told(body: bytes) -> str:
    given: dict[str, Any] = json.loads(body)
    streams = given.get("streams", {given.get("stream", "live"): given})
    return ", ".join(f"{name}: {stream['state']}" for name, stream in streams.items())
