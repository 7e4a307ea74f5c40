"""RetinaFace with MobileNetV1 x0.25 (Deng et al., CVPR 2020): the detector that DartBlur protects.

Submodules carry the names of the published weights, so that those load as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints import load_checkpoint
from ..data.labels import DataError

STRIDES = (8, 16, 32)
ANCHOR_SIZES = ((16, 32), (64, 128), (256, 512))
VARIANCES = (0.1, 0.2)
MEAN_RGB = (104.0, 117.0, 123.0)


@dataclass(frozen=True)
class AnchorPredictions:
    """What an anchor-based detector says of a batch.

    Attributes:
        offsets: ``[N, A, 4]``, centre and log size relative to the anchors, over the variances.
        logits: ``[N, A, 2]``, background and face.
        anchors: ``[A, 4]``, centre x, centre y, width, height in input pixels.
    """

    offsets: Tensor
    logits: Tensor
    anchors: Tensor


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


class RetinaFace(nn.Module):
    """Finds faces with two anchors a cell at strides 8, 16 and 32.

    Input: ``[N, 3, H, W]`` float, BGR, 0..255, any size.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = _Body()
        self.fpn = _Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = _ContextModule(), _ContextModule(), _ContextModule()
        self.ClassHead = nn.ModuleList(_Head(2 * 2) for _ in STRIDES)
        self.BboxHead = nn.ModuleList(_Head(2 * 4) for _ in STRIDES)
        # Landmarks aren't used here; the head stays so that the published weights fit.
        self.LandmarkHead = nn.ModuleList(_Head(2 * 10) for _ in STRIDES)
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> AnchorPredictions:
        levels = self.fpn(self.body(images.flip(1) - self.mean))
        features = [ssh(x) for ssh, x in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]
        count = len(images)
        offsets = [head(x).reshape(count, -1, 4) for head, x in zip(self.BboxHead, features, strict=True)]
        logits = [head(x).reshape(count, -1, 2) for head, x in zip(self.ClassHead, features, strict=True)]
        anchors = make_anchors([(x.shape[-2], x.shape[-1]) for x in features], images.device)
        return AnchorPredictions(torch.cat(offsets, 1), torch.cat(logits, 1), anchors)


def make_anchors(shapes: list[tuple[int, int]], device: torch.device) -> Tensor:
    """Anchors ``[A, 4]`` (centre x, centre y, width, height, pixels) of maps with these rows and columns."""
    anchors = []
    for (rows, columns), stride, sizes in zip(shapes, STRIDES, ANCHOR_SIZES, strict=True):
        y = ((torch.arange(rows, device=device) + 0.5) * stride).view(-1, 1, 1).expand(-1, columns, 2)
        x = ((torch.arange(columns, device=device) + 0.5) * stride).view(1, -1, 1).expand(rows, -1, 2)
        size = torch.tensor(sizes, device=device, dtype=torch.float32).expand(rows, columns, 2)
        anchors.append(torch.stack([x, y, size, size], -1).reshape(-1, 4))
    return torch.cat(anchors)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets ``[..., 4]`` of xyxy boxes from their anchors (RetinaFace's variances)."""
    centre = ((boxes[..., :2] + boxes[..., 2:]) / 2 - anchors[..., :2]) / (VARIANCES[0] * anchors[..., 2:])
    size = ((boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3) / anchors[..., 2:]).log() / VARIANCES[1]
    return torch.cat([centre, size], -1)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode`."""
    centre = anchors[..., :2] + offsets[..., :2] * VARIANCES[0] * anchors[..., 2:]
    half = anchors[..., 2:] * (offsets[..., 2:] * VARIANCES[1]).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


def load_retinaface(weights: Path) -> RetinaFace:
    """A RetinaFace with published weights, in evaluation mode.

    Raises:
        DataError: the file is missing or does not hold these weights.
    """
    if not weights.is_file():
        raise DataError(f"{weights} is not there: expected the published Retinaface_mobilenet0.25.pth")
    model = RetinaFace()
    state = {name.removeprefix("module."): value for name, value in load_checkpoint(weights).items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"{weights}: expected the weights of RetinaFace MobileNet-0.25: {error}") from error
    return model.eval()
