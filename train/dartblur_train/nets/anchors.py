"""Anchors of the SSD family: square boxes at each cell, and boxes written relative to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

VARIANCES = (0.1, 0.2)
"""Scale of the centre's and the size's offsets (SSD, and RetinaFace after it)."""


def make_anchors(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], sizes: Sequence[Sequence[float]], device: torch.device
) -> Tensor:
    """Anchors ``[A, 4]`` (centre x, centre y, width, height, pixels) of maps with these rows and columns.

    Args:
        shapes: rows and columns of each level, finest first.
        strides: pixels from cell to cell.
        sizes: sides of the anchors at each cell of a level.
        device: where the anchors are made.
    """
    anchors = []
    for (rows, columns), stride, sides in zip(shapes, strides, sizes, strict=True):
        y = ((torch.arange(rows, device=device) + 0.5) * stride).view(-1, 1, 1).expand(-1, columns, len(sides))
        x = ((torch.arange(columns, device=device) + 0.5) * stride).view(1, -1, 1).expand(rows, -1, len(sides))
        side = torch.tensor(sides, device=device, dtype=torch.float32).expand(rows, columns, len(sides))
        anchors.append(torch.stack([x, y, side, side], -1).reshape(-1, 4))
    return torch.cat(anchors)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets ``[..., 4]`` of xyxy boxes from their anchors."""
    centre = ((boxes[..., :2] + boxes[..., 2:]) / 2 - anchors[..., :2]) / (VARIANCES[0] * anchors[..., 2:])
    size = ((boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3) / anchors[..., 2:]).log() / VARIANCES[1]
    return torch.cat([centre, size], -1)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode`."""
    centre = anchors[..., :2] + offsets[..., :2] * VARIANCES[0] * anchors[..., 2:]
    half = anchors[..., 2:] * (offsets[..., 2:] * VARIANCES[1]).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


def to_corners(anchors: Tensor) -> Tensor:
    """Centre and size ``[..., 4]`` to xyxy."""
    half = anchors[..., 2:] / 2
    return torch.cat([anchors[..., :2] - half, anchors[..., :2] + half], -1)
