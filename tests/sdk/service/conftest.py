"""A real clip, a config file of it, and the service in a process of its own with a fake model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import av
import numpy as np
import pytest

SDK = Path(__file__).parents[3] / "sdk"
FACE = (16, 16, 80, 80)
"""Where the fake model finds a face; the clip is white there, and the fake model makes it black."""

_PROGRAM = """
import numpy as np
import dartblur.cli.serve_command as serve_command
from dartblur.backends.fake import FakeBackend
from dartblur.cli import main
from dartblur.service.supervisor import Supervisor

face = np.array([%r], np.float32)
serve_command._supervisor = lambda settings: Supervisor(settings, load=lambda choice: FakeBackend(lambda image: face))
main()
"""


def until(true: Callable[[], Any], seconds: float = 20) -> Any:
    """Waits until something is true, and gives it; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def asked(url: str) -> tuple[int, Any]:
    """Status and JSON of a URL; 0 where nobody answers."""
    try:
        with urlopen(url, timeout=5) as response:
            return response.status, json.loads(response.read())
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())
    except (URLError, OSError):
        return 0, None


def frames_of(path: Path) -> list[np.ndarray]:
    """All frames of a recording, BGR, as far as it can be played."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def is_hidden(frame: np.ndarray) -> bool:
    """Whether the face of the clip can't be seen: black, or the colour of a frame that is covered whole."""
    x0, y0, x1, y1 = FACE
    return int(frame[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].max()) < 130


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160x120, 40 frames at 20 fps: a white face on grey that moves a little."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=20, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 20)
        for index in range(40):
            image = np.full((120, 160, 3), 60 + index, np.uint8)
            image[FACE[1] : FACE[3], FACE[0] : FACE[2]] = 255
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a config file."""

    def written(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


class Serving:
    """``dartblur serve`` in a process of its own."""

    def __init__(self, *arguments: Any, folder: Path, log: Path, environ: dict[str, str]) -> None:
        self.log = log
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM % (FACE,), "serve", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env={"PYTHONPATH": str(SDK), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environ},
            )

    @property
    def told(self) -> str:
        return self.log.read_text()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def ended(self, seconds: float = 60) -> tuple[int, str]:
        """Exit code and stdout."""
        out, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, out.decode()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Starts it; what still runs at the end of the test is killed."""
    started: list[Serving] = []

    def start(*arguments: Any, **environ: str) -> Serving:
        started.append(Serving(*arguments, folder=tmp_path, log=tmp_path / f"log-{len(started)}.txt", environ=environ))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()
