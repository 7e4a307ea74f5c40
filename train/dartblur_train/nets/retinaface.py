"""RetinaFace with MobileNetV1 x0.25 (Deng et al., CVPR 2020): the detector that DartBlur protects.

Submodules carry the names of the published weights, so that those load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..losses.multibox import multibox_loss, multibox_targets
from .anchors import decode, make_anchors
from .face_detector import FaceDetector, Losses, Predictions, Targets

STRIDES = (8, 16, 32)
ANCHOR_SIZES = ((16, 32), (64, 128), (256, 512))
MEAN_RGB = (104.0, 117.0, 123.0)


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, leak: float | None = 0.1) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([] if leak is None else [nn.LeakyReLU(leak, inplace=True)]))


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


class _Body(nn.Module):
    """MobileNetV1 at a quarter of its width, cut after strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            _conv(3, 8, stride=2),
            _separable(8, 16, 1),
            _separable(16, 32, 2),
            _separable(32, 32, 1),
            _separable(32, 64, 2),
            _separable(64, 64, 1),
        )
        self.stage2 = nn.Sequential(_separable(64, 128, 2), *(_separable(128, 128, 1) for _ in range(5)))
        self.stage3 = nn.Sequential(_separable(128, 256, 2), _separable(256, 256, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        x1 = self.stage1(x)
        x2 = self.stage2(x1)
        return [x1, x2, self.stage3(x2)]


class _Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (_conv(width, 64, kernel=1) for width in (64, 128, 256))
        self.merge1, self.merge2 = _conv(64, 64), _conv(64, 64)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = self.output1(levels[0]), self.output2(levels[1]), self.output3(levels[2])
        middle = self.merge2(middle + nn.functional.interpolate(coarse, size=middle.shape[-2:]))
        fine = self.merge1(fine + nn.functional.interpolate(middle, size=fine.shape[-2:]))
        return [fine, middle, coarse]


class _ContextModule(nn.Module):
    """SSH (Najibi et al., ICCV 2017): the same map seen through 3x3, 5x5 and 7x7 windows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3X3 = _conv(64, 32, leak=None)
        self.conv5X5_1 = _conv(64, 16)
        self.conv5X5_2 = _conv(16, 16, leak=None)
        self.conv7X7_2 = _conv(16, 16)
        self.conv7x7_3 = _conv(16, 16, leak=None)

    def forward(self, x: Tensor) -> Tensor:
        middle = self.conv5X5_1(x)
        wide = self.conv7x7_3(self.conv7X7_2(middle))
        return nn.functional.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(middle), wide], 1))


class _Head(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(64, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, cells, outputs]``."""
        y: Tensor = self.conv1x1(x)
        return y.permute(0, 2, 3, 1).flatten(1, 2)


class RetinaFace(FaceDetector):
    """Finds faces with two anchors a cell at strides 8, 16 and 32; takes pictures of any size."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = _Body()
        self.fpn = _Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = _ContextModule(), _ContextModule(), _ContextModule()
        self.ClassHead = nn.ModuleList(_Head(2 * 2) for _ in STRIDES)
        self.BboxHead = nn.ModuleList(_Head(2 * 4) for _ in STRIDES)
        # Landmarks aren't used or trained here; the head stays so that the published weights fit.
        self.LandmarkHead = nn.ModuleList(_Head(2 * 10) for _ in STRIDES)
        self.LandmarkHead.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Predictions:
        levels = self.fpn(self.body(images.flip(1) - self.mean))
        features = [ssh(x) for ssh, x in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]
        count = len(images)
        offsets = [head(x).reshape(count, -1, 4) for head, x in zip(self.BboxHead, features, strict=True)]
        classes = [head(x).reshape(count, -1, 2) for head, x in zip(self.ClassHead, features, strict=True)]
        # A softmax over background and face is a sigmoid of their difference.
        logits = torch.cat([x[..., 1] - x[..., 0] for x in classes], 1)
        shapes = [(x.shape[-2], x.shape[-1]) for x in features]
        return Predictions(logits, torch.cat(offsets, 1), make_anchors(shapes, STRIDES, ANCHOR_SIZES, images.device))

    def decode(self, predictions: Predictions) -> Tensor:
        return decode(predictions.offsets, predictions.anchors)

    def targets(
        self, predictions: Predictions, faces: Sequence[Tensor], ignored: Sequence[Tensor] | None = None
    ) -> Targets:
        return multibox_targets(predictions.anchors, faces, ignored)

    def loss(self, predictions: Predictions, targets: Targets, label_smoothing: float = 0.0) -> Losses:
        return multibox_loss(predictions, targets, label_smoothing)
