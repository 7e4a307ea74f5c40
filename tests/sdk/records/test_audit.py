from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dartblur import Anonymizer, InputError, SinkError
from dartblur.backends.fake import FakeBackend
from dartblur.backends.loading import BackendChoice
from dartblur.bundle import default_bundle, sha256
from dartblur.frame import Frame, RedactedFrame, cover_whole, repeat
from dartblur.protection.policy import Protection
from dartblur.protection.zones import Zones
from dartblur.records.audit import AuditLog, Header, exact, frame_entry, model_sha256, policy_of, utc
from dartblur.stream.observers import Event

BOXES = np.array([[8.25, 8, 40.1, 40], [50, 50.3, 60, 60]], np.float32)


def header(source: str = "cam") -> Header:
    return Header(source, "fake", "", {"method": "dart"})


def redacted(index: int = 0, size: tuple[int, int] = (96, 64)) -> RedactedFrame:
    image = np.full((size[1], size[0], 3), 100, np.uint8)
    return Anonymizer(backend=FakeBackend(lambda image: BOXES))(Frame(image, index, index / 30))


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_says_what_was_covered_by_whom_and_why(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    anonymizer = Anonymizer(backend=FakeBackend(), threshold=0.4)
    protection = Protection(zones=Zones(always=["0,0,10,10"], never=["50%,0,100%,100%"]), hold=2.0)
    with AuditLog.of_file(path) as log:
        log.on_event(Event("connected", "rtsp://me:secret@cam is there"))  # before the model was loaded
        log.begin(Header("cam", "small 1", "ab" * 32, policy_of(anonymizer, protection)))
        log.on_frame(redacted(0), "cam")
        log.on_frame(redacted(1), "other.jpg")
        assert not path.exists(), "it gets its name at the end"
    first, event, frame, other = entries(path)
    assert first["schema"] == 1
    assert (first["source"], first["model"], first["model_sha256"]) == ("cam", "small 1", "ab" * 32)
    policy = first["policy"]
    assert isinstance(policy, dict)
    assert (policy["method"], policy["threshold"], policy["box_scale"], policy["hold"]) == ("dart", 0.4, 1.0, 2.0)
    assert policy["zones"] == {"always": ["0,0,10,10"], "never": ["50%,0,100%,100%"]}
    assert event["event"] == "connected"
    assert "secret" not in path.read_text()
    assert (frame["index"], frame["time"], frame["size"], frame["fault"]) == (0, 0.0, [96, 64], None)
    assert frame["covered"][0] == {"box": [8.25, 8.0, 40.1, 40.0], "id": 0, "reason": "detected"}  # type: ignore[index]
    assert frame["faces"][1] == {"box": [50.0, 50.3, 60.0, 60.0], "score": 0.9, "id": 0}  # type: ignore[index]
    assert "source" not in frame
    assert other["source"] == "other.jpg"
    assert str(frame["wall"]).endswith("Z")


def test_a_frame_that_was_repeated_is_told_from_one_that_was_covered(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    clear = Frame(np.zeros((64, 96, 3), np.uint8), 1)
    with AuditLog.of_file(path) as log:
        log.begin(header())
        last = redacted(0)
        for frame in (last, repeat(last, clear, "time-out"), cover_whole(clear, "time-out")):
            log.on_frame(frame, "cam")
    plain, again, whole = entries(path)[1:]
    assert "repeat" not in plain
    assert (again["fault"], again["repeat"]) == ("time-out", True)
    assert whole["fault"] == "time-out"
    assert "repeat" not in whole


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=4))
def test_numbers_come_back_to_the_bit(values: list[float]) -> None:
    numbers = np.array(values, np.float32)
    back = np.array(json.loads(json.dumps(exact(numbers))), np.float32)
    assert back.tobytes() == numbers.tobytes()


def test_wall_time_is_that_of_the_capture() -> None:
    frame = redacted()
    time.sleep(0.05)
    assert str(frame_entry(frame)["wall"]) < utc(0.04)


def test_a_failed_run_leaves_no_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog.of_file(path)

    def fail() -> None:
        with log:
            log.begin(header())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_log_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text("mine")
    with pytest.raises(SinkError, match="exists already"):
        AuditLog.of_file(path)
    with pytest.raises(SinkError, match="the source itself"):
        AuditLog.of_file(path, sources=[path], overwrite=True)
    with pytest.raises(SinkError, match="exists and is no audit log"):
        AuditLog.of_stream(path)
    assert path.read_text() == "mine"
    with pytest.raises(SinkError, match="does not exist: create it"):
        AuditLog.of_stream(tmp_path / "nowhere" / "audit.jsonl")
    with pytest.raises(InputError, match="at least 10000 bytes"):
        AuditLog.of_stream(tmp_path / "new.jsonl", max_bytes=10)


def test_a_streams_log_is_there_at_once_and_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog.of_stream(path, max_bytes=10_000, keep=2) as log:
        log.begin(header())
        for index in range(150):
            log.on_frame(redacted(index), "cam")
            assert entries(path)[-1]["index"] == index, "each line is there when the call returns"
    files = [path.with_name("audit.jsonl.2"), path.with_name("audit.jsonl.1"), path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 10_000 for file in files)
    parts = [entries(file) for file in files]
    assert len({json.dumps(part[0]) for part in parts}) == 1, "each file begins with the header"
    indices = [entry["index"] for part in parts for entry in part[1:]]
    assert indices == list(range(150))[-len(indices) :]
    assert len(indices) > 40


def test_an_earlier_run_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for number in range(3):
        with AuditLog.of_stream(path) as log:
            assert entries(path)[1]["index"] == number - 1 if number else not path.exists()
            log.begin(header(f"cam {number}"))
            log.on_frame(redacted(number), f"cam {number}")
    assert [entries(path.with_name(f"audit.jsonl.{n}"))[0]["source"] for n in (1, 2)] == ["cam 1", "cam 0"]
    assert entries(path)[0]["source"] == "cam 2"


def test_two_streams_cannot_share_a_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog.of_stream(path) as first, AuditLog.of_stream(path) as second:
        first.begin(header("one"))
        with pytest.raises(SinkError, match="written by another stream"):
            second.begin(header("two"))
        first.on_frame(redacted(), "one")
    assert [entry.get("source") for entry in entries(path)] == ["one", None]


def test_kill_9_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    program = f"""
import numpy as np
from dartblur.records.audit import AuditLog, Header
from dartblur.frame import Frame, cover_whole
log = AuditLog.of_stream({str(path)!r})
log.begin(Header("cam", "fake", "", {{}}))
for index in range(10**9):
    log.on_frame(cover_whole(Frame(np.zeros((8, 8, 3), np.uint8), index), "drill"), "cam")
    print(index, flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
    assert path.read_text().endswith("\n")
    assert len(entries(path)) - 1 >= len(seen), "every frame that was handed on is in the log"


@pytest.mark.parametrize("live", [True, False])
def test_a_full_disk_ends_the_stream_and_leaves_whole_lines(tmp_path: Path, live: bool) -> None:
    path = tmp_path / "audit.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = AuditLog.of_stream(path) if live else AuditLog.of_file(path)

    def fill() -> None:
        with log:
            log.begin(header())
            for index in range(100):
                log.on_frame(redacted(index), "cam")

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
        with pytest.raises(SinkError, match=r"audit\.jsonl: can't be written: .*: free some space"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    if not live:
        assert not path.exists()
        return
    assert 1 < len(entries(path)) < 20
    assert path.read_text().endswith("\n")


def test_the_model_is_named_by_its_manifest() -> None:
    assert model_sha256(BackendChoice()) == sha256((default_bundle() / "manifest.json").read_bytes())
