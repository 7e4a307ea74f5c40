"""MultiBox targets and loss (Liu et al., SSD, ECCV 2016) with RetinaFace's settings: the paper's L_det."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from ..nets.anchors import encode, to_corners
from ..nets.face_detector import Losses, Predictions, Targets, inside_ignored, smooth_labels
from .boxes import pairwise_iou

IOU = 0.35
NEGATIVES = 7
BOX_WEIGHT = 2.0


@torch.no_grad()
def match_anchors(anchors: Tensor, faces: Tensor, iou: float = IOU) -> tuple[Tensor, Tensor]:
    """For anchors ``[A, 4]`` (centre and size): index of the face ``[A]``, and which anchors are positive ``[A]``.

    An anchor is positive from an IoU of `iou`; each face's best anchor is its own whatever the IoU.
    """
    if not len(faces):
        nothing = torch.zeros(len(anchors), dtype=torch.long, device=anchors.device)
        return nothing, nothing.bool()
    overlaps = pairwise_iou(to_corners(anchors), faces)
    best, face = overlaps.max(1)
    favourite = overlaps.argmax(0)
    face[favourite] = torch.arange(len(faces), device=faces.device)
    best[favourite] = 1.0
    return face, best >= iou


@torch.no_grad()
def multibox_targets(
    anchors: Tensor, faces: Sequence[Tensor], ignored: Sequence[Tensor] | None = None, iou: float = IOU
) -> Targets:
    """Matches anchors with faces; arguments as for `FaceDetector.targets`."""
    positive, boxes, counted = [], [], []
    for row, boxes_of_image in enumerate(faces):
        off_limits = None if ignored is None else ignored[row]
        wanted = boxes_of_image if off_limits is None else boxes_of_image[~off_limits]
        face, found = match_anchors(anchors, wanted, iou)
        positive.append(found)
        boxes.append(wanted[face] if len(wanted) else anchors.new_zeros(len(anchors), 4))
        counted.append(found | ~inside_ignored(anchors, boxes_of_image, off_limits))
    positives = torch.stack(positive)
    return Targets(positives, positives.to(anchors.dtype), torch.stack(boxes), torch.stack(counted))


def multibox_loss(predictions: Predictions, targets: Targets, label_smoothing: float = 0.0) -> Losses:
    """``2 * smooth-L1`` on boxes and cross-entropy on scores, each over the number of positive anchors."""
    positive = targets.positive
    anchors = predictions.anchors.expand_as(predictions.offsets)[positive]
    wanted = encode(targets.boxes[positive], anchors)
    box = smooth_l1_loss(predictions.offsets[positive], wanted, reduction="sum")
    chosen = positive | hard_negatives(predictions.logits.detach(), positive, targets.counted)
    score = binary_cross_entropy_with_logits(
        predictions.logits[chosen], smooth_labels(targets.quality, label_smoothing)[chosen], reduction="sum"
    )
    count = positive.sum().clamp(min=1)
    return Losses(score / count, BOX_WEIGHT * box / count)


@torch.no_grad()
def hard_negatives(logits: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """The `NEGATIVES` times as many anchors without a face, ``[N, A]``, that are most taken for one."""
    candidates = counted & ~positive
    rank = logits.masked_fill(~candidates, -torch.inf).argsort(1, descending=True).argsort(1)
    # An image without faces still shows what no face looks like.
    count = (NEGATIVES * positive.sum(1, keepdim=True)).clamp(min=NEGATIVES)
    return (rank < count) & candidates
