"""The command in a process of its own, with a fake model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

SDK = Path(__file__).parents[3] / "sdk"

_PROGRAM = """
import sys, time
import numpy as np
import dartblur.session as session
from dartblur.backends.fake import FakeBackend
from dartblur.cli import main

wait, fail_at, limit, count = float(sys.argv.pop(1)), int(sys.argv.pop(1)), int(sys.argv.pop(1)), 0
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

def finder(image):
    global count
    count += 1
    time.sleep(wait)
    if count == fail_at:
        raise RuntimeError("detector broke")
    return np.array([[8, 8, 40, 40]], np.float32)

session.load_backend = lambda choice: FakeBackend(finder)
main()
"""


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Starts ``dartblur`` with these arguments.

    wait: seconds that a frame takes. fail_at: number of the frame, from 1, that can't be anonymized.
    limit: most bytes that a file may get, as on a full disk.
    """

    def started(*arguments: Any, wait: float = 0, fail_at: int = 0, limit: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _PROGRAM, str(wait), str(fail_at), str(limit), *map(str, arguments)]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(SDK), "PATH": "/usr/bin:/bin", "COLUMNS": "120"},
        )

    return started


@pytest.fixture
def call(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``dartblur`` to its end: exit code, stdout, stderr."""

    def called(*arguments: Any, **options: Any) -> tuple[int, str, str]:
        process = start(*arguments, **options)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    return called


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96x64, 60 frames of noise."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    random = np.random.default_rng(3)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for index in range(60):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 256, (64, 96, 3), dtype=np.uint8), format="bgr24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
