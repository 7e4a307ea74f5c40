"""What breaks in the fault drills: cameras, detectors, sinks and servers."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fault_scene as scene
import numpy as np

from dartblur.errors import SourceError
from dartblur.frame import Frame, RedactedFrame
from dartblur.stream import Sink, Source, SourceInfo

RTSP_SERVER = Path(__file__).parent.parent / "tests" / "sdk" / "stream" / "rtsp_server.py"


class Camera(Source):
    """The scene in real time. It can be unplugged: then it raises, ends, or hangs, whichever is its way.

    Args:
        frames: after which it ends.
        way: what it does when it is unplugged: ``raise``, ``end`` or ``hang``.
        first: number of the first picture.
    """

    def __init__(self, frames: int = 10**9, *, rate: float = 30, way: str = "raise", first: int = 0) -> None:
        super().__init__()
        self.info = SourceInfo("camera", *scene.SIZE, None, live=True)
        self._frames, self._rate, self._way, self._first = frames, rate, way, first
        self.unplugged = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        began = time.monotonic()
        for index in range(self._frames):
            if self.stopping.wait(max(0.0, began + index / self._rate - time.monotonic())):
                return
            if self.unplugged.is_set():
                if self._way == "raise":
                    raise SourceError("camera: no such device")
                if self._way == "hang":
                    self.stopping.wait()
                return
            yield Frame(scene.picture(self._first + index), index, index / self._rate)


class Socket:
    """Where a camera is plugged in: `open` connects to it, and fails while there is none."""

    def __init__(self) -> None:
        self._camera: Camera | None = None
        self._there = True
        self._rounds = 0

    def open(self) -> Source:
        """As `Reconnecting` wants it."""
        if not self._there:
            raise SourceError("camera: no such device")
        self._camera = Camera(way=("raise", "end", "hang")[self._rounds % 3], first=40 * self._rounds)
        self._rounds += 1
        return self._camera

    def unplug(self) -> None:
        """Takes the camera away."""
        self._there = False
        if self._camera is not None:
            self._camera.unplugged.set()

    def plug_in(self) -> None:
        """Puts one there."""
        self._there = True


class Detector:
    """Finds the face, except when something goes wrong on random frames.

    Args:
        wrong: what happens then.
        share: of the frames.
        seconds: for so long from the first frame; then all is well again.

    Attributes:
        faults: when each fault ended.
    """

    def __init__(self, wrong: Callable[[], None], share: float, seconds: float) -> None:
        self._wrong, self._share = wrong, share
        self._seconds, self._until = seconds, 0.0
        self._random = np.random.default_rng(0)
        self._calls = 0
        self.faults: list[float] = []

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """As `FakeBackend` wants it."""
        self._calls += 1
        if self._calls == 1:
            self._until = time.monotonic() + self._seconds
        # A few frames are anonymized first, so that there is a face to hold and a picture to repeat.
        if self._calls > 5 and self._random.random() < self._share and time.monotonic() < self._until:
            try:
                self._wrong()
            finally:
                self.faults.append(time.monotonic())
        return scene.find(image)


def raises() -> None:
    """A detector's bug."""
    raise RuntimeError("the detector broke")


class SlowSink(Sink):
    """Takes its time for each frame, and looks at it."""

    def __init__(self, seconds: float) -> None:
        super().__init__("slow")
        self._seconds = seconds
        self.pictures = self.clear = 0

    def _write(self, frame: RedactedFrame) -> None:
        time.sleep(self._seconds)
        self.pictures += 1
        self.clear += scene.is_clear(frame.image)

    def commit(self) -> None:
        """Nothing is left to do."""

    def discard(self) -> None:
        """Nothing is left behind."""


class BadServer:
    """Serves a live video by HTTP in real time, over a line that flips bytes.

    Args:
        pieces: bytes and seconds: each is sent when its time has come.
        content_type: of the answer.
        flips: probability with which a byte is another one when it arrives.
    """

    def __init__(self, pieces: Sequence[tuple[bytes, float]], content_type: str, flips: float) -> None:
        self.sent = self.flipped = 0
        self.flips = flips
        outer, random = self, np.random.default_rng(5)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                began = time.monotonic()
                try:
                    for data, moment in pieces:
                        time.sleep(max(0.0, began + moment - time.monotonic()))
                        self.wfile.write(outer._damaged(data, random))
                except OSError:
                    pass  # the viewer has gone

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/live"

    def _damaged(self, data: bytes, random: np.random.Generator) -> bytes:
        hit = np.flatnonzero(random.random(len(data)) < self.flips)
        self.sent += 1
        self.flipped += len(hit)
        changed = np.frombuffer(data, np.uint8).copy()
        changed[hit] ^= random.integers(1, 256, len(hit), np.uint8)
        return bytes(changed)

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


class SystemServer:
    """A script of the system's Python that serves RTSP; on the same port when it is started again."""

    def __init__(self, script: Path, *options: str) -> None:
        self._command = ["/usr/bin/python3", str(script), *options]
        self.port = 0
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it listens."""
        # PyGObject of the system must not meet packages of this environment.
        command = [*self._command, "--port", str(self.port)]
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=none, text=True, env={})
        assert self._process.stdout is not None
        first = self._process.stdout.readline().split()
        if first[:1] != ["PORT"]:
            raise RuntimeError("the RTSP server doesn't start: apt-get install gir1.2-gst-rtsp-server-1.0")
        self.port = int(first[1])
        threading.Thread(target=self._process.stdout.read, daemon=True).start()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def url(self, mount: str = "test", scheme: str = "rtsp") -> str:
        """Where it serves."""
        return f"{scheme}://127.0.0.1:{self.port}/{mount}"


def has_rtsp_server() -> bool:
    """Whether the system's Python has GStreamer's RTSP server."""
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        return subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, env={}).returncode == 0
    except OSError:
        return False
