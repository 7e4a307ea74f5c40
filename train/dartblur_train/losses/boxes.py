"""Box arithmetic that gradients flow through. Boxes are xyxy, pixels, float."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Areas ``[...]`` of boxes ``[..., 4]``; 0 where a box is empty."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU ``[..., A, B]`` of boxes ``a [..., A, 4]`` with ``b [..., B, 4]``; 0 for empty boxes."""
    # Side by side rather than as pairs of coordinates: whole rows at a time are several times faster.
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a[..., :, None, :].unbind(-1), b[..., None, :, :].unbind(-1)
    width = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp(min=0)
    height = (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp(min=0)
    overlap = width * height
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - overlap
    return overlap / union.clamp(min=1e-9)


def complete_iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """``1 - CIoU`` of matching rows, ``[P]`` from ``[P, 4]`` twice (Zheng et al. 2020, equation 10)."""
    overlap = (
        (torch.minimum(predicted[:, 2:], target[:, 2:]) - torch.maximum(predicted[:, :2], target[:, :2]))
        .clamp(min=0)
        .prod(1)
    )
    union = box_area(predicted) + box_area(target) - overlap
    iou = overlap / union.clamp(min=1e-9)
    hull = torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(predicted[:, :2], target[:, :2])
    diagonal = hull.square().sum(1).clamp(min=1e-9)
    centres = (predicted[:, :2] + predicted[:, 2:] - target[:, :2] - target[:, 2:]).square().sum(1) / 4
    size, wanted = predicted[:, 2:] - predicted[:, :2], target[:, 2:] - target[:, :2]
    angle = torch.atan(wanted[:, 0] / wanted[:, 1].clamp(min=1e-6)) - torch.atan(
        size[:, 0] / size[:, 1].clamp(min=1e-6)
    )
    aspect = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect).clamp(min=1e-6)
    return 1 - iou + centres / diagonal + weight * aspect
