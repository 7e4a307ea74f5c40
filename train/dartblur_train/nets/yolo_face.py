"""A small YOLO5Face (Qi et al., "YOLO5Face: Why Reinventing a Face Detector", 2021): YOLOv5, changed for faces.

From the paper are the overall plan (figure 1: CSP backbone, SPP, PAN neck, three heads), the stem block in place of
YOLOv5's focus layer, and the small kernels of the SPP. Boxes are written and learned as in YOLOv5. Anchors are those
that the detector is published with.

What differs: the network is narrower than the paper's smallest, so that it trains without an accelerator. What is left
out: the landmark head with its Wing loss (equations 1 to 3), which the interface has no use for, and the optional
output at stride 64. With the single class "face" the score is the objectness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..losses.yolo import yolo_loss, yolo_targets
from .face_detector import FaceDetector, Losses, Predictions, Targets

STRIDES = (8, 16, 32)
ANCHORS = (
    ((4.0, 5.0), (8.0, 10.0), (13.0, 16.0)),
    ((23.0, 29.0), (43.0, 55.0), (73.0, 105.0)),
    ((146.0, 217.0), (231.0, 300.0), (335.0, 433.0)),
)
"""Width and height, pixels, of the anchors at each cell of a level."""
WIDTHS = (16, 40, 80, 160)
"""Channels at strides 4, 8, 16 and 32."""
DEPTHS = (1, 2, 3, 1)
"""Residual blocks at strides 4, 8, 16 and 32."""


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    )


def _double(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


class _Stem(nn.Module):
    """Stem block (figure 1): to stride 4 by a convolution beside a max pooling."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.enter = _conv(3, outputs, 3, 2)
        self.conv = nn.Sequential(_conv(outputs, outputs // 2), _conv(outputs // 2, outputs, 3, 2))
        self.pool = nn.MaxPool2d(2)
        self.leave = _conv(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        out: Tensor = self.leave(torch.cat([self.conv(x), self.pool(x)], 1))
        return out


class _Bottleneck(nn.Module):
    def __init__(self, width: int, residual: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(width, width), _conv(width, width, 3))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class _Csp(nn.Module):
    """CSP block with three convolutions ("C3", figure 1): half of the channels pass beside the bottlenecks."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, residual: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.deep = nn.Sequential(_conv(inputs, half), *(_Bottleneck(half, residual) for _ in range(depth)))
        self.beside = _conv(inputs, half)
        self.join = _conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.join(torch.cat([self.deep(x), self.beside(x)], 1))
        return out


class _Spp(nn.Module):
    """Spatial pyramid pooling, with the paper's windows of 3, 5 and 7 instead of YOLOv5's 5, 9 and 13."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = _conv(width, width // 2)
        self.pools = nn.ModuleList(nn.MaxPool2d(kernel, 1, kernel // 2) for kernel in (3, 5, 7))
        self.leave = _conv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        out: Tensor = self.leave(torch.cat([x, *(pool(x) for pool in self.pools)], 1))
        return out


class _Body(nn.Module):
    """Maps at strides 8, 16 and 32, finest first."""

    def __init__(self) -> None:
        super().__init__()
        first, *rest = WIDTHS
        self.stem = nn.Sequential(_Stem(first), _Csp(first, first, DEPTHS[0]))
        self.stages = nn.ModuleList()
        before = first
        for width, depth in zip(rest, DEPTHS[1:], strict=True):
            last = len(self.stages) == len(rest) - 1
            self.stages.append(
                nn.Sequential(
                    _conv(before, width, 3, 2),
                    _Spp(width) if last else nn.Identity(),
                    _Csp(width, width, depth, residual=not last),
                )
            )
            before = width

    def forward(self, images: Tensor) -> list[Tensor]:
        x, levels = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


class _PathAggregation(nn.Module):
    """PAN neck (Liu et al., CVPR 2018): down the pyramid, then up again."""

    def __init__(self) -> None:
        super().__init__()
        _, fine, middle, coarse = WIDTHS
        self.reduce_coarse, self.reduce_middle = _conv(coarse, middle), _conv(middle, fine)
        self.down_middle = _Csp(2 * middle, middle, residual=False)
        self.down_fine = _Csp(2 * fine, fine, residual=False)
        self.stride_fine, self.stride_middle = _conv(fine, fine, 3, 2), _conv(middle, middle, 3, 2)
        self.up_middle = _Csp(2 * fine, middle, residual=False)
        self.up_coarse = _Csp(2 * middle, coarse, residual=False)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = levels
        coarse = self.reduce_coarse(coarse)
        middle = self.reduce_middle(self.down_middle(torch.cat([_double(coarse), middle], 1)))
        fine = self.down_fine(torch.cat([_double(middle), fine], 1))
        middle = self.up_middle(torch.cat([self.stride_fine(fine), middle], 1))
        return [fine, middle, self.up_coarse(torch.cat([self.stride_middle(middle), coarse], 1))]


class YoloFace(FaceDetector):
    """Finds faces with three anchors a cell at strides 8, 16 and 32."""

    multiple = STRIDES[-1]

    def __init__(self) -> None:
        super().__init__()
        self.body = _Body()
        self.neck = _PathAggregation()
        self.heads = nn.ModuleList(nn.Conv2d(width, len(ANCHORS[0]) * 5, 1) for width in WIDTHS[1:])
        self._init_weights()

    def _init_weights(self) -> None:
        for head, stride in zip(self.heads, STRIDES, strict=True):
            assert isinstance(head, nn.Conv2d)
            assert head.bias is not None
            nn.init.zeros_(head.bias)
            # YOLOv5's prior: eight faces in a picture of 640 pixels.
            nn.init.constant_(head.bias[::5], math.log(8 / (640 / stride) ** 2))

    def forward(self, images: Tensor) -> Predictions:
        levels = self.neck(self.body(images / 255))
        # Channels are anchors by (objectness, x, y, w, h); places are rows by columns by anchors.
        raw = [
            head(x).permute(0, 2, 3, 1).reshape(len(images), -1, 5) for head, x in zip(self.heads, levels, strict=True)
        ]
        places = torch.cat(raw, 1)
        places = places.to(torch.promote_types(places.dtype, torch.float32))
        anchors = _make_anchors([(x.shape[-2], x.shape[-1]) for x in levels], images.device)
        return Predictions(places[..., 0], places[..., 1:], anchors)

    def decode(self, predictions: Predictions) -> Tensor:
        """``xy = (2 sigmoid - 0.5 + cell) * stride`` and ``wh = (2 sigmoid)^2 * anchor``, as corners."""
        stride = _strides(_levels(predictions.anchors))
        doubled = 2 * predictions.offsets.sigmoid()
        # An anchor's centre is that of its cell, half a stride after the cell's corner.
        centre = predictions.anchors[:, :2] + (doubled[..., :2] - 1) * stride[:, None]
        half = doubled[..., 2:].square() * predictions.anchors[:, 2:] / 2
        return torch.cat([centre - half, centre + half], -1)

    def targets(
        self, predictions: Predictions, faces: Sequence[Tensor], ignored: Sequence[Tensor] | None = None
    ) -> Targets:
        anchors = predictions.anchors
        return yolo_targets(self.decode(predictions), anchors, _strides(_levels(anchors)), faces, ignored)

    def loss(self, predictions: Predictions, targets: Targets, label_smoothing: float = 0.0) -> Losses:
        boxes, levels = self.decode(predictions), _levels(predictions.anchors)
        return Losses(*yolo_loss(predictions.logits, boxes, levels, targets, label_smoothing))


def _make_anchors(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Anchors ``[A, 4]`` (centre x, centre y, width, height, pixels) of maps with these rows and columns."""
    anchors = []
    for (rows, columns), stride, sizes in zip(shapes, STRIDES, ANCHORS, strict=True):
        y = ((torch.arange(rows, device=device) + 0.5) * stride).view(-1, 1, 1).expand(-1, columns, len(sizes))
        x = ((torch.arange(columns, device=device) + 0.5) * stride).view(1, -1, 1).expand(rows, -1, len(sizes))
        size = torch.tensor(sizes, device=device).expand(rows, columns, -1, -1)
        anchors.append(torch.cat([torch.stack([x, y], -1), size], -1).reshape(-1, 4))
    return torch.cat(anchors)


def _levels(anchors: Tensor) -> Tensor:
    """``[A]``, the level of each place, 0 for the finest."""
    # Each level has a quarter of the places of the one before, so that their number says where it starts.
    parts = torch.tensor([16, 4, 1], device=anchors.device)
    repeats = parts * (len(anchors) // 21)
    return torch.arange(3, device=anchors.device).repeat_interleave(repeats, output_size=len(anchors))


def _strides(levels: Tensor) -> Tensor:
    """``[A]``, pixels from cell to cell around each place."""
    return torch.tensor(STRIDES, device=levels.device)[levels]
