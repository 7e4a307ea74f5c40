"""Targets and loss of the edge detector: task-aligned assignment (Feng et al., TOOD, ICCV 2021, section 3.2).

A face's cells are those where score and box agree best with it, not those which lie in a fixed place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ..nets.face_detector import Targets, smooth_labels
from .boxes import complete_iou_loss, pairwise_iou

TOP_CELLS = 10
SCORE_POWER, IOU_POWER = 0.5, 4.0
CENTRE_RADIUS = 1.5
"""In strides: faces smaller than a cell contain no cell centre, so cells this close are candidates too."""


@torch.no_grad()
def task_aligned_targets(
    logits: Tensor, boxes: Tensor, cells: Tensor, faces: Sequence[Tensor], ignored: Sequence[Tensor] | None = None
) -> Targets:
    """Decides which cells answer for which faces.

    Args:
        logits, boxes: predictions, ``[N, A]`` and ``[N, A, 4]`` (xyxy pixels).
        cells: ``[A, 4]``: centre and size, pixels.
        faces, ignored: for each image ``[n, 4]`` xyxy pixels and ``[n]`` bool; see `FaceDetector.targets`.
    """
    none = [torch.zeros(len(row), dtype=torch.bool, device=row.device) for row in faces]
    # Image by image: padded to the most crowded image of the batch, the same arithmetic takes several times as long.
    rows = [_targets_of_image(*row, cells) for row in zip(logits, boxes, faces, ignored or none, strict=True)]
    return Targets(*(torch.stack(parts) for parts in zip(*rows, strict=True)))


def _targets_of_image(
    logits: Tensor, boxes: Tensor, faces: Tensor, ignored: Tensor, cells: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows of `Targets` for one image."""
    positive = torch.zeros_like(logits, dtype=torch.bool)
    counted = ~_near(faces[ignored], cells).any(0)
    wanted = faces[~ignored]
    if not len(wanted):
        return positive, torch.zeros_like(logits), torch.zeros_like(boxes), counted
    iou = pairwise_iou(wanted, boxes)
    alignment = logits.sigmoid() ** SCORE_POWER * iou**IOU_POWER + 1e-9
    alignment = alignment * _near(wanted, cells)
    best = alignment.topk(min(TOP_CELLS, len(logits)), dim=1)
    chosen = torch.zeros_like(alignment, dtype=torch.bool).scatter_(1, best.indices, best.values > 0)
    # A cell that several faces chose answers for the one that its box fits best.
    winner = ((iou + 1e-9) * chosen).argmax(0)
    positive = chosen.any(0)
    won = torch.zeros_like(chosen).scatter_(0, winner[None], positive[None])
    aligned, ceiling = alignment * won, (iou * won).amax(1, keepdim=True)
    quality = (aligned / aligned.amax(1, keepdim=True).clamp(min=1e-12) * ceiling).amax(0)
    return positive, quality * positive, wanted[winner], counted | positive


def _near(faces: Tensor, cells: Tensor) -> Tensor:
    """``[m, A]`` bool: is the cell's centre in the face, or close to the face's centre?"""
    centres = cells[:, :2]
    inside = ((centres > faces[:, None, :2]) & (centres < faces[:, None, 2:])).all(-1)
    middle = (faces[:, :2] + faces[:, 2:]) / 2
    return inside | ((middle[:, None] - centres).abs().amax(-1) < CENTRE_RADIUS * cells[:, 2])


def task_aligned_loss(
    logits: Tensor, boxes: Tensor, targets: Targets, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Score and box loss, both sums over the batch over its total target quality.

    Score: varifocal loss (Zhang et al., CVPR 2021, equation 2), but negatives weigh their score and not its square:
    hands and hair that the network is half sure of are most of what it gets wrong. Boxes: complete IoU weighted by
    quality.
    """
    positive = targets.positive
    total = targets.quality.sum().clamp(min=1.0)
    weight = torch.where(positive, targets.quality, 0.75 * logits.detach().sigmoid()) * targets.counted
    wanted = smooth_labels(targets.quality, label_smoothing)
    score = (binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).sum() / total
    box = complete_iou_loss(boxes[positive], targets.boxes[positive]) * targets.quality[positive]
    return score, box.sum() / total
