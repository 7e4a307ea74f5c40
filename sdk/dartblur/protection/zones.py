"""Zones: areas of the picture that are always covered, and areas whose faces are left clear."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

_FORM = "x0,y0,x1,y1 in pixels or percent, such as 0,0,320,240 or 10%,0,50%,100%"
_EDGE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Zone:
    """A rectangle of the picture, as `parse_zone` reads it.

    Attributes:
        edges: left, top, right, bottom: pixels from 0, or percent of the picture's side, 0..100.
        percent: which of them are percent.

    Raises:
        InputError: an edge is out of its range, or right is not beyond left or bottom not beyond top.
    """

    edges: tuple[float, float, float, float]
    percent: tuple[bool, bool, bool, bool] = (False, False, False, False)

    def __post_init__(self) -> None:
        if len(self.edges) != 4 or len(self.percent) != 4:
            raise InputError(f"zone: expected four edges, got {len(self.edges)} and {len(self.percent)} units")
        for edge, percent in zip(self.edges, self.percent, strict=True):
            if not 0 <= edge < math.inf:
                raise InputError(f"zone {self}: expected edges from 0, got {edge:g}")
            if percent and edge > 100:
                raise InputError(f"zone {self}: expected at most 100%, got {edge:g}%")
        for low, high in ((0, 2), (1, 3)):
            # Of different units only the picture's size can tell.
            if self.percent[low] == self.percent[high] and self.edges[low] >= self.edges[high]:
                raise InputError(f"zone {self}: expected x0 < x1 and y0 < y1")

    def __str__(self) -> str:
        """The text that `parse_zone` reads."""
        return ",".join(
            np.format_float_positional(edge, trim="-") + ("%" if percent else "")
            for edge, percent in zip(self.edges, self.percent, strict=True)
        )

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The rectangle in a picture of this size: xyxy, pixels; nothing is clipped."""
        x0, y0, x1, y1 = (
            edge / 100 * side if percent else edge
            for edge, percent, side in zip(self.edges, self.percent, (width, height, width, height), strict=True)
        )
        return x0, y0, x1, y1


def parse_zone(text: str) -> Zone:
    """The zone that a text ``x0,y0,x1,y1`` means; each edge is in pixels, or in percent with a ``%``.

    Raises:
        InputError: the text has another form, or the zone has no area or lies outside of any picture.
    """
    parts = [_EDGE.fullmatch(part.strip()) for part in text.split(",")] if isinstance(text, str) else []
    edges = [(float(part[1]), bool(part[2])) for part in parts if part]
    if len(parts) != 4 or len(edges) != 4:
        raise InputError(f"zone {_short(text)}: expected {_FORM}")
    (x0, y0, x1, y1), percent = zip(*edges, strict=True)
    try:
        return Zone((x0, y0, x1, y1), percent)
    except InputError as error:
        raise InputError(f"zone {_short(text)}: {str(error).partition(': ')[2]}") from None


class Zones:
    """The zones of one stream.

    Args:
        always: covered in every frame, whatever is there.
        never: a face that lies wholly in one of them is left clear, unless an always-zone covers it.

    Raises:
        InputError: a text is no zone.
    """

    def __init__(self, always: Iterable[str | Zone] = (), never: Iterable[str | Zone] = ()) -> None:
        self.always, self.never = _zones("always", always), _zones("never", never)

    def __repr__(self) -> str:
        """As it is made."""
        return f"Zones(always={[str(zone) for zone in self.always]}, never={[str(zone) for zone in self.never]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Zones) and (self.always, self.never) == (other.always, other.never)

    def __hash__(self) -> int:
        return hash((self.always, self.never))

    def check(self, width: int, height: int) -> None:
        """Refuses zones that don't fit a picture of this size.

        Raises:
            InputError: a zone lies outside of it, if only partly, or has no area in it.
        """
        for zone in (*self.always, *self.never):
            x0, y0, x1, y1 = zone.box(width, height)
            if x1 > width or y1 > height:
                raise InputError(f"zone {zone}: expected it inside the picture, which is {width}x{height} pixels")
            if x0 >= x1 or y0 >= y1:
                raise InputError(f"zone {zone}: expected x0 < x1 and y0 < y1 in a picture of {width}x{height} pixels")

    def boxes(self, width: int, height: int) -> NDArray[np.float32]:
        """The always-zones: float32 ``[n, 4]`` xyxy, outward to whole pixels."""
        boxes = np.array([zone.box(width, height) for zone in self.always], float).reshape(-1, 4)
        return np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], 1).astype(np.float32)

    def allowed(self, boxes: NDArray[np.float32], width: int, height: int) -> NDArray[np.bool_]:
        """Which faces are to be covered: all but those that lie wholly in one never-zone, as far as they are in the
        picture.

        Args:
            boxes: float32 ``[n, 4]`` xyxy pixels.
            width, height: of the picture.
        """
        visible = np.clip(boxes.astype(float), 0, [width, height, width, height])
        clear = np.zeros(len(boxes), bool)
        for zone in self.never:
            x0, y0, x1, y1 = zone.box(width, height)
            clear |= (visible[:, :2] >= (x0, y0)).all(1) & (visible[:, 2:] <= (x1, y1)).all(1)
        # What has no area in the picture, or is not a number, is no face that anyone wants to see.
        covered: NDArray[np.bool_] = ~(clear & (visible[:, :2] < visible[:, 2:]).all(1))
        return covered


def _zones(name: str, given: Iterable[str | Zone]) -> tuple[Zone, ...]:
    if isinstance(given, str):
        raise InputError(f"{name}: expected a list of zones, got the text {_short(given)}: put it into a list")
    return tuple(zone if isinstance(zone, Zone) else parse_zone(zone) for zone in given)


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
