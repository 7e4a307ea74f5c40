"""What happens in a stream, as numbers: for the page, for ``/health`` and for Prometheus."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import InputError
from ..frame import RedactedFrame
from ..stream.observers import Event, Observer

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from ..stream.sinks.page.service import Service

State = Literal["starting", "connected", "reconnecting", "stalled", "fail-closed"]
"""In this order: no frame yet; frames leave; the source is gone and tried again; nothing comes; the frames of now can't
be anonymized, so they are covered whole, repeated or left out."""

STATES: tuple[State, ...] = get_args(State)

BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
"""Upper ends of the latency histogram, seconds."""

_WINDOW_S = 5.0
"""What the frame rate and the latencies of ``snapshot`` look back on."""
_KEPT_EVENTS = 20
_MOST_LABELS = 32
"""Different reasons or sinks that are told apart; more would be a leak here and in Prometheus."""
_OTHERS = "other"
_TOO_MANY_TO_LIST = ("dropped", "sink-dropped")


class Metrics(Observer):
    """Counts what happens in one stream. Any thread may ask at any time.

    Args:
        stream: its name, the label ``stream`` of all series.
        stall_after: seconds without a frame after which the state is ``stalled``, whether the source says so or not.
    """

    def __init__(self, stream: str = "", *, stall_after: float = 3.0) -> None:
        self.stream = stream
        self._stall_after = stall_after
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._fail_closed: Counter[str] = Counter()
        self._sink_dropped: Counter[str] = Counter()
        self._latencies = [0] * (len(BUCKETS) + 1)
        self._latency_sum = 0.0
        self._recent: deque[tuple[float, float]] = deque()
        self._last: dict[str, Any] = {"size": None, "method": "", "faces": 0}
        self._last_at: float | None = None
        self._trouble: Literal["reconnecting", "stalled", ""] = ""
        self._trouble_at = 0.0
        self._fault = ""
        self._fault_at = 0.0
        self._events: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)

    def on_frame(self, frame: RedactedFrame, source: str) -> None:
        """Counts a frame that leaves."""
        now = time.monotonic()
        latency = max(0.0, now - frame.captured)
        with self._lock:
            faces = frame.detections.faces
            self._counts["frames"] += 1
            self._counts["faces"] += faces
            self._counts["frames_with_faces"] += faces > 0
            self._latencies[bisect_left(BUCKETS, latency)] += 1
            self._latency_sum += latency
            self._recent.append((now, latency))
            self._forget(now)
            height, width = frame.image.shape[:2]
            self._last, self._last_at = {"size": [width, height], "method": frame.method, "faces": faces}, now
            if frame.fault is not None:
                _count(self._fail_closed, frame.fault)
                self._fault, self._fault_at = frame.fault, now
            elif frame.captured > self._fault_at:
                self._fault = ""
            # Frames from before the trouble are still on their way through the pipeline when it is noticed.
            if frame.captured > self._trouble_at:
                self._trouble = ""

    def on_event(self, event: Event) -> None:
        """Counts an event, and follows the state."""
        now = time.monotonic()
        with self._lock:
            self._counts[event.kind] += 1
            if event.kind == "sink-dropped":
                _count(self._sink_dropped, event.of)
            elif event.kind == "connected":
                self._counts["reconnects"] += self._trouble == "reconnecting"
                self._trouble = ""
            elif event.kind in ("reconnecting", "stalled"):
                self._trouble, self._trouble_at = event.kind, now
            elif event.kind == "fault":
                self._fault, self._fault_at = event.of or event.message, now
            elif event.kind == "recovered":
                self._fault = ""
            self._list(event)

    def _list(self, event: Event) -> None:
        if event.kind in _TOO_MANY_TO_LIST:
            return
        last = self._events[-1] if self._events else None
        if last is not None and (last["kind"], last["message"]) == (event.kind, event.message):
            last["count"] += 1
            last["time"] = time.time()
            return
        self._events.append({"time": time.time(), "kind": event.kind, "message": event.message, "count": 1})

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - _WINDOW_S:
            self._recent.popleft()

    def _state(self, now: float) -> State:
        if self._trouble:
            return self._trouble
        if self._fault:
            return "fail-closed"
        if self._last_at is None:
            return "starting"
        return "stalled" if now - self._last_at > self._stall_after else "connected"

    def _fps(self, now: float) -> float:
        # The first frame only starts the clock.
        return (len(self._recent) - 1) / max(now - self._recent[0][0], 1e-3) if len(self._recent) > 1 else 0.0

    @property
    def state(self) -> State:
        """How the stream is now."""
        with self._lock:
            return self._state(time.monotonic())

    def snapshot(self) -> dict[str, Any]:
        """All of it, ready for JSON; durations in seconds, ``time`` of events in seconds since 1970."""
        now = time.monotonic()
        with self._lock:
            self._forget(now)
            last, counts = self._last, self._counts
            latencies = sorted(latency for _, latency in self._recent)
            return {
                "stream": self.stream,
                "state": self._state(now),
                "fault": self._fault,
                "uptime": round(now - self._began, 3),
                "frames": counts["frames"],
                "fps": round(self._fps(now), 2),
                "last_frame_age": None if self._last_at is None else round(now - self._last_at, 3),
                "size": last["size"],
                "method": last["method"],
                "latency": {"p50": _quantile(latencies, 0.5), "p95": _quantile(latencies, 0.95)},
                "faces": {
                    "now": last["faces"],
                    "total": counts["faces"],
                    "frames": counts["frames_with_faces"],
                },
                "fail_closed": {"frames": sum(self._fail_closed.values()), "reasons": dict(self._fail_closed)},
                "dropped": counts["dropped"],
                "sink_dropped": dict(self._sink_dropped),
                "reconnects": counts["reconnects"],
                "stalls": counts["stalled"],
                "findings": {kind: counts[kind] for kind in ("uncovered", "not-hidden")},
                "events": [dict(event) for event in self._events],
            }

    def histogram(self) -> tuple[list[int], float]:
        """Frames of each of the `BUCKETS` and above, not cumulated, and the sum of all latencies in seconds."""
        with self._lock:
            return list(self._latencies), self._latency_sum


def _count(counter: Counter[str], label: str) -> None:
    counter[label if label in counter or len(counter) < _MOST_LABELS else _OTHERS] += 1


def _quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4) if ordered else None


def exposition(streams: Iterable[Metrics], accept: str = "") -> tuple[bytes, str]:
    """The metrics of several streams as Prometheus reads them.

    Args:
        streams: of all of them; each has a name of its own.
        accept: the header ``Accept`` of the request: OpenMetrics where it asks for that, else the text format.

    Returns:
        The text and its content type.

    Raises:
        InputError: prometheus-client isn't installed.
    """
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder
    except ImportError as error:
        raise InputError("metrics: needs prometheus-client: pip install 'dartblur-edge[live]'") from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector(streams))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def collector(streams: Iterable[Metrics]) -> Collector:
    """The same as a collector, for a registry of one's own: ``REGISTRY.register(collector([metrics]))``."""
    from prometheus_client.registry import Collector

    class Streams(Collector):
        def collect(self) -> Iterator[Metric]:
            return _families(list(streams))

    return Streams()


def _families(streams: list[Metrics]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    now = [(metrics, metrics.snapshot()) for metrics in streams]

    def counter(name: str, text: str, key: str, label: str = "") -> Metric:
        family = CounterMetricFamily(f"dartblur_{name}", text, labels=["stream", label] if label else ["stream"])
        for metrics, values in now:
            value: Any = values
            for part in key.split("."):
                value = value[part]
            for of, number in value.items() if label else [("", value)]:
                family.add_metric([metrics.stream, of] if label else [metrics.stream], number)
        return family

    yield counter("frames", "Redacted frames handed to the sinks.", "frames")
    yield counter("faces", "Faces found in them.", "faces.total")
    yield counter("frames_with_faces", "Frames with at least one face.", "faces.frames")
    yield counter("fail_closed_frames", "Frames covered whole or repeated.", "fail_closed.reasons", "reason")
    yield counter("dropped_frames", "Clear frames thrown away because a newer one was there.", "dropped")
    yield counter("sink_dropped_frames", "Frames that a sink was too slow for.", "sink_dropped", "sink")
    yield counter("reconnects", "Times that a lost source came back.", "reconnects")
    yield counter("stalls", "Times that the source gave nothing.", "stalls")
    yield counter("self_check_findings", "What the self-check found.", "findings", "finding")
    latency = HistogramMetricFamily("dartblur_latency_seconds", "From capture to the sinks.", labels=["stream"])
    rate = GaugeMetricFamily("dartblur_fps", f"Frames a second, over {_WINDOW_S:g} s.", labels=["stream"])
    age = GaugeMetricFamily("dartblur_last_frame_age_seconds", "Since the last frame left.", labels=["stream"])
    state = GaugeMetricFamily("dartblur_state", "1 for the state that the stream is in.", labels=["stream", "state"])
    for metrics, values in now:
        latency.add_metric([metrics.stream], *_cumulated(metrics))
        rate.add_metric([metrics.stream], values["fps"])
        if values["last_frame_age"] is not None:
            age.add_metric([metrics.stream], values["last_frame_age"])
        for name in STATES:
            state.add_metric([metrics.stream, name], values["state"] == name)
    yield from (latency, rate, age, state)


def _cumulated(metrics: Metrics) -> tuple[list[tuple[str, float]], float]:
    counts, total = metrics.histogram()
    ends = [*map(str, BUCKETS), "+Inf"]
    return [(end, float(sum(counts[: number + 1]))) for number, end in enumerate(ends)], total


def serve_metrics(address: str, metrics: Metrics | Iterable[Metrics], *, token: str | None = None) -> Service:
    """Serves ``/metrics`` and ``/health`` from a thread, for those without the page.

    Args:
        address: ``127.0.0.1:9090``, ``[::1]:9090``; port 0 takes a free one.
        metrics: of one stream, or those of several, which are gone through at each request.
        token: what a request has to carry; on another address than loopback there is always one, as for the page.

    Returns:
        The server, with its ``url``; it runs until its ``close()`` or the end of its block.

    Raises:
        InputError: no such address, the port is in use, or a library of the extra ``live`` isn't installed.
    """
    streams = [metrics] if isinstance(metrics, Metrics) else metrics
    exposition(())  # says what isn't installed
    try:
        from ..stream.sinks.page.service import Service
        from ..stream.sinks.page.telemetry import telemetry
    except ImportError as error:
        raise InputError("metrics: needs aiohttp: pip install 'dartblur-edge[live]'") from error
    return Service(address, token, lambda app: telemetry(app, streams), refuse=InputError)
