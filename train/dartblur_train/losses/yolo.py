"""YOLOv5's targets and loss, which YOLO5Face keeps (Qi et al., "YOLO5Face: Why Reinventing a Face Detector", 2021).

The paper's total is ``loss_O + 0.5 * loss_L`` with landmarks in ``loss_L``; there are no landmarks here, and with a
single class there is no loss of classes either. What remains of ``loss_O`` is objectness and boxes. The constants are
those that YOLOv5 and YOLO5Face are published with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ..nets.anchors import to_corners
from ..nets.face_detector import Targets, inside_ignored, smooth_labels
from .boxes import complete_iou_loss, pairwise_iou

RATIO = 4.0
"""An anchor answers for faces that are less than this many times wider, narrower, higher or lower."""
BALANCE = (4.0, 1.0, 0.4)
"""Weights of the objectness of the levels, finest first."""
BOX_WEIGHT = 0.05
LONGEST_CHAIN = 8
"""Faces moved at most to make room for one more."""


@torch.no_grad()
def yolo_targets(
    boxes: Tensor, anchors: Tensor, strides: Tensor, faces: Sequence[Tensor], ignored: Sequence[Tensor] | None = None
) -> Targets:
    """Decides which places answer for which faces; the score wanted is the overlap that a place's box has now.

    A face that differs from all anchors by `RATIO` or more, or whose centre is outside the picture, has no place.

    Args:
        boxes: predicted, ``[N, A, 4]``, xyxy pixels.
        anchors: ``[A, 4]``: centre of the cell and size of the anchor, pixels.
        strides: ``[A]``, pixels.
        faces, ignored: for each image ``[n, 4]`` xyxy pixels and ``[n]`` bool; see `FaceDetector.targets`.
    """
    none = [torch.zeros(len(row), dtype=torch.bool, device=row.device) for row in faces]
    rows = [_targets_of_image(*row, anchors, strides) for row in zip(boxes, faces, ignored or none, strict=True)]
    return Targets(*(torch.stack(parts) for parts in zip(*rows, strict=True)))


def _targets_of_image(
    boxes: Tensor, faces: Tensor, ignored: Tensor, anchors: Tensor, strides: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows of `Targets` for one image."""
    off_limits = inside_ignored(anchors, faces, ignored) | _claims(faces[ignored], anchors, strides).any(0)
    wanted = faces[~ignored]
    if not len(wanted):
        positive = torch.zeros_like(off_limits)
        return positive, boxes.new_zeros(len(boxes)), torch.zeros_like(boxes), ~off_limits
    owner = assign_places(_claims(wanted, anchors, strides), pairwise_iou(wanted, to_corners(anchors)))
    positive, answers_for = owner >= 0, wanted[owner.clamp(min=0)]
    # YOLOv5 calls this IoU, and computes the complete one.
    quality = (1 - complete_iou_loss(boxes, answers_for)).clamp(0, 1) * positive
    return positive, quality, answers_for, positive | ~off_limits


def _claims(faces: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """``[n, A]`` bool: would the place answer for the face if there were no other?

    It would if its anchor's size fits and the face's centre is in its cell, or within half a stride of one of the
    cell's four sides: each face has its cell and the two next to it that are nearest to its centre.
    """
    ratio = (faces[:, 2:] - faces[:, :2]).clamp(min=1e-6)[:, None] / anchors[:, 2:]
    fits = torch.maximum(ratio, 1 / ratio).amax(-1) < RATIO
    centre = (faces[:, :2] + faces[:, 2:]) / 2
    away = (centre[:, None] - anchors[:, :2]).abs() / strides[:, None]
    return fits & (away.amax(-1) < 1) & (away.amin(-1) <= 0.5)


def assign_places(claims: Tensor, overlap: Tensor) -> Tensor:
    """The face ``[A]`` that each place answers for, -1 for none; each place answers for one at most.

    A place that several faces claim goes to the one that its anchor overlaps most. A face that gets none that way
    takes one from a face that can spare it, or that can move to another.

    Args:
        claims: ``[n, A]`` bool, n > 0.
        overlap: ``[n, A]``, IoU of the faces with the anchors.
    """
    owner = torch.where(claims.any(0), (claims * (overlap + 1e-9)).argmax(0), -1)
    held = torch.bincount(owner + 1, minlength=len(claims) + 1)[1:]
    homeless = ((held == 0) & claims.any(1)).nonzero().flatten().tolist()
    if homeless:
        owners, counts = owner.tolist(), held.tolist()
        for face in homeless:
            _make_room(face, claims, owners, counts, set(), LONGEST_CHAIN)
        owner = torch.tensor(owners, device=owner.device)
    return owner


def _make_room(face: int, claims: Tensor, owners: list[int], counts: list[int], seen: set[int], moves: int) -> bool:
    """Gives the face one of the places that it claims: the augmenting paths of bipartite matching, in place.

    Args:
        face: row of `claims`.
        claims: as for `assign_places`.
        owners, counts: the face of each place, and how many places each face has.
        seen: places that this search has tried.
        moves: faces that may still be moved.
    """
    places: list[int] = claims[face].nonzero().flatten().tolist()
    for place in sorted(places, key=lambda place: -counts[owners[place]]):
        if place in seen:
            continue
        seen.add(place)
        other = owners[place]
        if counts[other] > 1 or (moves and _make_room(other, claims, owners, counts, seen, moves - 1)):
            owners[place] = face
            counts[other] -= 1
            counts[face] += 1
            return True
    return False


def yolo_loss(
    logits: Tensor, boxes: Tensor, levels: Tensor, targets: Targets, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Objectness and box loss; each is the sum of the three levels' means over the batch.

    Objectness: cross-entropy at all places that are counted, weighted by `BALANCE`. Boxes: complete IoU at the
    places that answer for a face, weighted by `BOX_WEIGHT`.

    Args:
        logits, boxes: predictions, ``[N, A]`` and ``[N, A, 4]`` (xyxy pixels).
        levels: ``[A]``, 0 for the finest.
        targets: of the batch.
        label_smoothing: see `FaceDetector.loss`.
    """
    places = len(logits) * torch.bincount(levels, minlength=len(BALANCE))
    weight = (logits.new_tensor(BALANCE) / places)[levels] * targets.counted
    wanted = smooth_labels(targets.quality, label_smoothing)
    score = (binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).sum()
    positive = targets.positive
    level = levels.expand_as(positive)[positive]
    share = BOX_WEIGHT / torch.bincount(level, minlength=len(BALANCE)).clamp(min=1)
    box = complete_iou_loss(boxes[positive], targets.boxes[positive]) * share[level]
    return score, box.sum()
