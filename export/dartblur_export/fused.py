"""The graphs that leave training, each a module of its own so that the training networks stay as they are.

The fused graph goes from frames to patches in standard ONNX operators:
cast, letterbox, detector, cluster-NMS, top-K, join with held boxes, one GridSample, Gaussian blur, U-Net.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample, pad

from dartblur.bundle import Manifest
from dartblur_train.losses.boxes import pairwise_iou
from dartblur_train.nets.edge_detector import STRIDES, EdgeDetector
from dartblur_train.nets.unet import EdgeUNet, PublishedUNet
from dartblur_train.patches import PatchGeometry, blur_faces, crop_grid, face_mask

MULTIPLE = 2 * max(STRIDES)
"""Of the sides of the detector's input: the half-size look needs whole cells too."""

LARGE_FACE = 72.0
"""Smaller faces are left to the first look: their smaller side in pixels of the second."""


class DetectorGraph(nn.Module):
    """``image [N, 3, H, W]`` BGR 0..255 to ``boxes [N, A, 4]`` xyxy pixels and ``scores [N, A]`` 0..1.

    The detector looks twice: at the image, and at half its size for the faces that fill most of it, which are larger
    than any that it saw in training. H and W are multiples of `MULTIPLE`.
    """

    def __init__(self, detector: EdgeDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        whole, half = self.detector(image), self.detector(avg_pool2d(image, 2))
        boxes, half_boxes = self.detector.decode(whole), self.detector.decode(half)
        large = ((half_boxes[..., 2:] - half_boxes[..., :2]).amin(-1) >= LARGE_FACE).float()
        scores = torch.cat([whole.logits.sigmoid(), half.logits.sigmoid() * large], 1)
        return torch.cat([boxes, half_boxes * 2], 1), scores


class GeneratorGraph(nn.Module):
    """``blurred [n, 3, P, P]`` BGR 0..1 to ``painted [n, 3, P, P]``; the mask is a constant of the geometry."""

    mask: Tensor

    def __init__(self, generator: EdgeUNet | PublishedUNet, geometry: PatchGeometry) -> None:
        super().__init__()
        self.generator = generator
        self.register_buffer("mask", face_mask(geometry))

    def forward(self, blurred: Tensor) -> Tensor:
        painted: Tensor = self.generator(blurred, self.mask.expand(blurred.shape[0], -1, -1, -1))
        return painted


@dataclass(frozen=True)
class FusedSpec:
    """The fixed sizes of a fused graph.

    Attributes:
        height, width: of the frames, pixels.
        batch: frames at once.
        slots: K, most faces that are found in a frame.
        held: M, boxes that the caller adds.
        candidates: detections that enter non-maximum suppression.
        rounds: of cluster-NMS; exact for chains of overlaps up to this length.
    """

    height: int = 720
    width: int = 1280
    batch: int = 1
    slots: int = 32
    held: int = 16
    candidates: int = 512
    rounds: int = 8


class FusedGraph(nn.Module):
    """``frames uint8 [N, H, W, 3]`` BGR and ``held_boxes float32 [N, M, 4]`` to patches, boxes and scores.

    Output: ``patches [N, K + M, 3, P, P]`` BGR 0..1, ``boxes [N, K + M, 4]`` xyxy pixels of the frame (the faces;
    a patch shows its box grown by the manifest's `box_scale` and context) and ``scores [N, K + M]``, 0 in an
    empty slot and 1 for a held box. The caller overwrites the slots whose score reaches its threshold.
    """

    def __init__(
        self, detector: EdgeDetector, generator: EdgeUNet | PublishedUNet, manifest: Manifest, spec: FusedSpec
    ) -> None:
        super().__init__()
        self.spec, self.manifest = spec, manifest
        self.geometry = PatchGeometry(manifest.patch_size, manifest.patch_context)
        self.detector = DetectorGraph(detector)
        self.generator = GeneratorGraph(generator, self.geometry)
        self.input_size = manifest.detector_size(spec.height, spec.width)
        self.scale = min(self.input_size[0] / spec.height, self.input_size[1] / spec.width)

    def forward(self, frames: Tensor, held_boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pictures = frames.permute(0, 3, 1, 2).float()
        boxes, scores = self.detector(self.letterbox(pictures))
        boxes, scores = self.strongest(boxes / self.scale, scores)
        held_size = held_boxes[..., 2:] - held_boxes[..., :2]
        held_score = (held_size.amin(-1) > 0).float()
        boxes = torch.cat([boxes, held_boxes], 1)
        scores = torch.cat([scores, held_score], 1)
        return self.repaint(pictures, boxes), boxes, scores

    def letterbox(self, pictures: Tensor) -> Tensor:
        """As `dartblur_ops.letterbox`: a box mean by a whole factor, then bilinear, then padding."""
        spec, (height, width) = self.spec, self.input_size
        rows, columns = min(height, round(spec.height * self.scale)), min(width, round(spec.width * self.scale))
        factor = max(1, int(1 / self.scale + 1e-6))
        if factor > 1:
            # At the right and lower edge a cell may be cut: its mean is over the pixels that exist.
            pictures = avg_pool2d(pictures, factor, ceil_mode=True, count_include_pad=False)
        step = self.scale * factor
        if step != 1.0:
            # By GridSample, since Resize rounds the scale to whole sizes and so shifts boxes by part of a pixel.
            grid = self._sampling_grid(rows, columns, step, pictures)
            pictures = grid_sample(pictures, grid, padding_mode="border", align_corners=False)
        pictures = pictures[..., :rows, :columns]
        return pad(pictures, (0, width - columns, 0, height - rows))

    def _sampling_grid(self, rows: int, columns: int, step: float, pictures: Tensor) -> Tensor:
        """``[N, rows, columns, 2]``: pixel x shows the source's ``(x + 0.5) / step - 0.5``."""
        height, width = pictures.shape[-2:]
        x = (torch.arange(columns, device=pictures.device) + 0.5) / step * (2 / width) - 1
        y = (torch.arange(rows, device=pictures.device) + 0.5) / step * (2 / height) - 1
        grid = torch.stack([x[None, :].expand(rows, -1), y[:, None].expand(-1, columns)], -1)
        return grid.expand(self.spec.batch, -1, -1, -1)

    def strongest(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The K best faces after cluster-NMS (Zheng et al. 2021, algorithm 2); empty slots are all zeros."""
        spec = self.spec
        scores, order = scores.topk(min(spec.candidates, scores.shape[1]), dim=1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        overlap = torch.triu(pairwise_iou(boxes, boxes), diagonal=1)
        suppresses = (overlap > self.manifest.nms_iou).float()
        keep = torch.ones_like(scores)
        for _ in range(spec.rounds):
            keep = 1 - (suppresses * keep[..., None]).amax(1)
        scores, order = (scores * keep).topk(min(spec.slots, scores.shape[1]), dim=1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        return boxes * (scores > 0).float()[..., None], scores

    def repaint(self, pictures: Tensor, boxes: Tensor) -> Tensor:
        """Cuts out, blurs and repaints the boxes ``[N, n, 4]``, all faces by one GridSample."""
        spec, size = self.spec, self.geometry.size
        count = boxes.shape[1]
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2
        half = (boxes[..., 2:] - boxes[..., :2]) / 2 * self.manifest.box_scale
        grown = torch.cat([centre - half, centre + half], -1).reshape(-1, 4)
        grid = crop_grid(grown, spec.height, spec.width, self.geometry).view(spec.batch, count * size, size, 2)
        column = grid_sample(pictures / 255, grid, padding_mode="border", align_corners=False)
        patches = column.view(spec.batch, 3, count, size, size).transpose(1, 2).reshape(-1, 3, size, size)
        painted: Tensor = self.generator(blur_faces(patches, self.geometry))
        return painted.view(spec.batch, count, 3, size, size)
