"""Real media files, made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.stream import Summary, open_sink, open_source, run

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
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    more_videos: int = 0,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A video; `colours` are primaries, transfer, matrix and range as H.273 numbers them."""
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
            audio, waves = _sound(container, float(pts[-1] * time_base))
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
    with open_source(source, keep_going=keep_going) as opened, open_sink(sink, opened, **options) as out:
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
