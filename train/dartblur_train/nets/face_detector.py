"""What the trainer, the evaluation and the export know of a face detector, whatever its family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Predictions(NamedTuple):
    """What a detector says of a batch; a place is an anchor or a cell.

    Attributes:
        logits: ``[N, A]``, is there a face? Before the sigmoid.
        offsets: ``[N, A, 4]``, the face's box as the family writes it; `FaceDetector.decode` reads it.
        anchors: ``[A, 4]``, the places: centre x, centre y, width, height in input pixels.
    """

    logits: Tensor
    offsets: Tensor
    anchors: Tensor


class Targets(NamedTuple):
    """What a detector should have said.

    Attributes:
        positive: ``[N, A]`` bool, the places that answer for a face.
        quality: ``[N, A]``, the score wanted, 0..1; 0 where not positive.
        boxes: ``[N, A, 4]``, the face's box, xyxy pixels; meaningful where positive.
        counted: ``[N, A]`` bool; False where a place lies in an ignored face and is not judged.
    """

    positive: Tensor
    quality: Tensor
    boxes: Tensor
    counted: Tensor


class Losses(NamedTuple):
    """The two parts of a detector's loss, weighted as its paper says."""

    score: Tensor
    box: Tensor

    @property
    def total(self) -> Tensor:
        """The paper's L_det."""
        return self.score + self.box


class FaceDetector(nn.Module):
    """Finds faces.

    Input: ``[N, 3, H, W]`` float, BGR, 0..255, H and W multiples of `multiple`.

    The class of a family gives `forward`, `decode`, `targets` and `loss`; they are free of state but for the weights,
    so that the cycle objective can differentiate through a training step of any family.
    """

    multiple: int = 32

    def may_be_new(self, name: str) -> bool:
        """May training start without this weight, from a smaller network's? Only where a new one changes nothing."""
        return False

    def forward(self, images: Tensor) -> Predictions:
        """Looks at the images."""
        raise NotImplementedError

    def decode(self, predictions: Predictions) -> Tensor:
        """Boxes ``[N, A, 4]``, xyxy pixels of the input."""
        raise NotImplementedError

    def targets(
        self, predictions: Predictions, faces: Sequence[Tensor], ignored: Sequence[Tensor] | None = None
    ) -> Targets:
        """Decides which places answer for which faces; no gradient flows through this.

        Args:
            predictions: of a batch of N images.
            faces: for each image ``[n, 4]``, xyxy pixels.
            ignored: for each image ``[n]`` bool, faces that are neither to be found nor to be missed; None: none.
        """
        raise NotImplementedError

    def loss(self, predictions: Predictions, targets: Targets, label_smoothing: float = 0.0) -> Losses:
        """How far the predictions are from the targets.

        Args:
            predictions, targets: of the same batch.
            label_smoothing: pulls the wanted scores towards 1/2 by this share; the paper's setting is 0.2.
        """
        raise NotImplementedError

    def detection_loss(
        self,
        images: Tensor,
        faces: Sequence[Tensor],
        ignored: Sequence[Tensor] | None = None,
        label_smoothing: float = 0.0,
    ) -> Losses:
        """L_det of the detector's view of the images against these faces."""
        return self.judge(self(images), faces, ignored, label_smoothing)

    def judge(
        self,
        predictions: Predictions,
        faces: Sequence[Tensor],
        ignored: Sequence[Tensor] | None = None,
        label_smoothing: float = 0.0,
    ) -> Losses:
        """The same of predictions that are there already; in single precision at least, whatever they come in."""
        logits, offsets = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in predictions[:2])
        with torch.no_grad():
            targets = self.targets(Predictions(logits.detach(), offsets.detach(), predictions.anchors), faces, ignored)
        # A score wanted in single precision would round the loss of a detector in double precision.
        targets = targets._replace(quality=targets.quality.to(logits.dtype))
        return self.loss(Predictions(logits, offsets, predictions.anchors), targets, label_smoothing)


def inside_ignored(anchors: Tensor, faces: Tensor, ignored: Tensor | None) -> Tensor:
    """``[A]`` bool: does the place's centre lie in an ignored face (``faces [n, 4]``, ``ignored [n]``)?"""
    if ignored is None or not ignored.any():
        return torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    boxes, centres = faces[ignored], anchors[:, :2]
    return ((centres > boxes[:, None, :2]) & (centres < boxes[:, None, 2:])).all(-1).any(0)


def smooth_labels(quality: Tensor, share: float) -> Tensor:
    """Scores pulled towards 1/2; with two classes this is label smoothing of the cross-entropy."""
    return quality * (1 - share) + share / 2
