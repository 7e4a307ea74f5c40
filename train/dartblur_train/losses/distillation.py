"""Learning from a larger detector: what it says of each place, beside what the annotations say.

Scores as in generalized focal distillation (the quality focal loss of Li et al., NeurIPS 2020, equation 2, with the
teacher's score as the quality wanted); boxes by complete IoU, weighted by the teacher's score.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .boxes import complete_iou_loss

SURE = 0.05
"""Where a teacher's score is below, its box says nothing."""


def distillation_loss(
    logits: Tensor, boxes: Tensor, wanted_scores: Tensor, wanted_boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """Score and box loss of a student, both sums over the batch over the teacher's total score.

    Args:
        logits: of the student, ``[N, A]``.
        boxes: of the student, ``[N, A, 4]`` xyxy pixels.
        wanted_scores: of the teacher at the same places, 0..1.
        wanted_boxes: of the teacher.
    """
    total = wanted_scores.sum().clamp(min=1.0)
    distance = (wanted_scores - logits.detach().sigmoid()).abs()
    score = (binary_cross_entropy_with_logits(logits, wanted_scores, reduction="none") * distance**2).sum() / total
    sure = wanted_scores > SURE
    box = complete_iou_loss(boxes[sure], wanted_boxes[sure]) * wanted_scores[sure]
    return score, box.sum() / total
