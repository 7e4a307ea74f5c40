"""Image operations for hiding faces, compiled for the processor, and the way from video to frames and back.

Conventions, for every operation:

* A frame is uint8 [H, W, 3] in BGR order, sides of 1 to 65536 pixels. Its rows must hold their pixels side by side, but
  may lie apart: a view such as ``picture[10:90, 20:200]`` works in place and without a copy.
* Boxes are [n, 4] floats (or integers): x0, y0, x1, y1 in pixels of the frame. Pixel (row i, column j) covers
  [j, j + 1) x [i, i + 1), so its centre is (j + 0.5, i + 0.5). Boxes may lie partly or wholly outside the frame; one
  with x1 <= x0 or y1 <= y0 is empty; an empty list means no boxes. Coordinates beyond +-2**20 count as +-2**20.
* The pixels a box covers are rounded outward: columns floor(x0) to ceil(x1), rows floor(y0) to ceil(y1), clipped to
  the frame. An operation changes no other pixel.
* Boxes are worked off in order, so a later box acts on what an earlier one left.
* Wrong types, shapes and ranges raise `OpsError`, a `ValueError`, before anything is changed. So does a box with a
  coordinate that is not finite: to skip it would leave a face clear.

The loops run without Python's global lock; two threads may work at once as long as they do not share a frame.
`dartblur_ops.reference` says the same in plain NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dartblur_ops import _native
from dartblur_ops._checks import (
    MAX_CONTEXT,
    MAX_PATCH,
    MAX_SIDE,
    OpsError,
    as_boxes,
    as_integer,
    as_integers,
    as_number,
    as_weights,
    buffer,
    check_frame,
    check_patches,
    check_planes,
    refuse,
)

__all__ = [
    "OpsError",
    "bgr_to_yuv",
    "composite",
    "crop_faces",
    "gaussian",
    "letterbox",
    "patch_margin",
    "patch_mask",
    "pixelate",
    "solid",
    "yuv_to_bgr",
]

Shape = Literal["rectangle", "ellipse"]


def letterbox(
    frame: NDArray[np.uint8],
    size: tuple[SupportsIndex, SupportsIndex],
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Fit a frame into a network's input.

    The frame keeps its aspect and sits in the top-left corner; the rest is 0. Shrinking anti-aliases: a mean over whole
    k x k cells first (k = 1 / scale, rounded down), then bilinear sampling with half-pixel centres and repeated edges.

    Args:
        frame: uint8 [H, W, 3], BGR.
        size: (height, width) of the input in pixels, each 1 to 65536.
        out: A float32 [3, height, width] buffer to write into instead of a new array.

    Returns:
        The input, float32 [3, height, width], planes in B, G, R order with values 0 to 255 (`out` if that was given),
        and the scale: input pixels per frame pixel. Dividing coordinates in the input by it gives frame coordinates.

    Raises:
        OpsError: `frame`, `size` or `out` is not as described.
    """
    check_frame(frame)
    height, width = as_integers("size", size, 2, 1, MAX_SIDE)
    planes = buffer(out, (3, height, width))
    return planes, _native.letterbox(frame, planes)


def patch_margin(patch_size: SupportsIndex, context: SupportsFloat = 1.5) -> int:
    """Return how many pixels of clear context surround the face in a patch.

    Args:
        patch_size: Side P of the patch in pixels, 1 to 4096.
        context: How many times larger than the face the patch reaches, 1 to 100.

    Returns:
        The margin m in pixels, round(P * (1 - 1 / context) / 2); the face is the P - 2 * m square in the middle.

    Raises:
        OpsError: An argument is out of range, or no pixel would be left for the face.
    """
    return _layout(patch_size, context)[1]


def patch_mask(patch_size: SupportsIndex, context: SupportsFloat = 1.5) -> NDArray[np.float32]:
    """Return where the face lies in a patch.

    Args:
        patch_size: Side P of the patch in pixels, 1 to 4096.
        context: How many times larger than the face the patch reaches, 1 to 100.

    Returns:
        float32 [1, P, P]: 1 in the face square, 0 in the context around it.

    Raises:
        OpsError: As for `patch_margin`.
    """
    side, margin, _ = _layout(patch_size, context)
    mask = np.zeros((1, side, side), np.float32)
    mask[:, margin : side - margin, margin : side - margin] = 1
    return mask


def crop_faces(
    frame: NDArray[np.uint8],
    boxes: ArrayLike,
    patch_size: SupportsIndex = 96,
    context: SupportsFloat = 1.5,
    blur: bool = True,
) -> NDArray[np.float32]:
    """Cut a square patch with some context around each face, the face itself blurred.

    The box, grown about its centre by `context` in each axis, is resampled to the patch, each axis by itself, by plain
    bilinear sampling with half-pixel centres; beyond the frame its edge repeats. So the face is the same central square
    in every patch, `patch_margin` pixels from the edge. The blur is Gaussian, with a kernel of half the square's side
    (made odd) and OpenCV's sigma for that size; it reads the context too, and at the patch's edge repeats it.

    Args:
        frame: uint8 [H, W, 3], BGR; it stays as it is.
        boxes: [n, 4] pixels of the frame. Even an empty box yields a patch of defined, finite values.
        patch_size: Side P of the patches in pixels, 1 to 4096.
        context: How many times larger than the box the patch reaches, 1 to 100.
        blur: False leaves the face square clear.

    Returns:
        float32 [n, 3, P, P], planes in B, G, R order with values 0 to 1.

    Raises:
        OpsError: An argument is not as described.
    """
    check_frame(frame)
    faces = as_boxes(boxes)
    side, margin, growth = _layout(patch_size, context)
    patches = np.empty((len(faces), 3, side, side), np.float32)
    _native.crop_faces(frame, faces, patches, margin, growth, bool(blur))
    return patches


def composite(
    frame: NDArray[np.uint8],
    patches: NDArray[np.float32],
    boxes: ArrayLike,
    context: SupportsFloat = 1.5,
    shape: Shape = "rectangle",
    feather: SupportsFloat = 0.0,
) -> None:
    """Paste the face square of each patch back over its box, in place.

    The inverse of `crop_faces`: each pixel samples the patch bilinearly, never outside the face square, so that no
    clear context comes back.

    Args:
        frame: uint8 [H, W, 3], BGR, writeable.
        patches: float32 [n, 3, P, P], planes in B, G, R order. Values are clamped to 0..1; NaN counts as 0.
        boxes: [n, 4] pixels of the frame, one for each patch.
        context: The `context` that the patches were cut with, 1 to 100.
        shape: "rectangle" replaces every covered pixel; "ellipse" those whose centre lies in the ellipse inscribed in
            the box, so the corners stay clear, and so may a box thinner than a pixel.
        feather: 0 replaces pixels outright. Above 0, up to 1, the patch fades in from the edge of the shape and is
            alone from this depth on, a fraction of the box's half size; the pixels of the rim stay partly clear.

    Raises:
        OpsError: An argument is not as described.
    """
    check_frame(frame, writeable=True)
    faces = as_boxes(boxes)
    check_patches(patches, len(faces))
    if shape not in ("rectangle", "ellipse"):
        raise refuse("shape", "'rectangle' or 'ellipse'", shape)
    fade = as_number("feather", feather, 0, 1)
    _, margin, growth = _layout(patches.shape[3], context)
    _native.composite(frame, np.ascontiguousarray(patches), faces, margin, growth, shape == "ellipse", fade)


def gaussian(frame: NDArray[np.uint8], boxes: ArrayLike) -> None:
    """Blur each box in place, alone: no pixel outside of it shines in.

    Within one grey level this is ``cv2.GaussianBlur`` of the covered w x h pixels with a kernel of (w // 2) | 1 by
    (h // 2) | 1, its automatic sigma, its reflected border and, as it has for bytes, its weights in whole 256ths.

    Args:
        frame: uint8 [H, W, 3], BGR, writeable.
        boxes: [n, 4] pixels of the frame.

    Raises:
        OpsError: An argument is not as described.
    """
    check_frame(frame, writeable=True)
    _native.gaussian(frame, as_boxes(boxes))


def pixelate(frame: NDArray[np.uint8], boxes: ArrayLike, blocks: SupportsIndex = 8) -> None:
    """Replace each box by blocks of its mean colours, in place.

    Args:
        frame: uint8 [H, W, 3], BGR, writeable.
        boxes: [n, 4] pixels of the frame.
        blocks: Number of blocks along each axis, 1 to 65536, as even as whole pixels allow. A side with fewer pixels
            than that gets one block for each pixel, and so is not changed along that axis.

    Raises:
        OpsError: An argument is not as described.
    """
    check_frame(frame, writeable=True)
    _native.pixelate(frame, as_boxes(boxes), as_integer("blocks", blocks, 1, MAX_SIDE))


def solid(frame: NDArray[np.uint8], boxes: ArrayLike, color: Sequence[SupportsIndex] = (0, 0, 0)) -> None:
    """Fill each box with one colour, in place.

    Args:
        frame: uint8 [H, W, 3], BGR, writeable.
        boxes: [n, 4] pixels of the frame.
        color: Three integers 0 to 255 in B, G, R order.

    Raises:
        OpsError: An argument is not as described.
    """
    check_frame(frame, writeable=True)
    blue, green, red = as_integers("color", color, 3, 0, 255)
    _native.solid(frame, as_boxes(boxes), (blue, green, red))


def yuv_to_bgr(
    y: NDArray[np.uint8],
    u: NDArray[np.uint8],
    v: NDArray[np.uint8],
    weights: tuple[SupportsFloat, SupportsFloat],
    full_range: bool = False,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Turn a decoder's picture in 4:2:0 into a frame.

    Colour differences are sampled bilinearly. Each belongs to the left pixels of its 2 x 2, halfway between their
    rows: there H.264 and its successors have it unless they say otherwise. Beyond the picture its edge repeats. Each
    value is rounded to the nearest grey level; nearly halfway between two it may be either.

    Args:
        y: uint8 [H, W], brightness, sides of 1 to 65536 pixels. Rows hold their bytes side by side, but may lie apart.
        u, v: uint8 [ceil(H / 2), ceil(W / 2)], differences to blue and to red, 128 for none. Bytes lie side by side, or
            both planes are every second column of one (NV12: ``uv[:, ::2]``, ``uv[:, 1::2]``).
        weights: Shares of red and blue in brightness, each 0.01 to 0.4, as (0.2126, 0.0722) for BT.709.
        full_range: Values take all of 0 to 255, and not 16 to 235 (y) and 16 to 240 (u, v).
        out: A writeable frame, uint8 [H, W, 3], to write into instead of a new one.

    Returns:
        uint8 [H, W, 3], BGR (`out` if that was given).

    Raises:
        OpsError: An argument is not as described, or `out` shares memory with a plane.
    """
    shape = (*check_planes(y, u, v), 3)
    red, blue = as_weights(weights)
    if out is None:
        out = np.empty(shape, np.uint8)
    else:
        check_frame(out, writeable=True, name="out")
        if out.shape != shape:
            raise refuse("out", f"uint8 {list(shape)}", out)
        _check_apart("out", out, y, u, v)
    _native.yuv_to_bgr(y, u, v, red, blue, bool(full_range), out)
    return out


def bgr_to_yuv(
    frame: NDArray[np.uint8],
    y: NDArray[np.uint8],
    u: NDArray[np.uint8],
    v: NDArray[np.uint8],
    weights: tuple[SupportsFloat, SupportsFloat],
    full_range: bool = False,
) -> None:
    """Write a frame into an encoder's picture in 4:2:0.

    A colour difference is that of the mean of two rows by two columns about its place, as of `yuv_to_bgr`: of the left
    pixels whole and of half of those beside them. Beyond the frame its edge repeats. Values are rounded as there.

    Args:
        frame: uint8 [H, W, 3], BGR; it stays as it is.
        y, u, v: Writeable planes, as of `yuv_to_bgr`.
        weights: Shares of red and blue in brightness, each 0.01 to 0.4.
        full_range: As of `yuv_to_bgr`.

    Raises:
        OpsError: An argument is not as described, or a plane shares memory with the frame.
    """
    check_frame(frame)
    check_planes(y, u, v, size=(frame.shape[0], frame.shape[1]))
    red, blue = as_weights(weights)
    _check_apart("frame", frame, y, u, v)
    _native.bgr_to_yuv(frame, red, blue, bool(full_range), y, u, v)


def _check_apart(name: str, frame: NDArray[np.uint8], *planes: NDArray[np.uint8]) -> None:
    if any(np.may_share_memory(frame, plane) for plane in planes):
        raise OpsError(f"{name}: expected memory of its own, got an array that lies among the planes")


def _layout(patch_size: SupportsIndex, context: SupportsFloat) -> tuple[int, int, float]:
    """Return side, margin and context of a patch once they leave the face at least one pixel."""
    side = as_integer("patch_size", patch_size, 1, MAX_PATCH)
    growth = as_number("context", context, 1, MAX_CONTEXT)
    margin = _native.patch_margin(side, growth)
    if side <= 2 * margin:
        raise refuse("context", f"a value that leaves the face a pixel of a {side} x {side} patch", growth)
    return side, margin, growth
