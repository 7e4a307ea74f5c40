"""How closely a frame is searched: at what size, and whether also tile by tile.

A detector knows faces of some ten to some hundred pixels of its input. Shrunk to one size, the faces far away in a
large frame fall below that; at the frame's own size those close by rise above it. So a frame that is searched at a
larger size than the model's own is looked at in that one too, and one that is searched in overlapping tiles also as a
whole. What is found is put together before overlapping detections are suppressed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .base import Boxes

SIZES = (640, 896, 1280, 1920, 2560)
"""What ``auto`` chooses from, pixels."""
SMALLEST, LARGEST = 64, 4096
MOST_TILES = 64

OVERLAP = 0.25
"""Of a tile's sides, shared with the next one: a face that large is whole in one of them."""
AT_BORDER = 0.05
"""Of a box's sides: so close to the border of a tile it may be cut off by it."""
TILE_SHRINK = 2
"""How much ``auto`` lets a tile be shrunk."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a user asks for.

    Attributes:
        size: long side that a frame, or each tile of it, is scaled to, pixels; ``auto``: at most the frame's own, as
            large as `budget` allows, and at least the model's; None: the model's.
        tiles: columns and rows; ``auto``: so many that none is shrunk to less than half; None: none.
        budget: seconds that ``auto`` may spend on finding the faces of a frame.

    Raises:
        InputError: a number is out of its range.
    """

    size: int | Literal["auto"] | None = None
    tiles: tuple[int, int] | Literal["auto"] | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, str) and self.size != "auto":
            raise InputError(f"detect size: expected 'auto' or pixels, got {self.size!r}")
        if isinstance(self.size, int) and not SMALLEST <= self.size <= LARGEST:
            raise InputError(f"detect size: expected {SMALLEST} to {LARGEST} pixels, got {self.size}")
        if isinstance(self.tiles, str) and self.tiles != "auto":
            raise InputError(f"tiles: expected 'auto' or columns and rows, got {self.tiles!r}")
        if isinstance(self.tiles, tuple) and not (min(self.tiles) >= 1 and 1 < math.prod(self.tiles) <= MOST_TILES):
            raise InputError(f"tiles: expected 2 to {MOST_TILES} of them, got {self.tiles[0]}x{self.tiles[1]}")
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise InputError(f"detect budget: expected seconds above 0, got {self.budget}")
        if self.budget is not None and self.size != "auto":
            raise InputError("detect budget: is for the detect size 'auto': leave one out, or give the other")

    @classmethod
    def of_text(cls, size: str | None, tiles: str | None, budget: float | None) -> Scan:
        """From a command line: ``auto`` or ``960``; ``auto`` or ``3x2``; seconds."""
        return cls(_size_of(size), _tiles_of(tiles), budget)

    @property
    def plain(self) -> bool:
        """Whether it asks for nothing but the model's own size."""
        return self.size is None and self.tiles is None


class Area(NamedTuple):
    """A part of a frame that the detector looks at.

    Attributes:
        x0, y0, x1, y1: pixels of the frame.
        size: long side that it is scaled to.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    size: int

    def cuts(self, boxes: Boxes, height: int, width: int) -> NDArray[np.bool_]:
        """Which boxes ``[n]`` end where the area does and the frame, of this height and width, does not: there may be
        more of such a face.
        """
        near = AT_BORDER * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        inner = np.array([self.x0 > 0, self.y0 > 0, self.x1 < width, self.y1 < height])
        beyond = np.concatenate([boxes[:, :2] - self[:2], np.array(self[2:4]) - boxes[:, 2:]], 1)
        cut: NDArray[np.bool_] = ((beyond <= near) & inner).any(1)
        return cut


def areas_of(height: int, width: int, size: int, tiles: tuple[int, int] | None, own: int) -> list[Area]:
    """Where the detector looks: the whole frame first, then its tiles, row by row.

    Args:
        height, width: of the frame, pixels.
        size: long side that the frame, and each tile, is scaled to.
        tiles: columns and rows.
        own: the model's long side.
    """
    areas = [Area(0, 0, width, height, size)]
    if size > own:  # faces close by are too large for it there
        areas.append(Area(0, 0, width, height, own))
    if tiles is not None:
        columns, rows = (list(_spans(side, count)) for side, count in zip((width, height), tiles, strict=True))
        # Enlarged, a tile shows no more, and much that looks like a face.
        areas += [Area(x0, y0, x1, y1, min(size, max(x1 - x0, y1 - y0))) for y0, y1 in rows for x0, x1 in columns]
    return areas


def tiles_for(height: int, width: int, size: int) -> tuple[int, int] | None:
    """Columns and rows of tiles of which none is shrunk to less than half; None where the whole frame isn't either."""
    columns, rows = (_count(side, TILE_SHRINK * size) for side in (width, height))
    return None if columns * rows == 1 else (columns, rows)


def size_for(height: int, width: int, own: int, seconds: float, budget: float) -> int:
    """The largest of `SIZES` that the budget allows, not above what the frame fills, not below the model's own.

    Args:
        height, width: of the frame, pixels.
        own: the model's long side.
        seconds: that the detector takes for a square of its own size; it takes as long as it has pixels.
        budget: seconds.
    """
    useful = next((size for size in SIZES if size >= max(height, width)), SIZES[-1])
    seconds *= min(height, width) / max(height, width)
    # The look at the model's own size comes on top of a larger one.
    affordable = [size for size in SIZES if ((size / own) ** 2 + (size > own)) * seconds <= budget and size <= useful]
    return max([own, *affordable])


def _spans(side: int, count: int) -> Iterator[tuple[int, int]]:
    """Where so many tiles that overlap begin and end."""
    length = min(side, math.ceil(side / (count - (count - 1) * OVERLAP)))
    for number in range(count):
        start = round(number * (side - length) / max(1, count - 1))
        yield start, start + length


def _count(side: int, most: int) -> int:
    """How many tiles of at most this length cover a side."""
    return 1 if side <= most else math.ceil((side - OVERLAP * most) / (most * (1 - OVERLAP)))


def _size_of(text: str | None) -> int | Literal["auto"] | None:
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    if not text.isdecimal():
        raise InputError(f"detect size: expected 'auto' or pixels such as 960, got {text!r}")
    return int(text)


def _tiles_of(text: str | None) -> tuple[int, int] | Literal["auto"] | None:
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    columns, by, rows = text.partition("x")
    if not (by and columns.isdecimal() and rows.isdecimal()):
        raise InputError(f"tiles: expected 'auto' or columns x rows such as 3x2, got {text!r}")
    return int(columns), int(rows)
