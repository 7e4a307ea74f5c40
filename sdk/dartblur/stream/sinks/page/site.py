"""The routes of the page: one stream at ``/`` where there is one, each at ``/NAME/`` where there are several."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import TYPE_CHECKING

from aiohttp import web

from ....errors import SinkError
from ....records.metrics import Metrics
from .address import plain
from .channel import Channel, EndedError
from .pictures import Jpegs, jpeg
from .telemetry import health_of, scrape

if TYPE_CHECKING:
    from .webrtc import Calls

_ASSETS = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "picture.js": "text/javascript",
    "list.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_TAKEN = ("assets", "events", "health", "metrics", "offer", "snapshot.jpg", "status", "stream.mjpg", "streams")
_MOST_WATCHERS = 16
"""Of one stream and kind; each costs this machine some of its time."""
_IDLE_S = 2.0
_SEND_BUFFER = 256 * 1024
"""Bytes on their way to one watcher: what is in there is old already."""
_RECENTLY_S = 2.0
_BOUNDARY = "dartblur-frame"


class View:
    """What one stream is shown by.

    Attributes:
        channel: the stream.
        jpegs: its JPEG pictures.
        calls: its WebRTC connections; None where there are none.
        streaming: watchers of ``stream.mjpg``.
        asked: when a page last asked for the status.
    """

    def __init__(self, channel: Channel, executor: ThreadPoolExecutor, calls: Calls | None) -> None:
        self.channel, self.calls = channel, calls
        self.jpegs = Jpegs(channel, executor)
        self.streaming = 0
        self.asked = 0.0


class Site:
    """All streams of a server. All of it belongs to the server's loop, except what says otherwise.

    Args:
        webrtc: whether video goes by WebRTC where the browser can; otherwise by MJPEG alone.
    """

    def __init__(self, *, webrtc: bool) -> None:
        self._webrtc = webrtc
        self._views: dict[str, View] = {}
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="dartblur-page-encoder")

    def attach(self, app: web.Application) -> None:
        """Adds the routes."""
        of_stream: dict[str, Callable[[web.Request, View], Awaitable[web.StreamResponse]]] = {
            "status": self._status,
            "snapshot.jpg": self._snapshot,
            "stream.mjpg": self._stream,
        }
        app.router.add_get("/", self._page)
        app.router.add_get("/streams", self._streams)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/assets/{file}", self._asset)
        for path, handler in of_stream.items():
            # Without HEAD, to which a stream would be written for ever.
            app.router.add_get(f"/{path}", self._for(handler), allow_head=False)
            app.router.add_get(f"/{{name}}/{path}", self._for(handler), allow_head=False)
        for prefix in ("", "/{name}"):
            app.router.add_post(f"{prefix}/offer", self._for(self._offer))
        app.router.add_get("/{name}/", self._page)
        app.router.add_get("/{name}/health", self._health)
        app.on_shutdown.append(self._shut_down)

    async def add(self, channel: Channel) -> None:
        """Shows one more stream; one that has ended makes room for another of its name.

        Raises:
            SinkError: the name can't be part of a path, or is taken.
        """
        name = channel.name
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name) or name in _TAKEN:
            raise SinkError(f"page: expected a name of letters, digits and ._- that isn't a page's own, got {name!r}")
        there = self._views.get(name)
        if there is not None and there.channel.ending is None:
            raise SinkError(f"page: expected a name for each stream, got {name!r} twice: choose another name")
        await self.remove(name)
        calls = None
        if self._webrtc:
            from .webrtc import Calls

            calls = Calls(channel, self._executor)
        self._views[name] = View(channel, self._executor, calls)

    async def remove(self, name: str) -> None:
        """Shows a stream no longer, if it is there."""
        view = self._views.pop(name, None)
        if view is not None:
            view.channel.end("ended")
            if view.calls is not None:
                await view.calls.close()

    def is_watched(self, name: str) -> bool:
        """Whether a page has asked for the status of a stream lately; from any thread."""
        view = self._views.get(name)
        return view is not None and time.monotonic() - view.asked < _RECENTLY_S

    def metrics(self) -> Iterator[Metrics]:
        """Of all streams."""
        return (view.channel.metrics for view in list(self._views.values()))

    def _for(
        self, handler: Callable[[web.Request, View], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await handler(request, self._view(request))

        return handle

    def _view(self, request: web.Request) -> View:
        name = request.match_info.get("name")
        if name is None and len(self._views) == 1:
            return next(iter(self._views.values()))
        if name is None or name not in self._views:
            there = ", ".join(f"/{one}/" for one in self._views) or "none yet"
            raise web.HTTPNotFound(text=f"No such stream here; there are: {there}\n")
        return self._views[name]

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if "name" in request.match_info or len(self._views) == 1:
            self._view(request)
            return _file("index.html", "text/html")
        return _file("list.html", "text/html")

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        if name not in _ASSETS:
            raise web.HTTPNotFound(text="No such file.\n")
        return _file(name, _ASSETS[name])

    async def _streams(self, _: web.Request) -> web.StreamResponse:
        return web.json_response([view.channel.status() for view in self._views.values()])

    async def _health(self, request: web.Request) -> web.StreamResponse:
        views = [self._view(request)] if "name" in request.match_info else self._views.values()
        return health_of({view.channel.name: view.channel.status() for view in views})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        return scrape(request, self.metrics())

    async def _status(self, _: web.Request, view: View) -> web.StreamResponse:
        view.asked = time.monotonic()
        calls = 0 if view.calls is None else len(view.calls)
        return web.json_response(
            {**view.channel.status(), "webrtc": view.calls is not None, "watchers": view.streaming + calls}
        )

    async def _snapshot(self, _: web.Request, view: View) -> web.StreamResponse:
        frame = view.channel.newest
        if frame is None or view.channel.ending is not None:
            raise web.HTTPServiceUnavailable(text="There is no picture: the stream hasn't begun or has ended.\n")
        data = await asyncio.get_running_loop().run_in_executor(self._executor, jpeg, frame.image)
        return web.Response(body=data, content_type="image/jpeg")

    async def _stream(self, request: web.Request, view: View) -> web.StreamResponse:
        if view.channel.ending is not None or view.streaming >= _MOST_WATCHERS:
            raise web.HTTPServiceUnavailable(text="The stream has ended, or too many watch it.\n")
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        response = web.StreamResponse(headers={"Content-Type": kind})
        _keep_short(request)
        await response.prepare(request)
        view.streaming += 1
        try:
            number = -1
            while True:
                number, data = await view.jpegs.after(number, _IDLE_S)
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                await response.write(head.encode() + data + b"\r\n")
        except EndedError:
            await response.write(f"--{_BOUNDARY}--\r\n".encode())
        except ConnectionError:  # the browser has left
            pass
        finally:
            view.streaming -= 1
        return response

    async def _offer(self, request: web.Request, view: View) -> web.StreamResponse:
        if view.calls is None or len(view.calls) >= _MOST_WATCHERS or view.channel.ending is not None:
            raise web.HTTPServiceUnavailable(text="No WebRTC here, or too many watch it: take stream.mjpg.\n")
        if request.content_type != "application/sdp" or request.transport is None:
            raise web.HTTPUnsupportedMediaType(text="Expected an offer of type application/sdp.\n")
        here, there = (plain(request.transport.get_extra_info(end)[0]) for end in ("sockname", "peername"))
        try:
            answer = await view.calls.answer(await request.text(), here, there)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return web.Response(text=answer, content_type="application/sdp")

    async def _shut_down(self, _: web.Application) -> None:
        for view in self._views.values():
            view.channel.end("ended")
        await asyncio.gather(*(view.calls.close() for view in self._views.values() if view.calls is not None))
        self._executor.shutdown(wait=False, cancel_futures=True)


def _keep_short(request: web.Request) -> None:
    if request.transport is not None:
        connection: socket.socket = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


def _file(name: str, content_type: str) -> web.Response:
    text = (files(__package__) / "assets" / name).read_text(encoding="utf-8")
    return web.Response(text=text, content_type=content_type)
