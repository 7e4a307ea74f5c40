"""The fault drill in small: those parts that need no system package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "faults.py"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    report = tmp_path_factory.mktemp("faults") / "report.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--no-system", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return list(json.loads(report.read_text())["rows"])


def of(rows: list[dict[str, Any]], drill: str) -> list[dict[str, Any]]:
    found = [row for row in rows if row["drill"].startswith(drill)]
    assert found, f"{drill} was not run"
    return found


def test_a_clear_face_would_be_noticed(rows):
    (row,) = of(rows, "control")
    assert row["clear"] == row["looked_at"] > 10


def test_no_clear_face_leaves(rows):
    drills = [row for row in rows if not row["drill"].startswith("control")]
    assert {row["drill"].split()[0] for row in drills} == {"camera", "detector", "disk", "slow", "corrupt", "kill"}
    for row in drills:
        assert row["clear"] == 0 < row["looked_at"], row


def test_nothing_hangs_and_no_thread_stays(rows):
    for row in rows:
        assert row["end"] != "HANGS", row
        assert row["threads_left"] == [], row


@pytest.mark.parametrize("drill", ["detector raises", "detector sleeps"])
def test_each_way_to_go_on_does_what_it_says(rows, drill):
    by_way = {row["on_fault"]: row for row in of(rows, drill)}
    assert set(by_way) == {"solid", "hold", "drop", "stop"}
    assert all(row["faults"] > 0 for row in by_way.values())
    assert by_way["solid"]["fault_frames"] > 0
    assert by_way["hold"]["fault_frames"] > 0
    assert by_way["drop"]["fault_frames"] == 0
    assert by_way["stop"]["end"].startswith("FailClosedError")
    assert all(row["end"] == "ended" and row["recovery_s"] for way, row in by_way.items() if way != "stop")


def test_an_unplugged_camera_comes_back(rows):
    for row in of(rows, "camera unplugged"):
        assert len(row["recovery_s"]) == row["faults"] == 2


def test_a_full_disk_ends_the_stream_and_what_was_recorded_can_be_played(rows):
    (row,) = of(rows, "disk full")
    assert row["end"].startswith("SinkError")
    assert row["looked_at"] > 10


def test_a_slow_sink_holds_up_no_other(rows):
    (row,) = of(rows, "slow sink")
    assert row["frames_out"] >= 0.7 * row["frames_in"]
    assert row["looked_at"] > row["frames_out"]
