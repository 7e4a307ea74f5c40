"""Pictures and clips made on the spot, for trying a model where there is no material at hand.

The face is that of the astronaut Eileen Collins (NASA, public domain), as it comes with scikit-image; where that isn't
installed there are no faces, and whoever uses these pictures says so.
"""

from __future__ import annotations

from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..frame import Image

RATE = 25
"""Frames a second of a clip."""


def has_faces() -> bool:
    """Whether there is a real face to show."""
    return find_spec("skimage") is not None


def texture(width: int, height: int, seed: int = 0) -> Image:
    """A picture with structure at all scales and no face, uint8 ``[height, width, 3]``: sums of noise."""
    random = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 120, np.float32)
    for cells in (4, 16, 64, 256):
        noise = random.normal(0, 22, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(picture, 0, 255).astype(np.uint8)


def faces(width: int, height: int, moment: float = 0.0) -> Image:
    """Real faces, uint8 ``[height, width, 3]`` BGR: two side by side, or one in an upright picture.

    Args:
        width, height: pixels.
        moment: 0..1; meanwhile the camera moves and comes nearer.

    Raises:
        ImportError: scikit-image is not installed; see `has_faces`.
    """
    data: Any = import_module("skimage.data")
    # 320 columns with the face in their middle, and the same mirrored.
    astronaut = np.ascontiguousarray(data.astronaut()[:, 67:387, ::-1])
    pair = np.concatenate([astronaut, astronaut[:, ::-1]], 1)
    scale = max(width / (560 if width > height else 280), height / 440) * (1 + 0.1 * moment)
    centre = 320 if width > height else 160
    x, y = centre - width / scale / 2 + 30 * (moment - 0.5), 8 * np.sin(6 * moment)
    matrix = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])
    flags, border = cv2.INTER_LINEAR, cv2.BORDER_REFLECT
    return cv2.warpAffine(pair, matrix, (width, height), flags=flags, borderMode=border).astype(np.uint8, copy=False)


def moving(width: int, height: int, moment: float) -> Image:
    """A clip's frame at a moment from 0 to 1: the faces, or where there are none a texture that moves."""
    if has_faces():
        return faces(width, height, moment)
    return np.ascontiguousarray(np.roll(texture(width, height), round(width * moment), 1))


def write_clip(path: Path, frames: int, size: tuple[int, int]) -> None:
    """Writes `moving` frames as H.264.

    Args:
        path: a file whose suffix names the container.
        frames: how many.
        size: width and height, pixels.
    """
    import av

    width, height = size
    odd = width % 2 or height % 2
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"crf": "16", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p" if odd else "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(moving(width, height, number / max(1, frames - 1)), format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
