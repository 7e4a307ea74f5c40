"""Counting what happens in a stream, and serving it."""

import json
import threading
import urllib.error
import urllib.request
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import InputError
from dartblur.frame import Frame, cover_whole
from dartblur.records import metrics as module
from dartblur.records.metrics import BUCKETS, Metrics, exposition, serve_metrics
from dartblur.stream.observers import KINDS, Event

prometheus = pytest.importorskip("prometheus_client.parser")


@pytest.fixture(autouse=True)
def sleep(monkeypatch):
    """Time of the metrics only goes on by sleeping, and by a microsecond when it is asked for."""
    slept = [1000.0]
    ticks = count()
    clock = SimpleNamespace(monotonic=lambda: sum(slept) + next(ticks) * 1e-6, time=module.time.time)
    monkeypatch.setattr(module, "time", clock)
    return slept.append


def frame(faces=0, late=0.0, index=0):
    """A redacted frame that was captured some seconds ago."""
    boxes = np.array([[8 * number, 4, 8 * number + 6, 12] for number in range(faces)], np.float32).reshape(-1, 4)
    anonymizer = Anonymizer(backend=FakeBackend(lambda image: boxes))
    return anonymizer(Frame(np.zeros((48, 64, 3), np.uint8), index, captured=module.time.monotonic() - late))


def covered(reason):
    return cover_whole(Frame(np.zeros((48, 64, 3), np.uint8), captured=module.time.monotonic()), reason)


def series(*metrics):
    """All samples, by name and labels."""
    text, kind = exposition(metrics)
    assert kind.startswith("text/plain")
    families = prometheus.text_string_to_metric_families(text.decode())
    return {
        (sample.name, *(value for key, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_counts():
    metrics = Metrics("door")
    for faces in (0, 2, 3):
        metrics.on_frame(frame(faces), "cam")
    metrics.on_frame(covered("late"), "cam")
    for kind, of in [("dropped", ""), ("dropped", ""), ("sink-dropped", "out.mp4"), ("uncovered", ""), ("stalled", "")]:
        metrics.on_event(Event(kind, kind, of))
    snapshot = metrics.snapshot()
    json.dumps(snapshot)
    assert snapshot["frames"] == 4
    assert snapshot["faces"] == {"now": 0, "total": 5, "frames": 2}
    assert snapshot["fail_closed"] == {"frames": 1, "reasons": {"late": 1}}
    assert (snapshot["dropped"], snapshot["sink_dropped"], snapshot["stalls"]) == (2, {"out.mp4": 1}, 1)
    assert snapshot["findings"] == {"uncovered": 1, "not-hidden": 0}
    assert snapshot["size"] == [64, 48]
    found = series(metrics)
    assert found["dartblur_frames_total", "door"] == 4
    assert found["dartblur_faces_total", "door"] == 5
    assert found["dartblur_frames_with_faces_total", "door"] == 2
    assert found["dartblur_fail_closed_frames_total", "late", "door"] == 1
    assert found["dartblur_dropped_frames_total", "door"] == 2
    assert found["dartblur_sink_dropped_frames_total", "out.mp4", "door"] == 1
    assert found["dartblur_stalls_total", "door"] == 1
    assert found["dartblur_self_check_findings_total", "uncovered", "door"] == 1


def test_every_kind_of_event_is_taken():
    metrics = Metrics()
    for kind in KINDS:
        metrics.on_event(Event(kind, "something happened"))
    assert series(metrics)


def test_latency_histogram():
    metrics = Metrics("door")
    for late in (0.0, 0.06, 0.06, 0.4, 30.0):
        metrics.on_frame(frame(late=late), "cam")
    found = series(metrics)
    assert found["dartblur_latency_seconds_bucket", str(BUCKETS[0]), "door"] == 1
    assert found["dartblur_latency_seconds_bucket", "0.05", "door"] == 1
    assert found["dartblur_latency_seconds_bucket", "0.1", "door"] == 3
    assert found["dartblur_latency_seconds_bucket", "0.5", "door"] == 4
    assert found["dartblur_latency_seconds_bucket", "+Inf", "door"] == 5
    assert found["dartblur_latency_seconds_count", "door"] == 5
    assert found["dartblur_latency_seconds_sum", "door"] == pytest.approx(30.52, abs=0.001)
    assert 0.05 < metrics.snapshot()["latency"]["p50"] < 0.1
    assert metrics.snapshot()["latency"]["p95"] > 29


def test_frame_rate_is_that_of_the_last_seconds(sleep):
    metrics = Metrics()
    for index in range(21):
        metrics.on_frame(frame(index=index), "cam")
        sleep(0.02)
    rate = metrics.snapshot()["fps"]
    assert rate == pytest.approx(20 / 0.42, abs=0.1)
    sleep(0.5)
    assert metrics.snapshot()["fps"] < rate  # nothing comes any more


def test_states(sleep):
    metrics = Metrics(stall_after=0.2)
    assert metrics.state == "starting"
    metrics.on_frame(frame(), "cam")
    assert metrics.state == "connected"
    metrics.on_event(Event("reconnecting", "gone"))
    assert metrics.state == "reconnecting"
    metrics.on_frame(frame(late=1.0), "cam")  # was on its way when the camera went
    assert metrics.state == "reconnecting"
    metrics.on_event(Event("connected", "back"))
    metrics.on_frame(frame(), "cam")
    assert metrics.state == "connected"
    assert metrics.snapshot()["reconnects"] == 1
    metrics.on_event(Event("stalled", "nothing comes"))
    assert metrics.state == "stalled"
    metrics.on_frame(frame(), "cam")
    assert metrics.state == "connected"
    sleep(0.3)
    assert metrics.state == "stalled"  # though nobody said so


def test_fail_closed_lasts_until_a_newer_frame_is_clean():
    metrics = Metrics()
    metrics.on_frame(covered("detector error"), "cam")
    assert metrics.state == "fail-closed"
    assert metrics.snapshot()["fault"] == "detector error"
    metrics.on_frame(frame(late=1.0), "cam")
    assert metrics.state == "fail-closed"
    metrics.on_frame(frame(), "cam")
    assert metrics.state == "connected"
    metrics.on_event(Event("fault", "the detector raised", of="detector error"))  # and frames are dropped
    assert metrics.state == "fail-closed"
    metrics.on_event(Event("recovered", "well again"))
    assert metrics.state == "connected"


def test_state_series():
    metrics = Metrics("door")
    metrics.on_frame(frame(), "cam")
    found = series(metrics)
    states = {key[1]: value for key, value in found.items() if key[0] == "dartblur_state"}
    assert states == {"connected": 1, "starting": 0, "reconnecting": 0, "stalled": 0, "fail-closed": 0}
    assert found["dartblur_last_frame_age_seconds", "door"] < 5


def test_reasons_stay_bounded():
    metrics = Metrics()
    for number in range(1000):
        metrics.on_frame(covered(f"reason {number}"), "cam")
        metrics.on_event(Event("sink-dropped", "slow", of=f"sink {number}"))
    snapshot = metrics.snapshot()
    assert len(snapshot["fail_closed"]["reasons"]) == len(snapshot["sink_dropped"]) == 33
    assert snapshot["fail_closed"]["frames"] == 1000
    assert snapshot["sink_dropped"]["other"] == 968


def test_events_are_the_last_ones_and_repetitions_are_counted():
    metrics = Metrics()
    for number in range(100):
        metrics.on_event(Event("dropped", "a newer one is there"))
        metrics.on_event(Event("resized", f"to {number // 2}"))
    events = metrics.snapshot()["events"]
    assert len(events) == 20
    assert {event["kind"] for event in events} == {"resized"}
    assert events[-1]["message"] == "to 49"
    assert {event["count"] for event in events} == {2}


def test_several_threads():
    metrics = Metrics("door")
    one = frame(1)

    def work():
        for _ in range(200):
            metrics.on_frame(one, "cam")
            metrics.on_event(Event("dropped", "d"))
            metrics.snapshot()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = metrics.snapshot()
    assert (snapshot["frames"], snapshot["dropped"], snapshot["faces"]["total"]) == (800, 800, 800)
    assert series(metrics)["dartblur_latency_seconds_count", "door"] == 800


def test_several_streams_share_an_exposition_and_names_are_escaped():
    front, back = Metrics('front "door"'), Metrics("back")
    front.on_frame(frame(2), "cam")
    found = series(front, back)
    assert found["dartblur_faces_total", 'front "door"'] == 2
    assert found["dartblur_faces_total", "back"] == 0


def test_open_metrics():
    text, kind = exposition([Metrics("door")], "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_server(sleep):
    metrics = Metrics("door", stall_after=0.3)
    with serve_metrics("127.0.0.1:0", metrics) as server:
        metrics.on_frame(frame(1), "cam")
        status, text = get(f"{server.url}metrics")
        assert status == 200
        assert 'dartblur_faces_total{stream="door"} 1.0' in text
        status, text = get(f"{server.url}health")
        assert (status, json.loads(text)["state"]) == (200, "connected")
        sleep(0.5)
        status, text = get(f"{server.url}health")
        assert (status, json.loads(text)["state"]) == (503, "stalled")
        assert get(f"{server.url}else")[0] == 404
    with pytest.raises(OSError, match="refused"):
        get(f"{server.url}metrics")


def test_server_of_several_streams():
    with serve_metrics("http://127.0.0.1:0", [Metrics("a"), Metrics("b")]) as server:
        status, text = get(f"{server.url}health")
        assert (status, sorted(json.loads(text)["streams"])) == (200, ["a", "b"])


def test_server_asks_for_its_token():
    with serve_metrics("127.0.0.1:0", Metrics(), token="a-good-token") as server:
        assert get(f"{server.url}metrics")[0] == 401
        assert get(f"{server.url}health", Authorization="Bearer wrong-token")[0] == 401
        assert get(f"{server.url}metrics", Authorization="Bearer a-good-token")[0] == 200


def test_server_names_what_is_wrong():
    with serve_metrics("127.0.0.1:0", Metrics()) as server:
        port = server.url.rstrip("/").rsplit(":", 1)[1]
        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port}: can't be served: Address already in use"):
            serve_metrics(f"127.0.0.1:{port}", Metrics())
    with pytest.raises(InputError, match="expected http://HOST:PORT or HOST:PORT, such as"):
        serve_metrics("9090", Metrics())
