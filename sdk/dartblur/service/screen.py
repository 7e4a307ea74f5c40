"""A stream's place on the page, which stays while its sessions come and go: the page says when one has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..frame import RedactedFrame
from ..records.metrics import Metrics
from ..stream.base import Sink

if TYPE_CHECKING:
    from ..stream.sinks.page import PageServer, PageSink


class Screen:
    """Stands for the page towards the sessions of one stream.

    Args:
        server: the page.
        metrics: of all sessions together, which the page shows.

    Raises:
        SinkError: the page takes no stream of this name.
    """

    def __init__(self, server: PageServer, metrics: Metrics) -> None:
        self._sink = server.add(metrics.stream, metrics)

    def add(self, name: str, metrics: Metrics) -> Sink:
        """A sink for one session."""
        return _Lasting(self._sink)

    def end(self) -> None:
        """Says on the page that the stream has ended."""
        self._sink.commit()


class _Lasting(Sink):
    """Shows frames on the page, and leaves it as it is when a session ends."""

    remains = "the page goes on"

    def __init__(self, sink: PageSink) -> None:
        super().__init__(sink.uri)
        self._sink = sink

    def _write(self, frame: RedactedFrame) -> None:
        self._sink.write(frame)

    def commit(self) -> None:
        """The page goes on."""

    def discard(self) -> None:
        """The page goes on."""
