"""Targets and loss of the edge detector: task-aligned assignment (Feng et al., TOOD, ICCV 2021, section 3.2).

A face's cells are those where score and box agree best with it, not those which lie in a fixed place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .boxes import complete_iou_loss, pairwise_iou

TOP_CELLS = 10
SCORE_POWER, IOU_POWER = 0.5, 4.0
CENTRE_RADIUS = 1.5
"""In strides: faces smaller than a cell contain no cell centre, so cells this close are candidates too."""


@dataclass(frozen=True)
class Assignment:
    """For each image and cell: the face it answers for.

    Attributes:
        face: index ``[N, A]`` into the padded faces; meaningful where `positive`.
        positive: ``[N, A]`` bool.
        quality: target score ``[N, A]`` in 0..1; 0 for background.
        counted: ``[N, A]`` bool; False where a cell lies in an ignored face and is not judged.
    """

    face: Tensor
    positive: Tensor
    quality: Tensor
    counted: Tensor


@torch.no_grad()
def assign(
    logits: Tensor, boxes: Tensor, centres: Tensor, strides: Tensor, faces: Tensor, valid: Tensor, ignored: Tensor
) -> Assignment:
    """Decides which cells answer for which faces.

    Args:
        logits, boxes: predictions, ``[N, A]`` and ``[N, A, 4]``.
        centres, strides: of the cells, ``[A, 2]`` and ``[A]``, pixels.
        faces: padded ground truth ``[N, M, 4]``; valid, ignored: ``[N, M]`` bool.
    """
    # Image by image: padded to the most crowded image of the batch, the same arithmetic takes several times as long.
    rows = [_assign_image(*row, centres, strides) for row in zip(logits, boxes, faces, valid, ignored, strict=True)]
    return Assignment(*(torch.stack(parts) for parts in zip(*rows, strict=True)))


def _assign_image(
    logits: Tensor,
    boxes: Tensor,
    faces: Tensor,
    valid: Tensor,
    ignored: Tensor,
    centres: Tensor,
    strides: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows of an `Assignment` for one image: face, positive, quality and counted, ``[A]`` each."""
    face = torch.zeros_like(logits, dtype=torch.long)
    positive, quality, counted = face.bool(), torch.zeros_like(logits), ~face.bool()
    off_limits = faces[valid & ignored]
    if len(off_limits):
        counted = ~_near(off_limits, centres, strides).any(0)
    trainable = torch.nonzero(valid & ~ignored).squeeze(1)
    if not len(trainable):
        return face, positive, quality, counted
    wanted = faces[trainable]
    iou = pairwise_iou(wanted, boxes)
    alignment = logits.sigmoid() ** SCORE_POWER * iou**IOU_POWER + 1e-9
    alignment = alignment * _near(wanted, centres, strides)
    best = alignment.topk(min(TOP_CELLS, len(logits)), dim=1)
    chosen = torch.zeros_like(alignment, dtype=torch.bool).scatter_(1, best.indices, best.values > 0)
    # A cell that several faces chose answers for the one that its box fits best.
    winner = ((iou + 1e-9) * chosen).argmax(0)
    positive = chosen.any(0)
    won = torch.zeros_like(chosen).scatter_(0, winner[None], positive[None])
    aligned, ceiling = alignment * won, (iou * won).amax(1, keepdim=True)
    quality = (aligned / aligned.amax(1, keepdim=True).clamp(min=1e-12) * ceiling).amax(0)
    return trainable[winner], positive, quality * positive, counted | positive


def _near(faces: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """``[m, A]`` bool: is the cell's centre in the face, or close to the face's centre?"""
    inside = ((centres > faces[:, None, :2]) & (centres < faces[:, None, 2:])).all(-1)
    middle = (faces[:, :2] + faces[:, 2:]) / 2
    return inside | ((middle[:, None] - centres).abs().amax(-1) < CENTRE_RADIUS * strides)


def detection_loss(logits: Tensor, boxes: Tensor, target: Assignment, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Score and box loss, both sums over the batch over its total target quality.

    Score: varifocal loss (Zhang et al., CVPR 2021, equation 2). Boxes: complete IoU weighted by quality.
    """
    total = target.quality.sum().clamp(min=1.0)
    weight = torch.where(target.positive, target.quality, 0.75 * logits.detach().sigmoid() ** 2) * target.counted
    score = (binary_cross_entropy_with_logits(logits, target.quality, reduction="none") * weight).sum() / total
    wanted = faces.gather(1, target.face[..., None].expand(-1, -1, 4))[target.positive]
    box = complete_iou_loss(boxes[target.positive], wanted) * target.quality[target.positive]
    return score, box.sum() / total
