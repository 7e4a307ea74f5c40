"""The edge detector: a small anchor-free face detector in the family of YuNet and SCRFD.

Strides 8, 16 and 32, depthwise-separable blocks, a top-down feature pyramid and one head that the
three levels share. Each cell predicts one face: a logit for "the IoU with a face that I would reach"
(so a single score, as in VarifocalNet) and a box as in YOLOX, ``(dx, dy, log w, log h)`` in strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..losses.task_aligned import task_aligned_loss, task_aligned_targets
from .anchors import make_anchors
from .face_detector import FaceDetector, Losses, Predictions, Targets

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class EdgeDetectorSpec:
    """Widths and depths of an edge detector.

    Attributes:
        stem: channels of the first convolution, at stride 2.
        widths: channels at strides 4, 8, 16 and 32.
        depths: residual blocks after the downsampling block at strides 4, 8, 16 and 32.
        pyramid: channels of the feature pyramid and the head.
        dense: for each of those strides the inner widths of the dense blocks that end it.
        dense_head: inner widths of the dense blocks of the head.
    """

    stem: int = 16
    widths: tuple[int, int, int, int] = (32, 64, 128, 192)
    depths: tuple[int, int, int, int] = (1, 3, 3, 2)
    pyramid: int = 64
    dense: tuple[tuple[int, ...], ...] = ((), (), (), ())
    dense_head: tuple[int, ...] = ()


SPECS = {
    "nano": EdgeDetectorSpec(widths=(24, 48, 80, 96), depths=(1, 2, 2, 1), pyramid=48, dense=((), (16,), (), ())),
    "thin": EdgeDetectorSpec(),
    "small": EdgeDetectorSpec(dense=((), (32,), (32,), ())),
    "base": EdgeDetectorSpec(dense=((16,), (64, 64), (64,), ()), dense_head=(48,)),
}
"""Sizes by name. ``small`` and ``base`` can start from ``thin``, which has all of them but the dense blocks."""


class DepthwiseBlock(nn.Module):
    """Depthwise 3x3, pointwise 1x1; residual where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self._filter(x)))
        y = self.norm2(self.pointwise(y))
        out: Tensor = self.relu(x + y if self.residual else y)
        return out

    def _filter(self, x: Tensor) -> Tensor:
        """The depthwise convolution.

        On a CPU the gradient of one with a stride takes two to four times as long in bfloat16 as in single precision.
        """
        if torch.is_autocast_enabled("cpu") and x.dtype == torch.bfloat16 and self.depthwise.stride != (1, 1):
            with torch.autocast("cpu", enabled=False):
                out: Tensor = self.depthwise(x.float()).to(x.dtype)
            return out
        out = self.depthwise(x)
        return out


class DenseBlock(nn.Module):
    """Two full 3x3 convolutions beside the identity, which is all that a new block does.

    A depthwise block moves more bytes than it computes; this one is the other way round, so its operations are cheap.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out: Tensor = self.relu(x + y)
        return out


class EdgeDetector(FaceDetector):
    """Finds faces; its places are the cells of the three levels, finest first, row by row, each as large as its stride.

    Attributes:
        spec: widths and depths.
        box_weight: of the box loss beside the score loss.
    """

    box_weight = 2.0

    def __init__(self, spec: EdgeDetectorSpec | None = None) -> None:
        super().__init__()
        self.spec = spec = spec or EdgeDetectorSpec()
        self.stem = nn.Sequential(
            nn.Conv2d(3, spec.stem, 3, 2, 1, bias=False), nn.BatchNorm2d(spec.stem), nn.ReLU(inplace=True)
        )
        channels = (spec.stem, *spec.widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                DepthwiseBlock(before, width, stride=2),
                *(DepthwiseBlock(width, width) for _ in range(depth)),
                *(DenseBlock(width, inner) for inner in dense),
            )
            for before, width, depth, dense in zip(channels[:-1], spec.widths, spec.depths, spec.dense, strict=True)
        )
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, spec.pyramid, 1, bias=False), nn.BatchNorm2d(spec.pyramid))
            for width in spec.widths[1:]
        )
        self.smooth = nn.ModuleList(DepthwiseBlock(spec.pyramid, spec.pyramid) for _ in STRIDES)
        self.head = DepthwiseBlock(spec.pyramid, spec.pyramid)
        self.dense_head = nn.Sequential(*(DenseBlock(spec.pyramid, inner) for inner in spec.dense_head))
        self.predict = nn.Conv2d(spec.pyramid, 5, 1)
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.predict.weight, std=0.01)
        assert self.predict.bias is not None
        nn.init.zeros_(self.predict.bias)
        # A prior of one face in a hundred cells: without it the first steps drown in negatives (RetinaNet, 4.1).
        nn.init.constant_(self.predict.bias[:1], -4.6)
        nn.init.constant_(self.predict.bias[3:], 1.0)

    def may_be_new(self, name: str) -> bool:
        """Of `FaceDetector`: the weights of dense blocks, which start as the identity."""
        return isinstance(self.get_submodule(name.rpartition(".")[0].rpartition(".")[0]), DenseBlock)

    def features(self, images: Tensor) -> list[Tensor]:
        """``images`` as for `forward`; the pyramid's three maps ``[N, C, H/s, W/s]``, finest first."""
        x = self.stem(images / 127.5 - 1.0)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        top_down: list[Tensor] = []
        for lateral, level in zip(reversed(self.lateral), reversed(levels[1:]), strict=True):
            x = lateral(level)
            if top_down:
                x = x + nn.functional.interpolate(top_down[-1], scale_factor=2.0, mode="nearest")
            top_down.append(x)
        return [smooth(x) for smooth, x in zip(self.smooth, reversed(top_down), strict=True)]

    def forward(self, images: Tensor) -> Predictions:
        levels = self.features(images)
        raw = (
            torch.cat([self.predict(self.dense_head(self.head(level))).flatten(2) for level in levels], 2)
            .transpose(1, 2)
            .float()
        )
        logits, offsets = torch.split(raw, [1, 4], dim=2)
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        cells = make_anchors(shapes, STRIDES, [[s] for s in STRIDES], images.device)
        return Predictions(logits.squeeze(2), offsets, cells)

    def decode(self, predictions: Predictions) -> Tensor:
        offset, log_size = torch.split(predictions.offsets, [2, 2], dim=2)
        stride = predictions.anchors[:, 2:]
        centre = predictions.anchors[:, :2] + offset * stride
        half = log_size.clamp(max=6.0).exp() * stride * 0.5
        return torch.cat([centre - half, centre + half], 2)

    def targets(
        self, predictions: Predictions, faces: Sequence[Tensor], ignored: Sequence[Tensor] | None = None
    ) -> Targets:
        return task_aligned_targets(predictions.logits, self.decode(predictions), predictions.anchors, faces, ignored)

    def loss(self, predictions: Predictions, targets: Targets, label_smoothing: float = 0.0) -> Losses:
        boxes = self.decode(predictions)
        score, box = task_aligned_loss(predictions.logits, boxes, targets, label_smoothing)
        return Losses(score, self.box_weight * box)
