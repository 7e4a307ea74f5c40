"""How much of the fine detail of a face is left where it was covered.

Two measures, for each fails where the other sees: `unchanged` finds pixels that were not overwritten, also where these
are few (a cover that is beside its box); `alike` finds a blur that is too weak, which changes every pixel. Limits and
error rates come from ``benchmarks/self_check.py``.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from ..frame import Image

MOST_UNCHANGED = 0.05
"""Share of the strong detail: proper covers have reached 0.034."""

MOST_ALIKE = 0.75
"""Correlation of the detail: of proper covers 99 % stay below 0.62, and the larger the box the more so."""

SMALLEST_SIDE = 12
"""Pixels. A smaller box holds nothing that could be measured."""

SMALLEST_ALIKE = 24
"""Pixels. In smaller boxes a proper blur is hardly wider than the detail, and both correlate."""

_SAME = 1
"""Grey levels by which an overwritten pixel may differ from itself and still be the same."""

_STRONG = 3.0
"""Grey levels of detail that count for `unchanged`: a blur leaves weaker noise nearly as it was."""

_FEW = 0.02
"""Share of the pixels: where fewer have strong detail there is nothing to hide."""

_FAINT = 1.0
"""Grey levels: detail below (a wall, the night) is none for `alike`."""

_SIDE = 32
"""Pixels, of the side that larger boxes are shrunk to for `alike`: detail and blur both grow with the face."""

_FINE = 0.04
"""Detail is what is finer than this part of the side, as sigma; a proper blur's sigma is 0.075 of it."""


def is_hidden(clear: Image, covered: Image) -> bool:
    """Whether what shows in a box can't be seen any more.

    Args:
        clear, covered: uint8 ``[h, w, 3]``, the pixels of the box before and after.
    """
    side = min(clear.shape[:2])
    if side < SMALLEST_SIDE:
        return True
    if unchanged(clear, covered) > MOST_UNCHANGED:
        return False
    return side < SMALLEST_ALIKE or alike(clear, covered) <= MOST_ALIKE


def unchanged(clear: Image, covered: Image) -> float:
    """Share of the strong detail of a box, 0..1, that is the same after as before."""
    before, after = (_detail(_grey(image), 1.0) for image in (clear, covered))
    strong = np.abs(before) >= _STRONG
    if strong.mean() < _FEW:
        return 0.0
    same = strong & (np.abs(clear.astype(np.int16) - covered).max(2) <= _SAME)
    # One colour may be that of some pixels by chance, but it has no detail.
    same &= np.abs(after - before) <= np.abs(before) / 2
    energy = before**2
    return float(energy[same].sum() / energy[strong].sum())


def alike(clear: Image, covered: Image) -> float:
    """Correlation, -1..1, of the detail of a box before and after, at scales finer than a proper blur leaves."""
    first, second = (_inner(_shrunk_detail(image)) for image in (clear, covered))
    energy = float((first**2).sum())
    if energy < first.size * _FAINT**2:
        return 0.0
    left = float((second**2).sum())
    return float((first * second).sum()) / max(1e-3, math.sqrt(energy * left))


def _shrunk_detail(image: Image) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    scale = _SIDE / min(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    grey = _grey(image)
    return _detail(grey, max(0.6, _FINE * min(grey.shape)))


def _inner(detail: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without the rim, where a filter sees pixels that aren't there."""
    rim = max(1, round(0.1 * min(detail.shape)))
    return detail[rim:-rim, rim:-rim]


def _grey(image: Image) -> NDArray[np.float32]:
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY).astype(np.float32)


def _detail(grey: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return grey - cv2.GaussianBlur(grey, (0, 0), sigma, borderType=cv2.BORDER_REFLECT).astype(np.float32, copy=False)
