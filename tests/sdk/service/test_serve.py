"""The real command in a process of its own: signals, reload, and what is left of it."""

from __future__ import annotations

import json
import signal
import socket
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from .conftest import Serving, asked, frames_of, free_port, is_hidden, until

Serve = Callable[..., Serving]
Write = Callable[[str], Path]


class Config:
    """A file of two streams like cameras, which differ in where they go."""

    def __init__(self, write: Write, clip: Path) -> None:
        self.page, self.metrics = free_port(), free_port()
        self._write, self._clip = write, clip
        self.path = self.write()

    def write(self, back: str = "back.mkv", more: str = "") -> Path:
        return self._write(f"""
            page: http://127.0.0.1:{self.page}
            metrics: 127.0.0.1:{self.metrics}
            defaults: {{realtime: true, loop: true, self_check: 0, timeout: 20}}
            {more}
            streams:
              front: {{source: {self._clip}, sinks: [page, front-%H%M%S.mp4], audit: front.jsonl}}
              back: {{source: {self._clip}, sinks: {back}, overwrite: true}}
        """)

    def health(self) -> Any:
        return asked(f"http://127.0.0.1:{self.metrics}/health")[1]

    def frames(self) -> dict[str, int]:
        streams = (self.health() or {}).get("streams", {})
        return {name: stream["frames"] for name, stream in streams.items()}

    def run_until(self, count: int) -> None:
        until(lambda: min(self.frames().values(), default=0) >= count, 60)


@pytest.fixture
def config(write: Write, clip: Path) -> Config:
    return Config(write, clip)


def recordings(folder: Path, pattern: str = "*.mp4") -> list[Path]:
    return sorted(path for path in folder.glob(pattern))


def test_it_serves_until_it_is_told_to_end(serve: Serve, config: Config, tmp_path: Path) -> None:
    service = serve(config.path)
    config.run_until(30)
    status, page = asked(f"http://127.0.0.1:{config.page}/health")
    assert (status, page["stream"], page["state"]) == (200, "front", "connected")
    assert serve("--health", config.path).ended() == (0, "front: connected, back: connected\n")
    began = time.monotonic()
    service.signal(signal.SIGTERM)
    assert service.ended()[0] == 0
    assert time.monotonic() - began < 3
    for path in (*recordings(tmp_path), tmp_path / "back.mkv"):
        shown = frames_of(path)
        assert len(shown) >= 30
        assert all(map(is_hidden, shown))
    header, *lines = map(json.loads, (tmp_path / "front.jsonl").read_text().splitlines())
    assert header["model"] == "fake"
    assert len([line for line in lines if "index" in line]) >= 30
    assert "ready: " in service.told
    assert "told to end by SIGTERM" in service.told
    code, told = serve("--health", config.path).ended()
    assert code == 1
    assert "no answer" in told


def test_ctrl_c_ends_it_too(serve: Serve, config: Config, tmp_path: Path) -> None:
    service = serve(config.path)
    config.run_until(5)
    service.signal(signal.SIGINT)
    assert service.ended(3)[0] == 0
    assert all(map(is_hidden, frames_of(tmp_path / "back.mkv")))


def test_what_is_recorded_survives_a_kill(serve: Serve, config: Config, tmp_path: Path) -> None:
    service = serve(config.path)
    config.run_until(60)
    service.signal(signal.SIGKILL)
    assert service.ended()[0] == -signal.SIGKILL
    for path in (*recordings(tmp_path), tmp_path / "back.mkv"):
        shown = frames_of(path)
        assert len(shown) >= 20, "all but the last second or two"
        assert all(map(is_hidden, shown))


def test_reload(serve: Serve, config: Config, tmp_path: Path) -> None:
    service = serve(config.path)
    config.run_until(10)
    front = config.frames()["front"]
    config.write(back="other.mkv")
    service.signal(signal.SIGHUP)
    until(lambda: "reloaded: 1 streams go on, 1 changed, 0 new, 0 ended" in service.told)
    config.run_until(5)
    assert config.frames()["front"] > front, "it went on"
    assert all(map(is_hidden, frames_of(tmp_path / "back.mkv")))
    before = config.frames()

    config.write(more="hodl: 3\n            nope: 1")
    service.signal(signal.SIGHUP)
    until(lambda: "the old config goes on: " in service.told)
    until(lambda: "nope: unknown key" in service.told)
    config.write(more="backend: cpu")
    service.signal(signal.SIGHUP)
    until(lambda: "model, backend or engine: expected the same as before" in service.told)
    config.path.write_text("streams: [")
    service.signal(signal.SIGHUP)
    until(lambda: service.told.count("the old config goes on: ") == 4)
    config.path.unlink()
    service.signal(signal.SIGHUP)
    until(lambda: service.told.count("the old config goes on: ") == 5)
    until(lambda: all(config.frames()[name] > count + 3 for name, count in before.items()))

    service.signal(signal.SIGTERM)
    assert service.ended(3)[0] == 0
    assert len(recordings(tmp_path, "front-*.mp4")) == 1, "it was never restarted"
    assert all(map(is_hidden, frames_of(tmp_path / "other.mkv")))


def test_the_service_manager_is_told(serve: Serve, config: Config, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        service = serve(config.path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1000000")
        assert manager.recv(1000) == b"READY=1"
        times = []
        for _ in range(8):
            assert manager.recv(1000).startswith(b"WATCHDOG=1\nSTATUS=front: ")
            times.append(time.monotonic())
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert max(pauses) < 1
        assert statistics.median(pauses) < 0.4, "some may be missed"
        service.signal(signal.SIGTERM)
        told = b""
        while told != b"STOPPING=1":
            told = manager.recv(1000)
    assert service.ended()[0] == 0


def test_it_can_be_told_to_end_and_to_reload_while_a_camera_does_not_answer(
    serve: Serve, write: Write, clip: Path, tmp_path: Path
) -> None:
    there = f"there: {{source: {clip}, realtime: true, loop: true, self_check: 0, sinks: there-%f.mp4}}"
    with socket.create_server(("127.0.0.1", 0)) as mute:
        camera = f"rtsp://me:sesame@127.0.0.1:{mute.getsockname()[1]}/1"
        service = serve(write(f"streams: {{{there}, mute: {{source: '{camera}', sinks: mute-%f.mp4}}}}"))
        until(lambda: recordings(tmp_path, "there-*.mp4"), 60)
        service.signal(signal.SIGHUP)
        time.sleep(1)
        assert service.process.poll() is None
        assert "ready: " not in service.told
        service.signal(signal.SIGTERM)
        assert service.ended(6)[0] == 0  # the camera would be waited for for ten
    assert all(map(is_hidden, frames_of(recordings(tmp_path, "there-*.mp4")[0])))
    assert "sesame" not in service.told


def test_logs_are_json_where_that_is_wanted(serve: Serve, config: Config) -> None:
    pytest.importorskip("pythonjsonlogger")
    config.write(more="log: {format: json, level: info}")
    service = serve(config.path)
    config.run_until(3)
    until(lambda: "ready: " in service.told)
    service.signal(signal.SIGTERM)
    assert service.ended()[0] == 0
    lines = [json.loads(line) for line in service.told.splitlines()]
    assert any(line["message"].startswith("ready: ") for line in lines)
    assert any(line.get("stream") == "front" for line in lines)


def test_the_token_is_asked_for(serve: Serve, config: Config, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-long-enough-token\n")
    config.write(more="token_file: token")
    service = serve(config.path)
    until(lambda: "ready: " in service.told, 60)
    code, told = serve("--health", config.path).ended()
    assert (code, told) == (0, "front: connected, back: connected\n") or "starting" in told
    config.write()
    stranger = serve("--health", config.path)
    assert stranger.ended()[0] == 2
    assert "wants another token" in stranger.told
    assert "a-long-enough-token" not in service.told


@pytest.mark.parametrize("option", [[], ["--check"], ["--health"]])
def test_a_bad_config_is_told_line_by_line(option: list[str], serve: Serve, write: Write) -> None:
    path = write("streams: {door: {source: 0, sinks: d, hold: long, quality: 99}}")
    service = serve(*option, path)
    assert service.ended() == (2, "")
    assert service.told.splitlines() == [
        f"dartblur: {path}: streams.door.hold: expected a number, got 'long'",
        f"dartblur: {path}: streams.door.quality: expected at most 51, got 99",
    ]


def test_check_opens_nothing(serve: Serve, write: Write, tmp_path: Path) -> None:
    path = write("streams: {door: {source: rtsp://nowhere.invalid/1, sinks: 'd-%H.mp4'}}")
    assert serve("--check", path).ended() == (0, f"{path}: right, 1 streams: door\n")
    assert not recordings(tmp_path)


def test_a_stream_that_can_not_be_is_told_in_a_line(serve: Serve, write: Write, clip: Path) -> None:
    path = write(f"streams: {{a: {{source: {clip}, sinks: a-%H.mp4}}, b: {{source: gone.mp4, sinks: b-%H.mp4}}}}")
    service = serve(path)
    assert service.ended() == (2, "")
    assert service.told.splitlines()[-1] == "dartblur: streams.b: gone.mp4: no such file"


def test_the_schema(serve: Serve) -> None:
    code, told = serve("--schema").ended()
    assert code == 0
    assert "streams" in json.loads(told)["properties"]


def test_no_config(serve: Serve, tmp_path: Path) -> None:
    service = serve()
    assert service.ended() == (2, "")
    assert service.told == "dartblur: serve: expected a config file, got none: dartblur serve config.yaml\n"
    missing = serve(tmp_path / "missing.yaml")
    assert missing.ended() == (2, "")
    assert missing.told.endswith("missing.yaml: can't be read: No such file or directory\n")
