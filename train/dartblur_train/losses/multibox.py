"""MultiBox loss (Liu et al., SSD, ECCV 2016) with RetinaFace's settings: the paper's L_det."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from ..nets.retinaface import AnchorPredictions, encode
from .boxes import pairwise_iou

IOU = 0.35
NEGATIVES = 7
BOX_WEIGHT = 2.0


@torch.no_grad()
def match_anchors(anchors: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """For anchors ``[A, 4]`` (centre and size): index of the face ``[A]``, and which anchors are positive ``[A]``.

    An anchor is positive from an IoU of `IOU`; each face's best anchor is its own whatever the IoU.
    """
    if not len(faces):
        nothing = torch.zeros(len(anchors), dtype=torch.long, device=anchors.device)
        return nothing, nothing.bool()
    half = anchors[:, 2:] / 2
    overlaps = pairwise_iou(torch.cat([anchors[:, :2] - half, anchors[:, :2] + half], 1), faces)
    best, face = overlaps.max(1)
    favourite = overlaps.argmax(0)
    face[favourite] = torch.arange(len(faces), device=faces.device)
    best[favourite] = 1.0
    return face, best >= IOU


def multibox_loss(predictions: AnchorPredictions, targets: list[Tensor], label_smoothing: float = 0.0) -> Tensor:
    """``2 * smooth-L1 + cross-entropy``, over the number of positive anchors.

    Args:
        predictions: of a batch of N images.
        targets: faces of each image, ``[n, 4]`` xyxy pixels.
        label_smoothing: of the cross-entropy; the paper's setting is 0.2.
    """
    matched = [match_anchors(predictions.anchors, faces) for faces in targets]
    positive = torch.stack([found for _, found in matched])
    wanted = torch.stack(
        [
            encode(faces[face], predictions.anchors) if len(faces) else torch.zeros_like(predictions.anchors)
            for faces, (face, _) in zip(targets, matched, strict=True)
        ]
    )
    box = smooth_l1_loss(predictions.offsets[positive], wanted[positive], reduction="sum")
    labels = positive.long()
    chosen = positive | _hard_negatives(predictions.logits.detach(), positive)
    score = cross_entropy(predictions.logits[chosen], labels[chosen], reduction="sum", label_smoothing=label_smoothing)
    return (BOX_WEIGHT * box + score) / positive.sum().clamp(min=1)


@torch.no_grad()
def _hard_negatives(logits: Tensor, positive: Tensor) -> Tensor:
    """The `NEGATIVES` times as many anchors without a face, ``[N, A]``, that are most taken for one."""
    hardness = (logits[..., 1] - logits[..., 0]).masked_fill(positive, -torch.inf)
    rank = hardness.argsort(1, descending=True).argsort(1)
    # An image without faces still shows what no face looks like.
    count = (NEGATIVES * positive.sum(1, keepdim=True)).clamp(min=NEGATIVES)
    return (rank < count) & ~positive
