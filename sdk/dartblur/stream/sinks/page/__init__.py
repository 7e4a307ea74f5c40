"""A web page that shows the anonymized picture while it is made.

::

    with PageSink("http://127.0.0.1:8080") as sink: ...

    with PageServer("http://0.0.0.0:8080") as server:
        front, back = server.add("front", metrics_of_front), server.add("back", metrics_of_back)

`sink` is what the pipeline's threads touch; all else runs in the server's own thread: `service` (HTTP), `access` (who
may see it), `site` and `telemetry` (the routes), `pictures` and `webrtc` (what they show) of a `channel` (one stream).
"""

from __future__ import annotations

from .sink import PageServer, PageSink

__all__ = ["PageServer", "PageSink"]
