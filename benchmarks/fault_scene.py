"""The scene of the fault drills: a patch that stands for a face, what finds it, and what tells whether it is visible.

The patch is a moving chessboard of magenta and green, which occurs nowhere else and survives the compression of video.
A picture that was damaged on its way may be tinted in either colour, or have coloured noise, but not areas of both
colours side by side.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

SIZE = (320, 180)
SIDE, SQUARE = 48, 12
"""Of the patch and of the squares on it, in pixels."""
RATE = 15
SPEED = 3
FOUND = 0.5
"""Share of the patch that must be there to be found: a detector doesn't find every part of a face."""
VISIBLE = 0.02
"""Share of the patch that may shine through: the noise of compression."""
MARGIN = 5
"""Pixels by which compression may smear the patch, on each side."""
GRAIN = 5
"""Pixels: smaller spots of a colour are the noise of a damaged picture."""
TINTED = 40
"""By how much a colour must differ from grey to be found."""
TOLERANCE = 60
"""By which a colour may be off after compression, of 255."""
COLOURS = ((220, 30, 220), (40, 210, 40))


def picture(index: int) -> np.ndarray:
    """Frame so-and-so of the scene, uint8 [H, W, 3] BGR."""
    image = np.roll(_background(), index, 1)
    width, height = SIZE
    x, y = (_bounce(SPEED * index, width - SIDE), _bounce(2 * index, height - SIDE))
    image[y : y + SIDE, x : x + SIDE] = _patch()
    return image


def find(image: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] of all patches of which enough is there."""
    # Compression blurs the seams between the squares.
    whole = cv2.morphologyEx(_tinted(image), cv2.MORPH_CLOSE, np.ones((SQUARE - 3, SQUARE - 3), np.uint8))
    _count, _labels, statistics, _centres = cv2.connectedComponentsWithStats(whole, connectivity=8)
    found = statistics[1:][statistics[1:, cv2.CC_STAT_AREA] >= FOUND * SIDE**2]
    x, y, width, height = found[:, :4].astype(np.float32).T
    return np.stack([x - MARGIN, y - MARGIN, x + width + MARGIN, y + height + MARGIN], 1)


def is_clear(image: np.ndarray) -> bool:
    """Whether more of the patch is visible than compression can feign."""
    return int(np.count_nonzero(_as_it_is(image))) > VISIBLE * SIDE**2


def make_clip(path: Path, seconds: float) -> Path:
    """A video of the scene, H.264 as cameras send it: a slice for each picture, a key frame each second."""
    options = {"preset": "veryfast", "tune": "zerolatency", "crf": "16", "x264-params": "sliced-threads=0"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.gop_size = "yuv420p", RATE
        for index in range(round(seconds * RATE)):
            frame = av.VideoFrame.from_ndarray(picture(index), format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def jpeg(image: np.ndarray) -> bytes:
    """A picture as JPEG."""
    return cv2.imencode(".jpg", image)[1].tobytes()


def unpacked(data: bytes) -> np.ndarray:
    """A JPEG as a picture again."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def look(path: Path) -> tuple[int, int]:
    """How many pictures of a video can be decoded, and in how many of them the patch is visible."""
    pictures = clear = 0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            pictures += 1
            clear += is_clear(frame.to_ndarray(format="bgr24"))
    return pictures, clear


def _chessboard(magenta: np.ndarray, green: np.ndarray) -> np.ndarray:
    """Where areas of both colours are side by side, uint8 [H, W], 0 or 255."""
    grain, near = np.ones((GRAIN, GRAIN), np.uint8), np.ones((SQUARE + 3, SQUARE + 3), np.uint8)
    areas = [cv2.morphologyEx(mask, cv2.MORPH_OPEN, grain) for mask in (magenta, green)]
    beside = [cv2.dilate(mask, near) for mask in areas]
    return np.asarray(np.maximum(np.minimum(areas[0], beside[1]), np.minimum(areas[1], beside[0])), np.uint8)


def _as_it_is(image: np.ndarray) -> np.ndarray:
    """The patch in its own colours."""
    low, high = (np.clip(np.array(COLOURS) + change, 0, 255) for change in (-TOLERANCE, TOLERANCE))
    return _chessboard(*(np.asarray(cv2.inRange(image, low[n], high[n])) for n in (0, 1)))


def _tinted(image: np.ndarray) -> np.ndarray:
    """The patch also where it is darker, brighter or tinted: a detector doesn't look at colours."""
    blue, green, red = (image[..., channel].astype(np.int16) for channel in range(3))
    excess = np.minimum(blue, red) - green, green - np.maximum(blue, red)
    return _chessboard(*(np.where(each > TINTED, 255, 0).astype(np.uint8) for each in excess))


@cache
def _background() -> np.ndarray:
    random = np.random.default_rng(3)
    grey = cv2.resize(random.integers(40, 200, (12, 20), np.uint8), SIZE, interpolation=cv2.INTER_CUBIC)
    noisy = grey[..., None].astype(np.int16) + random.integers(-12, 13, (SIZE[1], SIZE[0], 3))
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


@cache
def _patch() -> np.ndarray:
    rows, columns = np.indices((SIDE, SIDE)) // SQUARE
    return np.asarray(np.array(COLOURS, np.uint8)[(rows + columns) % 2])


def _bounce(way: int, room: int) -> int:
    way %= 2 * room
    return min(way, 2 * room - way)
