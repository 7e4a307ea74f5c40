"""The samples, run as a user runs them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
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


def test_a_file_tells_why_boxes_were_covered(demo: tuple[Path, str], tmp_path: Path) -> None:
    told = run("file.py", demo[0] / "astronaut.mp4", tmp_path / "out.mp4")
    assert told.startswith(f"100 frames -> {tmp_path / 'out.mp4'}: ")
    assert "'detected': " in told
    assert (tmp_path / "out.mp4").is_file()


def test_a_camera_in_a_window(demo: tuple[Path, str]) -> None:
    """A file in place of the camera, and of the window only what is asked of it."""
    program = """
import runpy, sys, time
import cv2
shown = []
cv2.namedWindow = cv2.resizeWindow = cv2.setWindowTitle = cv2.destroyWindow = lambda *arguments: None
cv2.imshow = lambda name, image: shown.append(image.shape)
cv2.waitKey = cv2.pollKey = lambda wait=1: time.sleep(wait / 1000) or -1
cv2.getWindowProperty = lambda *arguments: 1.0
import dartblur.stream.sinks.display as display
display.check_display = lambda uri: None
runpy.run_path(sys.argv.pop(1), run_name="__main__")
assert len(shown) > 10, shown
"""
    command = [sys.executable, "-c", program, str(SAMPLES / "webcam.py"), str(demo[0] / "astronaut.mp4")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "100 frames" in result.stdout


def test_a_camera_on_a_page_and_in_a_recording(demo: tuple[Path, str], tmp_path: Path) -> None:
    """Until Ctrl-C; a file in place of the camera, in a loop."""
    clip = demo[0] / "astronaut.mp4"
    program = (
        "import runpy, sys, dartblur; real = dartblur.open; "
        "dartblur.open = lambda uri: real(uri, dartblur.SourceOptions(realtime=True, loop=True)); "
        "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    arguments = [str(SAMPLES / "rtsp_to_page.py"), str(clip), str(tmp_path / "rec.mp4"), "http://127.0.0.1:0"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "look at http://127.0.0.1:0\n"
    end = time.monotonic() + 60
    while not [*tmp_path.glob("rec-*.mp4")]:
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=20)
    assert process.returncode == 0, told
    assert " frames, " in told.splitlines()[-1]
    (recording,) = tmp_path.glob("rec-*.mp4")
    capture = cv2.VideoCapture(str(recording))
    assert capture.read()[0]
    capture.release()


def test_several_cameras_share_a_model(demo: tuple[Path, str], tmp_path: Path) -> None:
    clip = demo[0] / "astronaut.mp4"
    told = run("several_cameras.py", 6, clip, clip)
    assert [line.rsplit(" frames", 1)[0].rsplit(" ", 1)[0] for line in told.splitlines()] == [f"{clip}:"] * 2
    assert all(int(line.split(": ")[1].split()[0]) > 5 for line in told.splitlines())


def test_every_sample_is_run_here() -> None:
    tested = {"demo.py", "own_loop.py", "file.py", "webcam.py", "rtsp_to_page.py", "several_cameras.py"}
    assert {path.name for path in SAMPLES.glob("*.py")} == tested
