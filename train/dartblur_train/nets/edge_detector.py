"""The edge detector: a small anchor-free face detector in the family of YuNet and SCRFD.

Strides 8, 16 and 32, depthwise-separable blocks, a top-down feature pyramid and one head that the
three levels share. Each cell predicts one face: a logit for "the IoU with a face that I would reach"
(so a single score, as in VarifocalNet) and a box as in YOLOX, ``(dx, dy, log w, log h)`` in strides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class EdgeDetectorSpec:
    """Widths and depths of an edge detector.

    Attributes:
        stem: channels of the first convolution, at stride 2.
        widths: channels at strides 4, 8, 16 and 32.
        depths: residual blocks after the downsampling block at strides 4, 8, 16 and 32.
        pyramid: channels of the feature pyramid and the head.
    """

    stem: int = 16
    widths: tuple[int, int, int, int] = (32, 64, 128, 192)
    depths: tuple[int, int, int, int] = (1, 3, 3, 2)
    pyramid: int = 64


SPECS = {"small": EdgeDetectorSpec()}


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
        y = self.relu(self.norm1(self.depthwise(x)))
        y = self.norm2(self.pointwise(y))
        out: Tensor = self.relu(x + y if self.residual else y)
        return out


class EdgeDetector(nn.Module):
    """Finds faces.

    Input: ``[N, 3, H, W]`` float, BGR, 0..255, H and W multiples of 32.
    Output: ``logits [N, A]`` and ``boxes [N, A, 4]`` as xyxy in input pixels, where A counts the cells
    of the three levels, finest first, row by row.
    """

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
            )
            for before, width, depth in zip(channels[:-1], spec.widths, spec.depths, strict=True)
        )
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, spec.pyramid, 1, bias=False), nn.BatchNorm2d(spec.pyramid))
            for width in spec.widths[1:]
        )
        self.smooth = nn.ModuleList(DepthwiseBlock(spec.pyramid, spec.pyramid) for _ in STRIDES)
        self.head = DepthwiseBlock(spec.pyramid, spec.pyramid)
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

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raw, centres, strides = [], [], []
        for stride, feature in zip(STRIDES, self.features(images), strict=True):
            raw.append(self.predict(self.head(feature)).flatten(2))
            points = cell_centres(feature.shape[-2], feature.shape[-1], stride, feature.device)
            centres.append(points)
            strides.append(torch.full_like(points[:, :1], float(stride)))
        prediction = torch.cat(raw, 2).transpose(1, 2).float()
        logits, offset, log_size = torch.split(prediction, [1, 2, 2], dim=2)
        stride_of = torch.cat(strides)
        centre = torch.cat(centres) + offset * stride_of
        half = log_size.clamp(max=6.0).exp() * stride_of * 0.5
        return logits.squeeze(2), torch.cat([centre - half, centre + half], 2)


def cell_centres(rows: int, columns: int, stride: int, device: torch.device) -> Tensor:
    """Centres of a level's cells, ``[rows * columns, 2]`` as x, y in input pixels."""
    y = (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) * stride
    x = (torch.arange(columns, device=device, dtype=torch.float32) + 0.5) * stride
    return torch.stack([x[None, :].expand(rows, -1), y[:, None].expand(-1, columns)], 2).reshape(-1, 2)
