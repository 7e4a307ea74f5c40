"""An HTTP server in a thread of its own, with an asyncio loop of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aiohttp import web

from ....errors import InputError
from .access import Access, check_token
from .address import bind, is_loopback, url_of

T = TypeVar("T")

TOKEN_VARIABLE = "DARTBLUR_TOKEN"

_CLOSING_S = 0.3
"""How long requests that are under way may take to end."""
_PATIENCE_S = 2.0
_LARGEST_REQUEST = 64 * 1024

logger = logging.getLogger("dartblur.page")

_silent = logging.Logger("dartblur.page.http", logging.CRITICAL + 1)
"""What aiohttp says of broken requests quotes them, and with them the token. No configuration of logging reaches it."""


class Service:
    """Serves from the moment that it is made, until `close` or the end of its block.

    Args:
        address: ``http://HOST:PORT`` or ``HOST:PORT``.
        token: what requests have to carry; None for that of the environment variable DARTBLUR_TOKEN. Where there is
            neither, one is made and printed once, unless the address is loopback: then none is needed.
        routes: adds what is served; called in the server's loop.
        refuse: what is raised.

    Attributes:
        url: where it is found, without the token.
        token: what requests have to carry; None for nothing.
        loop: the server's event loop.

    Raises:
        refuse: no such address, or it is in use.
        InputError: the token can't be one.
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        routes: Callable[[web.Application], None],
        *,
        refuse: type[InputError],
    ) -> None:
        given = token or os.environ.get(TOKEN_VARIABLE) or None
        self.token = None if given is None else check_token(given)
        listener = bind(address, refuse)
        loopback = is_loopback(listener)
        self.url = url_of(listener)
        self._socket = listener
        self._routes = routes
        if self.token is None and not loopback:
            self.token = secrets.token_urlsafe(24)
            print(f"dartblur: open {self.url}?token={self.token}", file=sys.stderr, flush=True)
        self._access = Access(self.token, loopback=loopback, port=listener.getsockname()[1])
        self.loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._started: list[BaseException | None] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dartblur-page", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._started[0] is not None:
            self._thread.join(_PATIENCE_S)
            raise self._started[0]

    @property
    def running(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()

    def call(self, work: Coroutine[Any, Any, T], timeout: float = _PATIENCE_S) -> T:
        """Runs a coroutine in the server's loop, from any other thread, and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def close(self) -> None:
        """Ends it, with all its connections, within a second; from any other thread. More calls do nothing."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(_PATIENCE_S)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(self._serve())
        except BaseException as error:
            if not self._ready.is_set():
                self._started.append(error)
            else:
                logger.exception("the web page's server has failed")
        finally:
            self._socket.close()
            self._finish_tasks()
            self.loop.close()
            self._ready.set()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=_LARGEST_REQUEST)
        self._access.attach(app)
        self._routes(app)
        # The access log holds the query, and so the token.
        runner = web.AppRunner(app, access_log=None, logger=_silent, shutdown_timeout=_CLOSING_S)
        await runner.setup()
        try:
            await web.SockSite(runner, self._socket).start()
            self._started.append(None)
            self._ready.set()
            await self._ending.wait()
        finally:
            await runner.cleanup()

    def _finish_tasks(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=_CLOSING_S))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
