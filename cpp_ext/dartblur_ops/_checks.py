"""Validation at the Python door: every message names the argument, what was expected and what came."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_SIDE = 65536
"""Longest side of a frame or of a letterbox, in pixels."""

MAX_PATCH = 4096
"""Longest side of a face patch, in pixels."""

MAX_CONTEXT = 100.0
"""Largest growth of a box."""

MIN_WEIGHT, MAX_WEIGHT = 0.01, 0.4
"""Smallest and largest share of red or of blue in brightness: beyond, 16 bits would not hold the sums."""


class OpsError(ValueError):
    """An argument has the wrong type, shape or range; the message names argument, expected and actual."""


def describe(value: object) -> str:
    """Name a value the way the messages do: dtype and shape of an array, else the value itself."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def refuse(name: str, expected: str, actual: object) -> OpsError:
    """Build the error for an argument."""
    return OpsError(f"{name}: expected {expected}, got {describe(actual)}")


def check_frame(frame: object, *, writeable: bool = False, name: str = "frame") -> None:
    """Refuse what is not a BGR frame whose pixels lie side by side in each row."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise refuse(name, "uint8 [H, W, 3]", frame)
    if not (1 <= frame.shape[0] <= MAX_SIDE and 1 <= frame.shape[1] <= MAX_SIDE):
        raise refuse(name, f"sides of 1 to {MAX_SIDE} pixels", frame)
    if frame.strides[2] != 1 or (frame.shape[1] > 1 and frame.strides[1] != 3):
        raise OpsError(f"{name}: expected rows of contiguous pixels (strides [*, 3, 1]), got {list(frame.strides)}")
    if writeable and not frame.flags.writeable:
        raise OpsError(f"{name}: expected a writeable array, got a read-only {describe(frame)}")


def check_planes(y: object, u: object, v: object, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Refuse what is not 4:2:0 of one size (height, width), and return the size.

    With a size the planes are to be written to.
    """
    writeable = size is not None
    luma = _plane("y", y, size, writeable)
    if not 1 <= min(luma.shape) <= max(luma.shape) <= MAX_SIDE:
        raise refuse("y", f"sides of 1 to {MAX_SIDE} pixels", y)
    height, width = luma.shape
    half = (height + 1) // 2, (width + 1) // 2
    first, second = _plane("u", u, half, writeable), _plane("v", v, half, writeable)
    if width > 1 and luma.strides[1] != 1:
        raise OpsError(f"y: expected rows of contiguous bytes (strides [*, 1]), got {list(luma.strides)}")
    steps = first.strides[1], second.strides[1]
    if half[1] > 1 and steps not in ((1, 1), (2, 2)):
        raise OpsError(f"u, v: expected bytes side by side, or every second one of both, got steps of {list(steps)}")
    return height, width


def _plane(name: str, plane: object, size: tuple[int, int] | None, writeable: bool) -> NDArray[np.uint8]:
    expected = "uint8 [H, W]" if size is None else f"uint8 {list(size)}"
    if not isinstance(plane, np.ndarray) or plane.dtype != np.uint8 or plane.ndim != 2:
        raise refuse(name, expected, plane)
    if size is not None and plane.shape != size:
        raise refuse(name, expected, plane)
    if writeable and not plane.flags.writeable:
        raise OpsError(f"{name}: expected a writeable array, got a read-only {describe(plane)}")
    return plane


def as_weights(weights: Sequence[SupportsFloat]) -> tuple[float, float]:
    """Return the shares of red and blue in brightness."""
    try:
        red, blue = weights
    except (TypeError, ValueError) as error:
        raise refuse("weights", "two numbers, the shares of red and blue", weights) from error
    return as_number("weights", red, MIN_WEIGHT, MAX_WEIGHT), as_number("weights", blue, MIN_WEIGHT, MAX_WEIGHT)


def as_boxes(boxes: ArrayLike) -> NDArray[np.float32]:
    """Turn boxes into contiguous float32 [n, 4]; no boxes may come as an empty list."""
    try:
        array = np.asarray(boxes)
    except ValueError as error:
        raise refuse("boxes", "float [n, 4]", boxes) from error
    if array.shape == (0,):
        return np.empty((0, 4), np.float32)
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != 4:
        raise refuse("boxes", "float [n, 4]", array)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise OpsError(f"boxes: expected finite coordinates, got {array[row].tolist()} in row {row}")
    with np.errstate(over="ignore"):  # beyond float32 means beyond every frame, which is well defined
        return np.ascontiguousarray(array, np.float32)


def check_patches(patches: object, count: int) -> None:
    """Refuse what is not one square patch for each of `count` boxes."""
    good = isinstance(patches, np.ndarray) and patches.dtype == np.float32 and patches.ndim == 4
    if not good or not isinstance(patches, np.ndarray) or patches.shape[:2] != (count, 3):
        raise refuse("patches", f"float32 [{count}, 3, P, P] for {count} boxes", patches)
    if patches.shape[2] != patches.shape[3] or not 1 <= patches.shape[3] <= MAX_PATCH:
        raise refuse("patches", f"square patches with sides of 1 to {MAX_PATCH}", patches)


def as_integer(name: str, value: SupportsIndex, low: int, high: int) -> int:
    """Return an integer in low..high."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise refuse(name, f"an integer in {low}..{high}", value) from error
    if not low <= number <= high:
        raise refuse(name, f"an integer in {low}..{high}", number)
    return number


def as_integers(name: str, values: Sequence[SupportsIndex], count: int, low: int, high: int) -> tuple[int, ...]:
    """Return `count` integers in low..high."""
    try:
        numbers = tuple(as_integer(name, value, low, high) for value in values)
    except TypeError as error:
        raise refuse(name, f"{count} integers in {low}..{high}", values) from error
    if len(numbers) != count:
        raise refuse(name, f"{count} integers in {low}..{high}", values)
    return numbers


def as_number(name: str, value: SupportsFloat, low: float, high: float) -> float:
    """Return a float in low..high."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise refuse(name, f"a number in {low:g}..{high:g}", value) from error
    if math.isnan(number) or not low <= number <= high:
        raise refuse(name, f"a number in {low:g}..{high:g}", number)
    return number


def buffer(out: NDArray[np.float32] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the caller's buffer after a check, or a new one."""
    if out is None:
        return np.empty(shape, np.float32)
    expected = f"a writeable, contiguous float32 {list(shape)}"
    if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape:
        raise refuse("out", expected, out)
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise OpsError(f"out: expected {expected}, got a strided or read-only {describe(out)}")
    return out
