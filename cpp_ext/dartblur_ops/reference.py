"""Every operation in plain NumPy: slow, and meant to be read.

Conventions and arguments are those of `dartblur_ops`, whose results agree; arguments are not validated here.
Fractional arithmetic is float32 wherever a pixel's fate hangs on it, so that both decide alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

F32 = np.float32
Floats = NDArray[np.float32]
Frame = NDArray[np.uint8]
Taps = tuple[NDArray[np.int64], NDArray[np.int64], Floats]

FAR = 2**20
SMALL_KERNELS = {3: (64,), 5: (16, 64), 7: (8, 28, 56), 9: (4, 13, 30, 51)}
"""Weights in 1/256 up to the centre that cv2.GaussianBlur keeps for its smallest kernels instead of computing them."""


def letterbox(frame: Frame, size: tuple[int, int]) -> tuple[Floats, float]:
    """Fit a frame into a network's input."""
    (height, width), (target_height, target_width) = frame.shape[:2], size
    scale = min(target_height / height, target_width / width)
    rows = min(max(round(height * scale), 1), target_height)
    columns = min(max(round(width * scale), 1), target_width)
    pool = max(1, math.floor(1 / scale + 1e-6))
    pooled = _mean_cells(frame, pool)
    y0, y1, down = _taps((np.arange(rows) + 0.5) / (scale * pool) - 0.5, pooled.shape[0] - 1)
    x0, x1, across = _taps((np.arange(columns) + 0.5) / (scale * pool) - 0.5, pooled.shape[1] - 1)
    between = _lerp(pooled[y0], pooled[y1], down[:, None, None])
    out = np.zeros((3, target_height, target_width), F32)
    out[:, :rows, :columns] = _lerp(between[:, x0], between[:, x1], across[:, None]).transpose(2, 0, 1)
    return out, scale


def patch_margin(patch_size: int, context: float = 1.5) -> int:
    """Return how many pixels of clear context surround the face in a patch."""
    return round(patch_size * (1 - 1 / context) / 2)


def patch_mask(patch_size: int, context: float = 1.5) -> Floats:
    """Return where the face lies in a patch."""
    margin = patch_margin(patch_size, context)
    return np.pad(
        np.ones((1, patch_size - 2 * margin, patch_size - 2 * margin), F32), ((0, 0), *[(margin, margin)] * 2)
    )


def crop_faces(frame: Frame, boxes: ArrayLike, patch_size: int = 96, context: float = 1.5, blur: bool = True) -> Floats:
    """Cut a square patch with some context around each face, the face itself blurred."""
    places = (np.arange(patch_size, dtype=F32) + F32(0.5)) / F32(patch_size)
    patches = [np.empty((0, 3, patch_size, patch_size), F32)]
    for x_axis, y_axis in _axes(boxes, context):
        y0, y1, down = _taps(y_axis.origin + places * y_axis.extent - F32(0.5), frame.shape[0] - 1)
        x0, x1, across = _taps(x_axis.origin + places * x_axis.extent - F32(0.5), frame.shape[1] - 1)
        pixels = frame.astype(F32)
        top = _lerp(pixels[y0][:, x0], pixels[y0][:, x1], across[:, None])
        bottom = _lerp(pixels[y1][:, x0], pixels[y1][:, x1], across[:, None])
        patch = (_lerp(top, bottom, down[:, None, None]) / F32(255)).transpose(2, 0, 1)
        patches.append((_blur_square(patch, patch_margin(patch_size, context)) if blur else patch)[None])
    return np.concatenate(patches)


def composite(
    frame: Frame,
    patches: Floats,
    boxes: ArrayLike,
    context: float = 1.5,
    shape: str = "rectangle",
    feather: float = 0.0,
) -> None:
    """Paste the face square of each patch back over its box, in place."""
    side = patches.shape[3]
    margin = patch_margin(side, context)
    inner = slice(margin, side - margin)
    squares = np.clip(np.nan_to_num(patches[:, :, inner, inner], nan=0.0), 0, 1) * F32(255)
    for square, (x_axis, y_axis), rect in zip(squares, _axes(boxes, context), _covered(boxes, frame), strict=True):
        x, y = (np.arange(span.start, span.stop, dtype=F32) + F32(0.5) for span in (rect[1], rect[0]))
        with np.errstate(over="ignore"):  # the box may be thinner than any float32 step of the frame
            x0, x1, across = _taps(x_axis.to_patch(x, side) - F32(margin), side - 2 * margin - 1)
            y0, y1, down = _taps(y_axis.to_patch(y, side) - F32(margin), side - 2 * margin - 1)
            opacity = _opacity(x_axis.offset(x)[None, :], y_axis.offset(y)[:, None], shape, F32(feather))[..., None]
        rows = _lerp(square[:, y0], square[:, y1], down[:, None])
        grey = _lerp(rows[..., x0], rows[..., x1], across).transpose(1, 2, 0)
        old = frame[rect].astype(F32)
        frame[rect] = np.where(
            opacity > 0, _to_bytes(np.where(opacity < 1, _lerp(old, grey, opacity), grey)), frame[rect]
        )


def gaussian(frame: Frame, boxes: ArrayLike) -> None:
    """Blur each box in place, alone."""
    for rect in _covered(boxes, frame):
        part = frame[rect].astype(F32)
        if part.size:
            across, down = (_byte_kernel((side // 2) | 1) for side in (part.shape[1], part.shape[0]))
            part = _convolve(part, across, axis=1, border="reflect")
            frame[rect] = _to_bytes(_convolve(part, down, axis=0, border="reflect"))


def pixelate(frame: Frame, boxes: ArrayLike, blocks: int = 8) -> None:
    """Replace each box by blocks of its mean colours, in place."""
    for rect in _covered(boxes, frame):
        part = frame[rect]
        height, width = part.shape[:2]
        for i in range(blocks):
            for j in range(blocks):
                rows = slice(i * height // blocks, (i + 1) * height // blocks)
                columns = slice(j * width // blocks, (j + 1) * width // blocks)
                cell = part[rows, columns]
                if cell.size:
                    cell[:] = np.floor(cell.mean(axis=(0, 1), dtype=np.float64) + 0.5)


def solid(frame: Frame, boxes: ArrayLike, color: Iterable[int] = (0, 0, 0)) -> None:
    """Fill each box with one colour, in place."""
    for rect in _covered(boxes, frame):
        frame[rect] = tuple(color)


def yuv_to_bgr(
    y: Frame, u: Frame, v: Frame, weights: tuple[float, float], full_range: bool = False
) -> NDArray[np.float64]:
    """Turn a picture in 4:2:0 into a frame: exact, neither rounded nor clipped."""
    red, blue = weights
    luma_range, chroma_range, black = (255, 255, 0) if full_range else (219, 224, 16)
    grey = (y.astype(np.float64) - black) * 255 / luma_range
    to_blue, to_red = (_doubled(plane, y.shape) * 255 / chroma_range for plane in (u, v))
    b, r = grey + 2 * (1 - blue) * to_blue, grey + 2 * (1 - red) * to_red
    return np.stack([b, (grey - blue * b - red * r) / (1 - red - blue), r], axis=2)


def bgr_to_yuv(
    frame: Frame, weights: tuple[float, float], full_range: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Turn a frame into a picture in 4:2:0: exact, neither rounded nor clipped."""
    red, blue = weights
    luma_range, chroma_range, black = (255, 255, 0) if full_range else (219, 224, 16)
    shares = np.array([blue, 1 - red - blue, red])
    odd = [(0, side % 2) for side in frame.shape[:2]]
    even = np.pad(frame, [odd[0], (1, odd[1][1]), (0, 0)], mode="edge").astype(np.float64)
    rows = (even[::2] + even[1::2]) / 2
    cells = (rows[:, :-1:2] + 2 * rows[:, 1::2] + rows[:, 2::2]) / 4
    chroma = (cells - (cells @ shares)[..., None]) * chroma_range / 255
    u, v = chroma[..., 0] / (2 * (1 - blue)) + 128, chroma[..., 2] / (2 * (1 - red)) + 128
    return frame @ shares * luma_range / 255 + black, u, v


class _Axis:
    """One axis of a box: its centre, half its size, and the crop around it."""

    def __init__(self, low: np.float32, high: np.float32, context: float) -> None:
        self.centre, self.half = (low + high) * F32(0.5), (high - low) * F32(0.5)
        self.origin, self.extent = self.centre - self.half * F32(context), self.half * F32(context) * F32(2)

    def to_patch(self, centres: Floats, side: int) -> Floats:
        return np.asarray((centres - self.origin) / self.extent * F32(side) - F32(0.5), F32)

    def offset(self, centres: Floats) -> Floats:
        """Distance from the box's centre in half sizes of the box."""
        return np.asarray((centres - self.centre) / self.half, F32)


def _bounded(boxes: ArrayLike) -> Floats:
    return np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), -FAR, FAR).astype(F32)


def _axes(boxes: ArrayLike, context: float) -> Iterator[tuple[_Axis, _Axis]]:
    for x0, y0, x1, y1 in _bounded(boxes):
        yield _Axis(x0, x1, context), _Axis(y0, y1, context)


def _covered(boxes: ArrayLike, frame: Frame) -> Iterator[tuple[slice, slice]]:
    """Rows and columns each box covers, rounded outward and clipped to the frame."""
    height, width = frame.shape[:2]
    for x0, y0, x1, y1 in _bounded(boxes).tolist():
        if x0 < x1 and y0 < y1:
            rows = slice(*np.clip([math.floor(y0), math.ceil(y1)], 0, height))
            yield rows, slice(*np.clip([math.floor(x0), math.ceil(x1)], 0, width))
        else:
            yield slice(0, 0), slice(0, 0)


def _mean_cells(frame: Frame, pool: int) -> Floats:
    """Mean over cells of pool x pool pixels; at the far edges over the pixels that exist."""
    rows, columns = np.arange(0, frame.shape[0], pool), np.arange(0, frame.shape[1], pool)
    sums = np.add.reduceat(np.add.reduceat(frame.astype(np.int64), rows, axis=0), columns, axis=1)
    counts = np.outer(np.minimum(pool, frame.shape[0] - rows), np.minimum(pool, frame.shape[1] - columns))
    return (sums / counts[..., None]).astype(F32)


def _taps(coordinates: NDArray[np.floating], last: int) -> Taps:
    """Two neighbouring samples and the weight of the second; beyond [0, last] the edge repeats."""
    inside = np.clip(coordinates, 0, last)
    first = inside.astype(np.int64)
    return first, np.minimum(first + 1, last), (inside - first).astype(F32)


def _lerp(a: Floats, b: Floats, weight: Floats) -> Floats:
    return a + weight * (b - a)


def _to_bytes(grey: Floats) -> Frame:
    """Nearest grey level, halves up."""
    return np.asarray(np.clip(np.floor(grey + F32(0.5)), 0, 255), np.uint8)


def _opacity(dx: Floats, dy: Floats, shape: str, feather: np.float32) -> Floats:
    """Share of the patch in each pixel."""
    square = dx * dx + dy * dy
    farther = np.maximum(np.abs(dx), np.abs(dy))
    depth = F32(1) - (np.sqrt(square) if shape == "ellipse" else farther)
    share = np.clip(depth / feather, 0, 1) if feather > 0 else np.ones_like(square)
    return np.where(square <= 1, share, F32(0)) if shape == "ellipse" else share


def _doubled(plane: Frame, size: tuple[int, int]) -> NDArray[np.float64]:
    """Colour differences of single pixels, about 0."""
    offsets = plane.astype(np.float64) - 128
    rows, columns = (np.arange(side) for side in size)
    beside = np.clip(rows // 2 + np.where(rows % 2, 1, -1), 0, plane.shape[0] - 1)
    between = 0.75 * offsets[rows // 2] + 0.25 * offsets[beside]
    following = np.minimum((columns + 1) // 2, plane.shape[1] - 1)
    return np.asarray((between[:, columns // 2] + between[:, following]) / 2)


def _weights(size: int) -> NDArray[np.float64]:
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    weights = np.exp(-0.5 * ((np.arange(size) - (size - 1) * 0.5) / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float64)


def _byte_kernel(size: int) -> Floats:
    """Weights in whole 256ths, as cv2.GaussianBlur has them for bytes: each passes its rounding error inward."""
    half: list[int] = []
    error = 0.0
    for exact in SMALL_KERNELS.get(size, (256 * _weights(size)[: size // 2]).tolist()):
        half.append(round(exact + error))
        error += exact - half[-1]
    return np.asarray(np.array([*half, 256 - 2 * sum(half), *half[::-1]]) / 256, F32)


def _convolve(samples: Floats, kernel: Floats, axis: int, border: str) -> Floats:
    reach = len(kernel) // 2
    pads = [(reach, reach) if a == axis else (0, 0) for a in range(samples.ndim)]
    padded = np.pad(samples, pads, mode="reflect" if border == "reflect" else "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis)
    return np.asarray(windows @ kernel, F32)


def _blur_square(patch: Floats, margin: int) -> Floats:
    side = patch.shape[2]
    inner = slice(margin, side - margin)
    kernel = _weights(((side - 2 * margin) // 2) | 1).astype(F32)
    blurred = _convolve(_convolve(patch, kernel, axis=2, border="edge"), kernel, axis=1, border="edge")
    out = np.array(patch)
    out[:, inner, inner] = blurred[:, inner, inner]
    return out
