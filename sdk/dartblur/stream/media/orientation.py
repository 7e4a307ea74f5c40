"""Turns pictures upright and back.

Cameras store pictures as the sensor lies and add a note on how to turn them. Photos carry it as the EXIF orientation,
1 to 8; videos as a display matrix. Here both are the EXIF number. The detector needs upright faces; what is stored
keeps its orientation and its note.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ...frame import Image

UPRIGHT = 1
ROTATION = {1: 0, 2: 0, 3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}
"""Degrees clockwise that an orientation asks for, mirroring aside."""

_BACK = {6: 8, 8: 6}
"""The orientation that undoes another; the rest undo themselves."""

_FROM_MATRIX = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


def swaps_sides(orientation: int) -> bool:
    """Whether width and height change places between the stored and the upright picture."""
    return orientation >= 5


def to_upright(image: Image, orientation: int) -> Image:
    """The stored picture ``[H, W, C]`` turned upright; the same array where nothing is to be done."""
    if orientation == 1:
        return image
    if orientation == 2:
        turned = cv2.flip(image, 1)
    elif orientation == 3:
        turned = cv2.rotate(image, cv2.ROTATE_180)
    elif orientation == 4:
        turned = cv2.flip(image, 0)
    elif orientation == 5:
        turned = cv2.transpose(image)
    elif orientation == 6:
        turned = cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
    elif orientation == 7:
        turned = cv2.rotate(cv2.transpose(image), cv2.ROTATE_180)
    else:
        turned = cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)
    return np.asarray(turned, np.uint8)


def to_stored(image: Image, orientation: int) -> Image:
    """The upright picture turned back as it was stored: undoes `to_upright`."""
    return to_upright(image, _BACK.get(orientation, orientation))


def from_display_matrix(matrix: Sequence[int] | None) -> int:
    """The EXIF orientation of a display matrix (nine numbers, 16.16 fixed point; None is upright).

    A matrix that scales, or turns by other than quarters, counts as the nearest quarter: the detector finds faces that
    lean, but not such that lie. The matrix itself still travels to the output.
    """
    if matrix is None:
        return UPRIGHT
    a, b, c, d = (matrix[i] for i in (0, 1, 3, 4))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        b = c = 0
    else:
        a = d = 0
    return _FROM_MATRIX.get((_sign(a), _sign(b), _sign(c), _sign(d)), UPRIGHT)


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
