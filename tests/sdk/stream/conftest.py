"""Real media files, made on the spot."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.stream import SinkOptions, SourceOptions, Summary, open_sink, open_source, run

FACE = np.array([[64, 48, 128, 112]], np.float32)
"""Where the fake detector finds a face, xyxy in the upright picture."""


def pattern(width: int, height: int, index: int) -> np.ndarray:
    """A smooth coloured picture that moves."""
    seed = np.random.default_rng(7).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    big = cv2.resize(seed, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(np.roll(big, 3 * index, 1))


def _sound(container: Any, seconds: float) -> tuple[Any, list[Any]]:
    stream = container.add_stream("aac", rate=44100)
    frames = []
    for start in range(0, int(seconds * 44100), 1024):
        wave = np.sin(np.arange(start, start + 1024) * 0.05).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
        frames.append(frame)
    return stream, frames


def make_clip(
    path: Path,
    *,
    size: tuple[int, int] = (320, 240),
    pts: Sequence[int] = tuple(range(0, 30 * 3000, 3000)),
    time_base: Fraction = Fraction(1, 90000),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    aspect: Fraction = Fraction(1),
    colours: tuple[int, int, int, int] = (1, 1, 1, 1),
    matrix: Sequence[int] | None = None,
    sound: bool = False,
    sound_s: float | None = None,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    more_videos: int = 0,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A video; `colours` are primaries, transfer, matrix and range as H.273 numbers them. Its sound lasts as long as it
    does, or `sound_s` seconds.
    """
    primaries, transfer, space, full = colours
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        streams = []
        for number in range(1 + more_videos):
            stream: Any = container.add_stream(codec, rate=30, options=options or {"preset": "ultrafast", "crf": "10"})
            stream.width, stream.height, stream.pix_fmt = (size if number == 0 else (64, 64)) + (pix_fmt,)
            context = stream.codec_context
            context.time_base, context.sample_aspect_ratio = time_base, aspect
            context.color_primaries, context.color_trc = primaries, transfer
            context.colorspace, context.color_range = space, full
            if matrix is not None and hasattr(stream, "set_display_matrix"):
                stream.set_display_matrix(matrix)
            streams.append(stream)
        if sound:
            audio, waves = _sound(container, float(pts[-1] * time_base) if sound_s is None else sound_s)
        for stream in streams:
            for index, stamp in enumerate(pts):
                image = av.VideoFrame.from_ndarray(pattern(stream.width, stream.height, index), format="bgr24")
                frame = image.reformat(format=pix_fmt, dst_colorspace={1: 1, 9: 9}.get(space, 5), dst_color_range=full)
                frame.pts, frame.time_base = stamp, time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if sound:
            for wave in waves:
                container.mux(audio.encode(wave))
            container.mux(audio.encode(None))
    return path


def anonymize(
    source: Path | str, sink: Path | str, finder: Callable[..., Any] | None = None, **options: Any
) -> Summary:
    """The whole way with a fake detector that finds `FACE`."""
    anonymizer = Anonymizer(backend=FakeBackend(finder or (lambda image: FACE)))
    keep_going = options.pop("keep_going", False)
    reading, writing = SourceOptions(keep_going=keep_going), SinkOptions(**options)
    with open_source(source, reading) as opened, open_sink(sink, opened, writing) as out:
        return run(opened, anonymizer, out)


def frames_of(path: Path) -> list[Any]:
    """All decoded frames of the first video stream."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def packets_of(path: Path, kind: str) -> list[tuple[bytes, float]]:
    """Bytes and time of all packets of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [(bytes(p), float(p.pts * p.time_base)) for p in container.demux(stream) if p.size]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """320x240, 30 frames, BT.709, SAR 15:16, AAC sound, a title."""
    folder = tmp_path_factory.mktemp("clip")
    return make_clip(folder / "clip.mp4", aspect=Fraction(15, 16), sound=True, metadata={"title": "A walk"})


@pytest.fixture(scope="session")
def tools() -> Any:
    """The functions above, for tests in files that can't import this one."""
    return type(
        "Tools",
        (),
        {
            "FACE": FACE,
            "pattern": staticmethod(pattern),
            "make_clip": staticmethod(make_clip),
            "anonymize": staticmethod(anonymize),
            "frames_of": staticmethod(frames_of),
            "packets_of": staticmethod(packets_of),
        },
    )


class RtspServer:
    """A real RTSP server in a process of its own; see rtsp_server.py for its options and mounts.

    Attributes:
        port: where it listens; the same after `restart`.
        lines: what it has said since it was started, as ``CLIENT``.
    """

    def __init__(self, *options: str) -> None:
        self.options = options
        self.port = 0
        self.start()

    def start(self) -> None:
        script = Path(__file__).with_name("rtsp_server.py")
        command = ["/usr/bin/python3", str(script), "--port", str(self.port), *self.options]
        # PyGObject of the system must not meet packages of the tests' environment.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={})
        assert self.process.stdout is not None
        first = self.process.stdout.readline().split()
        assert first[:1] == ["PORT"], "the RTSP server didn't start"
        self.port = int(first[1])
        self.lines: list[str] = []
        threading.Thread(target=self._listen, args=(self.process.stdout, self.lines), daemon=True).start()

    @staticmethod
    def _listen(output: Any, lines: list[str]) -> None:
        for line in output:
            lines.append(line.strip())
        output.close()

    def url(self, mount: str = "test", user: str = "") -> str:
        """The URL of a mount; user as ``name:password``."""
        return f"rtsp://{user}{'@' if user else ''}127.0.0.1:{self.port}/{mount}"

    def wait_for(self, line: str, seconds: float = 10.0) -> None:
        """Until it has said this."""
        until = time.monotonic() + seconds
        while line not in self.lines:
            assert time.monotonic() < until, f"the RTSP server never said {line}, but {self.lines}"
            time.sleep(0.02)

    def freeze(self) -> None:
        """Stops it without closing its connections."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def restart(self) -> None:
        """On the same port, after `kill`."""
        self.start()


@pytest.fixture
def rtsp_server(require_system: Callable[[str], None]) -> Iterator[Callable[..., RtspServer]]:
    """Starts RTSP servers: ``rtsp_server("--user", "anna", "--password", "secret")``; killed when the test ends."""
    require_system("gst-rtsp-server")
    servers: list[RtspServer] = []

    def start(*options: str) -> RtspServer:
        servers.append(RtspServer(*options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
