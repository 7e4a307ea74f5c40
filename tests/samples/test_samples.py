"""The samples, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import pytest

SAMPLES = Path(__file__).parents[2] / "samples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(SAMPLES / name), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, run("demo.py", folder)


def test_the_demo_covers_both_faces_in_every_frame(demo: tuple[Path, str]) -> None:
    folder, told = demo
    assert "100 frames" in told
    assert (folder / "anonymized.mp4").is_file()
    before_after = cv2.imread(str(folder / "before-after.png"))
    assert before_after.shape[:2] == (720, 640)


def test_a_loop_of_ones_own(demo: tuple[Path, str], tmp_path: Path) -> None:
    told = run("own_loop.py", demo[0] / "astronaut.mp4", tmp_path / "frames")
    assert len(told.splitlines()) == len(list((tmp_path / "frames").iterdir())) == 4


def test_every_sample_is_run_here() -> None:
    assert {path.name for path in SAMPLES.glob("*.py")} == {"demo.py", "own_loop.py"}
