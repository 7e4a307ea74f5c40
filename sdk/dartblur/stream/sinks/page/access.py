"""Who may see the page: a token, the right host, the same origin; and what browsers are told to forbid."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from urllib.parse import urlsplit

from aiohttp import web

from ....errors import InputError
from .address import plain

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN = ("/assets/page.css", "/assets/icon.svg")
"""What the login page itself needs; there is nothing in it that isn't public."""

logger = logging.getLogger("dartblur.page")

_SHORTEST = 8
_COOKIE_AGE_S = 30 * 24 * 3600

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    # Not no-referrer: with that, browsers send the login form without saying where it comes from.
    "Referrer-Policy": "same-origin",
    "Server": "DartBlur",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def check_token(token: str) -> str:
    """The token as it is, where it can be one; raises `InputError` otherwise, without showing it."""
    if len(token) < _SHORTEST or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise InputError(
            f"token: expected at least {_SHORTEST} printable ASCII characters without spaces, got {len(token)} "
            "characters: python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return token


class Access:
    """Lets requests pass or not.

    Args:
        token: what they have to carry (``?token=``, ``Authorization: Bearer``, or the cookie that a login sets); None:
            nothing, which is for loopback only.
        loopback: whether the server listens on loopback alone: then, where there is no token, only its own names pass
            as ``Host``, so that no web site can reach it by a name of its own (DNS rebinding).
        port: of the server; browsers send the cookies of a host to all its ports.
    """

    def __init__(self, token: str | None, *, loopback: bool, port: int) -> None:
        self._token, self._loopback = token, loopback
        self._cookie = f"dartblur_{port}"
        # Other servers of this host get the cookie, too: it isn't the token itself.
        self._ticket = hmac.new((token or "").encode(), b"dartblur page", hashlib.sha256).hexdigest()
        self._failures = Failures()

    def attach(self, app: web.Application) -> None:
        """Guards all routes of an application, also those that it doesn't have."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                return await self._guard(request, handler)
            except (web.HTTPException, ConnectionError):
                raise
            except Exception:
                # Here and not in aiohttp, which would log the query, too.
                logger.exception("%s %s failed", request.method, request.path)
                raise web.HTTPInternalServerError(text="This is a bug of DartBlur; its log says more.\n") from None

        async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
            response.headers.update(HEADERS)

        app.middlewares.append(guard)
        app.on_response_prepare.append(add_headers)

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # With a token, a name of somebody's own doesn't help him, and a reverse proxy has one.
        if self._loopback and self._token is None and not _is_own_name(request.host):
            raise web.HTTPMisdirectedRequest(text="This host is not served here: open it by 127.0.0.1 or localhost.\n")
        if _is_foreign(request):
            raise web.HTTPForbidden(text="Another web site may not use this page.\n")
        if self._token is None or request.path in OPEN or self._has_ticket(request):
            return await handler(request)
        if self._failures.too_many(request.remote):
            wait = {"Retry-After": str(Failures.WINDOW_S)}
            raise web.HTTPTooManyRequests(text="Too many wrong tokens: wait a minute.\n", headers=wait)
        login = request.method == "POST" and request.content_type == "application/x-www-form-urlencoded"
        given = (await request.post()).get("token") if login else _token_of(request)
        if isinstance(given, str) and self._is_right(given):
            # After a login the browser asks again, for what the form was shown in place of.
            response = web.Response(status=303, headers={"Location": request.path}) if login else await handler(request)
            if (login or "token" in request.query) and not response.prepared:
                self._set_cookie(response)
            return response
        if given is not None:
            self._failures.add(request.remote)
        return _refusal(request, wrong=given is not None)

    def _is_right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), (self._token or "").encode())

    def _has_ticket(self, request: web.Request) -> bool:
        return hmac.compare_digest(
            request.cookies.get(self._cookie, "").encode(errors="replace"), self._ticket.encode()
        )

    def _set_cookie(self, response: web.StreamResponse) -> None:
        response.set_cookie(
            self._cookie, self._ticket, max_age=_COOKIE_AGE_S, path="/", httponly=True, samesite="Strict"
        )


class Failures:
    """Counts wrong tokens, by address and in all.

    Attributes:
        WINDOW_S: what is counted together, seconds.
    """

    WINDOW_S = 60
    _MOST_OF_ONE = 10
    _MOST_OF_ALL = 100

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._counts: dict[str, int] = {}

    def add(self, host: str | None) -> None:
        """One more."""
        self._renew()
        # Since nobody is let in beyond the limit of all, there are never many addresses.
        for key in (_network(host), ""):
            self._counts[key] = self._counts.get(key, 0) + 1

    def too_many(self, host: str | None) -> bool:
        """Whether this address has to wait."""
        self._renew()
        counts = self._counts
        return counts.get(_network(host), 0) >= self._MOST_OF_ONE or counts.get("", 0) >= self._MOST_OF_ALL

    def _renew(self) -> None:
        if self._clock() - self._began >= self.WINDOW_S:
            self._began = self._clock()
            self._counts.clear()


def _network(host: str | None) -> str:
    # One machine has all addresses of an IPv6 network.
    address = ipaddress.ip_address(plain(host or "0.0.0.0"))
    return str(ipaddress.ip_network(f"{address}/{64 if address.version == 6 else 32}", strict=False))


def _token_of(request: web.Request) -> str | None:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else request.query.get("token")


def _is_own_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_foreign(request: web.Request) -> bool:
    """Whether another web site has made the browser send this."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return not (request.method == "GET" and request.headers.get("Sec-Fetch-Dest") == "document")
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host


def _refusal(request: web.Request, *, wrong: bool) -> web.Response:
    if "text/html" not in request.headers.get("Accept", ""):
        why = "wrong token" if wrong else "needs the token: ?token=... or the header Authorization: Bearer ..."
        return web.Response(status=401, text=f"DartBlur: {why}\n", headers={"WWW-Authenticate": "Bearer"})
    page = (files(__package__) / "assets" / "login.html").read_text(encoding="utf-8")
    # A page that shows its message has the attribute taken away.
    return web.Response(status=401, text=page.replace(" hidden", "", 1) if wrong else page, content_type="text/html")
