"""A small PyramidBox (Tang et al., "PyramidBox: A Context-assisted Single Shot Face Detector", ECCV 2018).

What makes it a family of its own is here: the Low-level Feature Pyramid (section 3.1), the Context-sensitive
Prediction Module with max-in-out scores (section 3.2), and one square anchor per cell, four times as large as the
stride, from stride 4 on.

What differs from the paper: the backbone is a narrow MobileNetV1 instead of VGG16; there is no stride 128, whose
512-pixel faces no 320-pixel sample holds. What is left out: the PyramidAnchors of section 3.3, whose scores and boxes
for heads and bodies serve only as an auxiliary loss, and the data-anchor-sampling of section 3.4, which is a matter
of the samples. Targets and loss are those of `losses.multibox`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..losses.multibox import multibox_loss, multibox_targets
from .anchors import decode, make_anchors
from .face_detector import FaceDetector, Losses, Predictions, Targets

STRIDES = (4, 8, 16, 32, 64)
ANCHOR_SIZES = tuple((4.0 * stride,) for stride in STRIDES)
WIDTHS = (32, 64, 128, 256, 256)
"""Channels of the backbone at each stride."""
DEPTHS = (2, 2, 4, 2, 1)
"""Separable convolutions of the backbone at each stride."""
PYRAMID = 48
"""Channels of the maps that the prediction modules see."""
TOP = 3
"""The level, of stride 32, from which the pyramid goes down: coarser maps see too little of a small face."""
SCORES = 4
"""Scores of an anchor before max-in-out."""


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, inputs, 3, stride, inputs), _conv(inputs, outputs))


class _Body(nn.Module):
    """MobileNetV1 (Howard et al. 2017), narrow: maps ``[N, C, H/s, W/s]`` at each stride, finest first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, WIDTHS[0] // 2, 3, stride=2)
        self.stages = nn.ModuleList()
        before = WIDTHS[0] // 2
        for width, depth in zip(WIDTHS, DEPTHS, strict=True):
            rest = (_separable(width, width) for _ in range(depth - 1))
            self.stages.append(nn.Sequential(_separable(before, width, stride=2), *rest))
            before = width

    def forward(self, images: Tensor) -> list[Tensor]:
        x, levels = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


class _LowLevelPyramid(nn.Module):
    """Section 3.1: a feature pyramid that starts in the middle, at level `TOP`; coarser levels pass beside it.

    High-level features of a coarse map are too blurred to help with small faces, and add noise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_conv(width, PYRAMID) for width in WIDTHS)
        self.smooth = nn.ModuleList(_separable(PYRAMID, PYRAMID) for _ in range(TOP))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        maps = [lateral(x) for lateral, x in zip(self.lateral, levels, strict=True)]
        for level in reversed(range(TOP)):
            above = nn.functional.interpolate(maps[level + 1], scale_factor=2.0, mode="nearest")
            maps[level] = self.smooth[level](maps[level] + above)
        return maps


class _PredictionModule(nn.Module):
    """Section 3.2: DSSD's residual prediction block, then SSH's context: windows of 3x3, 5x5 and 7x7, side by side.

    Args:
        faces: how many of the `SCORES` scores speak for a face; the others speak for the background.
    """

    def __init__(self, faces: int) -> None:
        super().__init__()
        half, quarter = PYRAMID // 2, PYRAMID // 4
        self.faces = faces
        self.residual = nn.Sequential(
            _conv(PYRAMID, half), _conv(half, half, 3), nn.Conv2d(half, PYRAMID, 1, bias=False), nn.BatchNorm2d(PYRAMID)
        )
        self.small = _separable(PYRAMID, half)
        self.reduce = _separable(PYRAMID, quarter)
        self.medium = _separable(quarter, quarter)
        self.large = nn.Sequential(_separable(quarter, quarter), _separable(quarter, quarter))
        self.scores = nn.Conv2d(PYRAMID, SCORES, 1)
        self.boxes = nn.Conv2d(PYRAMID, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[N, cells]`` and offsets ``[N, cells, 4]``, at least of single precision."""
        x = nn.functional.relu(x + self.residual(x))
        reduced = self.reduce(x)
        context = torch.cat([self.small(x), self.medium(reduced), self.large(reduced)], 1)
        precision = torch.promote_types(x.dtype, torch.float32)
        scores, boxes = (head(context).flatten(2).to(precision) for head in (self.scores, self.boxes))
        face, background = scores[:, : self.faces].amax(1), scores[:, self.faces :].amax(1)
        # A softmax over background and face is a sigmoid of their difference.
        return face - background, boxes.transpose(1, 2)


class PyramidBox(FaceDetector):
    """Finds faces with one anchor a cell at strides 4 to 64."""

    multiple = STRIDES[-1]

    def __init__(self) -> None:
        super().__init__()
        self.body = _Body()
        self.pyramid = _LowLevelPyramid()
        # Max-in-out (section 3.2): the many small anchors mistake ground for faces, so there the background has three
        # chances to speak up; elsewhere the face has them.
        self.predict = nn.ModuleList(_PredictionModule(1 if s == STRIDES[0] else SCORES - 1) for s in STRIDES)

    def forward(self, images: Tensor) -> Predictions:
        maps = self.pyramid(self.body(images / 127.5 - 1.0))
        logits, offsets = zip(*(predict(x) for predict, x in zip(self.predict, maps, strict=True)), strict=True)
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        anchors = make_anchors(shapes, STRIDES, ANCHOR_SIZES, images.device)
        return Predictions(torch.cat(logits, 1), torch.cat(offsets, 1), anchors)

    def decode(self, predictions: Predictions) -> Tensor:
        return decode(predictions.offsets, predictions.anchors)

    def targets(
        self, predictions: Predictions, faces: Sequence[Tensor], ignored: Sequence[Tensor] | None = None
    ) -> Targets:
        return multibox_targets(predictions.anchors, faces, ignored)

    def loss(self, predictions: Predictions, targets: Targets, label_smoothing: float = 0.0) -> Losses:
        return multibox_loss(predictions, targets, label_smoothing)
