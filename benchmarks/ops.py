"""Times every native operation beside OpenCV (one thread) or NumPy doing the same.

Run from the repository root, on an idle machine, with the package installed:

    python benchmarks/ops.py

Each line is the median of interleaved calls in this one run; a ratio above 1 means the native operation is faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np

import dartblur_ops as ops

SIZES = {"720p": (720, 1280), "1080p": (1080, 1920)}
INPUT = (384, 640)
FACES = np.array([[100 + 150 * i, 200, 190 + 150 * i, 310] for i in range(5)], np.float32)
ROUNDS = 60

Call = Callable[[], object]


def medians(calls: tuple[Call, Call]) -> list[float]:
    """Milliseconds of each call; taken in turn, so that whatever else the machine does hits both alike."""
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for call, spent in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            spent.append(1000 * (time.perf_counter() - start))
    return [statistics.median(spent) for spent in times]


def parts(frame: np.ndarray) -> list[np.ndarray]:
    return [frame[y0:y1, x0:x1] for x0, y0, x1, y1 in FACES.astype(int)]


def opencv_letterbox(frame: np.ndarray, out: np.ndarray) -> None:
    scale = min(INPUT[0] / frame.shape[0], INPUT[1] / frame.shape[1])
    height, width = round(frame.shape[0] * scale), round(frame.shape[1] * scale)
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    out[:, :height, :width] = small.transpose(2, 0, 1)
    out[:, height:] = 0


def opencv_crops(frame: np.ndarray) -> np.ndarray:
    patches = np.empty((len(FACES), 3, 96, 96), np.float32)
    for (x0, y0, x1, y1), patch in zip(FACES, patches, strict=True):
        grown = (1.5 * (x1 - x0), 1.5 * (y1 - y0))
        transform = np.array(
            [[grown[0] / 96, 0, (x0 + x1 - grown[0]) / 2], [0, grown[1] / 96, (y0 + y1 - grown[1]) / 2]]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(frame, transform, (96, 96), flags=flags, borderMode=cv2.BORDER_REPLICATE) / np.float32(
            255
        )
        crop[16:80, 16:80] = cv2.GaussianBlur(crop, (33, 33), 0, borderType=cv2.BORDER_REPLICATE)[16:80, 16:80]
        patch[:] = crop.transpose(2, 0, 1)
    return patches


def opencv_composite(frame: np.ndarray, patches: np.ndarray) -> None:
    for part, patch in zip(parts(frame), patches, strict=True):
        square = np.ascontiguousarray(patch[:, 16:80, 16:80].transpose(1, 2, 0))
        part[:] = cv2.resize(np.clip(square, 0, 1) * 255 + 0.5, part.shape[1::-1])


def opencv_gaussian(frame: np.ndarray) -> None:
    for part in parts(frame):
        height, width = part.shape[:2]
        part[:] = cv2.GaussianBlur(part.copy(), ((width // 2) | 1, (height // 2) | 1), 0)


def opencv_pixelate(frame: np.ndarray) -> None:
    for part in parts(frame):
        blocks = cv2.resize(part, (8, 8), interpolation=cv2.INTER_AREA)
        part[:] = cv2.resize(blocks, part.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def numpy_solid(frame: np.ndarray) -> None:
    for part in parts(frame):
        part[:] = (0, 0, 0)


def rivals(frame: np.ndarray) -> dict[str, tuple[Call, Call]]:
    out = np.empty((3, *INPUT), np.float32)
    patches = ops.crop_faces(frame, FACES)
    return {
        "letterbox 640x384": (lambda: ops.letterbox(frame, INPUT, out), lambda: opencv_letterbox(frame, out)),
        "crop_faces x5": (lambda: ops.crop_faces(frame, FACES), lambda: opencv_crops(frame)),
        "composite x5": (lambda: ops.composite(frame, patches, FACES), lambda: opencv_composite(frame, patches)),
        "gaussian x5": (lambda: ops.gaussian(frame, FACES), lambda: opencv_gaussian(frame)),
        "pixelate x5": (lambda: ops.pixelate(frame, FACES), lambda: opencv_pixelate(frame)),
        "solid x5": (lambda: ops.solid(frame, FACES), lambda: numpy_solid(frame)),
    }


def main() -> None:
    cv2.setNumThreads(1)
    print(f"{'frame':6} {'operation':18} {'native ms':>10} {'rival ms':>10} {'ratio':>6}")
    for name, shape in SIZES.items():
        frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        for operation, calls in rivals(frame).items():
            native, rival = medians(calls)
            print(f"{name:6} {operation:18} {native:10.3f} {rival:10.3f} {rival / native:6.1f}")


if __name__ == "__main__":
    main()
