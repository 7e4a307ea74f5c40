"""What a pipeline writes to: the page's server and its sinks."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ....errors import SinkError
from ....frame import RedactedFrame
from ...base import Sink
from .channel import Channel, Ending

if TYPE_CHECKING:
    from ....records.metrics import Metrics

_FAREWELL_S = 0.5
"""How long an open page has to hear that the stream has ended: it asks more often than that."""
_STEP_S = 0.05

NO_WEBRTC = "page: shows MJPEG only, WebRTC needs aiortc: pip install 'dartblur-edge[live]'"


class PageServer:
    """A web server that shows any number of streams: ``/`` lists them, ``/NAME/`` is the page of one.

    Args:
        address: ``http://HOST:PORT``; port 0 takes a free one.
        token: what requests have to carry; None for that of the environment variable DARTBLUR_TOKEN. Where there is
            neither, one is made and printed once as a ready URL, unless the address is loopback: then none is needed.
        webrtc: whether video goes by WebRTC where the browser can; otherwise by MJPEG alone.

    Attributes:
        url: where the page is, without the token.
        token: what requests have to carry; None for nothing.
        notices: what the page does without, one line each.

    Raises:
        SinkError: no such address, it is in use, or aiohttp isn't installed.
        InputError: the token can't be one.
    """

    def __init__(self, address: str, token: str | None = None, *, webrtc: bool = True) -> None:
        try:
            from .service import Service
            from .site import Site
        except ImportError as error:
            raise SinkError("page: needs aiohttp: pip install 'dartblur-edge[live]'") from error
        able = find_spec("aiortc") is not None
        self.notices = [NO_WEBRTC] if webrtc and not able else []
        self._site = Site(webrtc=webrtc and able)
        self._service = Service(address, token, self._site.attach, refuse=SinkError)
        self.url, self.token = self._service.url, self._service.token

    def add(self, name: str, metrics: Metrics | None = None, *, title: str = "") -> PageSink:
        """One more stream.

        Args:
            name: its path: letters, digits and ``._-``.
            metrics: of the stream, told of all its frames and events by whoever runs it; None: the page counts the
                frames that it gets, and knows of no events.
            title: for people; empty for the name.

        Raises:
            SinkError: no such name, or it is taken by a stream that hasn't ended.
        """
        return PageSink(self.url, name=name, metrics=metrics, title=title, server=self)

    def remove(self, name: str) -> None:
        """Takes a stream from the page, whether it has ended or not; nothing where there is none."""
        if self._service.running:
            self._service.call(self._site.remove(name))

    def close(self) -> None:
        """Ends the server and all its connections, within a second."""
        self._service.close()

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, name: str, title: str, metrics: Metrics) -> Channel:
        if not self._service.running:
            raise SinkError(f"{self.url}: the page's server has ended: open it again")
        channel = Channel(name, title, metrics, self._service.loop)
        self._service.call(self._site.add(channel))
        return channel

    def _end(self, channel: Channel, ending: Ending) -> None:
        if not self._service.running:
            return
        channel.end(ending)
        deadline = time.monotonic() + _FAREWELL_S
        while self._site.is_watched(channel.name) and time.monotonic() < deadline:
            time.sleep(_STEP_S)


class PageSink(Sink):
    """Shows one stream on a web page. `write` only puts the newest frame there: no browser holds it up.

    Args:
        uri: ``http://HOST:PORT``.
        token, webrtc: as of `PageServer`.
        name: the stream's path on the server.
        title: for people; empty for the name.
        metrics: of the stream, told of all its frames and events by whoever runs it; None: the page counts the frames
            that it gets, and knows of no events.
        server: shows it beside other streams; None makes one that ends with this sink.

    Attributes:
        url: where the page of this stream is, without the token.
        metrics: those that the page shows.

    Raises:
        SinkError, InputError: as of `PageServer`.
    """

    remains = "the page has ended"

    def __init__(
        self,
        uri: str,
        *,
        token: str | None = None,
        title: str = "",
        metrics: Metrics | None = None,
        name: str = "live",
        webrtc: bool = True,
        server: PageServer | None = None,
    ) -> None:
        from ....records.metrics import Metrics

        super().__init__(uri)
        self._own_metrics = metrics is None
        self.metrics = Metrics(name) if metrics is None else metrics
        self._own_server = server is None
        self._server = PageServer(uri, token, webrtc=webrtc) if server is None else server
        try:
            self._channel = self._server._show(name, title or name, self.metrics)
        except BaseException:
            if self._own_server:
                self._server.close()
            raise
        self.url = self._server.url if self._own_server else f"{self._server.url}{name}/"
        self.token = self._server.token
        self.notices = list(self._server.notices) if self._own_server else []

    def _write(self, frame: RedactedFrame) -> None:
        if not self._server._service.running:
            raise SinkError(f"{self.url}: the page's server has ended: its log says why")
        if self._own_metrics:
            self.metrics.on_frame(frame, self.uri)
        self._channel.put(frame)

    def commit(self) -> None:
        """Says on the page that the stream has ended; ends the server, where it is the sink's own."""
        self._end("ended")

    def discard(self) -> None:
        """Says on the page that the stream has failed; ends the server, where it is the sink's own."""
        self._end("failed")

    def _end(self, ending: Ending) -> None:
        self._server._end(self._channel, ending)
        if self._own_server:
            self._server.close()
