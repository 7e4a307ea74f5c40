"""``/metrics`` and ``/health``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ....records.metrics import Metrics, exposition

_WELL = ("starting", "connected")


def telemetry(app: web.Application, streams: Iterable[Metrics]) -> None:
    """Adds the two routes; `streams` is gone through at each request."""

    async def metrics(request: web.Request) -> web.Response:
        return scrape(request, streams)

    async def health(_: web.Request) -> web.Response:
        return health_of({one.stream: one.snapshot() for one in streams})

    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health", health)


def scrape(request: web.Request, streams: Iterable[Metrics]) -> web.Response:
    """What Prometheus gets."""
    text, content_type = exposition(streams, request.headers.get("Accept", ""))
    return web.Response(body=text, headers={"Content-Type": content_type})


def health_of(streams: Mapping[str, dict[str, Any]]) -> web.Response:
    """The snapshot of a stream, or of several by name; status 503 where one of them isn't well."""
    well = all(snapshot["state"] in _WELL for snapshot in streams.values())
    status = 200 if well else 503
    if len(streams) == 1:
        return web.json_response(next(iter(streams.values())), status=status)
    return web.json_response({"state": "ok" if well else "degraded", "streams": dict(streams)}, status=status)
