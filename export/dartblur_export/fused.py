"""The graphs that leave training, each a module of its own so that the training networks stay as they are.

The fused graph goes from frames to patches in standard ONNX operators:
cast, letterbox, detector, cluster-NMS, top-K, join with held boxes, one GridSample, Gaussian blur, U-Net.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample, pad

from dartblur.backends.suppression import VOTE_IOU, VOTE_SCORE
from dartblur.bundle import Manifest
from dartblur_train.losses.boxes import pairwise_iou
from dartblur_train.nets.edge_detector import STRIDES, EdgeDetector
from dartblur_train.nets.folding import folded
from dartblur_train.nets.unet import EdgeUNet, PublishedUNet
from dartblur_train.patches import PatchGeometry, blur_faces, crop_grid, face_mask

MULTIPLE = 2 * max(STRIDES)
"""Of the sides of the detector's input: the half-size look needs whole cells too."""

LARGE_FACE = 72.0
"""Smaller faces are left to the first look: their smaller side in pixels of the second."""

LARGEST_FACE = 256.0
"""Larger ones, of which training shows none, are left to the second look: their smaller side in pixels of the first.
What the first says there is mostly false, and covers much."""

SURE_ABOVE, SURER_AT_MOST = 48.0, 5.0
"""Larger faces, in pixels (square root of area), must be surer: the odds that the network gives are divided by how
many times larger they are. A false alarm costs its area and a missed face the same at any size, so one threshold for
all would spend most of the area on large false alarms and miss small faces for it. There is a limit to it, since close
faces in the dark, in motion or behind masks are no surer than others: they'd be missed."""


class DetectorGraph(nn.Module):
    """``image [N, 3, H, W]`` BGR 0..255 to ``boxes [N, A, 4]`` xyxy pixels and ``scores [N, A]`` 0..1.

    The detector looks twice: at the image, and at half its size for the faces that fill most of it, which are larger
    than any that it saw in training. H and W are multiples of `MULTIPLE`. The network computes in the precision of its
    weights, the boxes in single precision.
    """

    def __init__(self, detector: EdgeDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        whole, half = (self.detector(view.to(self._dtype)) for view in (image, avg_pool2d(image, 2)))
        boxes, half_boxes = self.detector.decode(whole), self.detector.decode(half)
        left_out = torch.cat([_smaller_side(boxes) > LARGEST_FACE, _smaller_side(half_boxes) < LARGE_FACE], 1).float()
        boxes = torch.cat([boxes, half_boxes * 2], 1)
        larger = (boxes[..., 2:] - boxes[..., :2]).prod(-1) / SURE_ABOVE**2
        logits = torch.cat([whole.logits, half.logits], 1) - larger.clamp(1.0, SURER_AT_MOST**2).log() / 2
        # A box that is no number would cover nothing: its score says so, and whoever reads it stops.
        return boxes, logits.sigmoid() * (1 - left_out) + 0 * boxes.sum(-1)

    @property
    def _dtype(self) -> torch.dtype:
        return self.detector.predict.weight.dtype


def _smaller_side(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).amin(-1)


class GeneratorGraph(nn.Module):
    """``blurred [n, 3, P, P]`` BGR 0..1 to ``painted [n, 3, P, P]``; the mask is a constant of the geometry."""

    mask: Tensor

    def __init__(self, generator: EdgeUNet | PublishedUNet, geometry: PatchGeometry) -> None:
        super().__init__()
        self.generator = generator
        self.register_buffer("mask", face_mask(geometry))

    def forward(self, blurred: Tensor) -> Tensor:
        painted: Tensor = self.generator(blurred, self.mask.to(blurred.dtype).expand(blurred.shape[0], -1, -1, -1))
        return painted


@dataclass(frozen=True)
class FusedSpec:
    """The fixed sizes of a fused graph; frames may have any size.

    Attributes:
        slots: K, most faces that are found in a frame.
        held: M, boxes that the caller adds.
        candidates: detections that enter non-maximum suppression.
        rounds: of cluster-NMS; exact for chains of overlaps up to this length. An even number: of a longer chain too
            many are kept then, and not too few.
    """

    slots: int = 32
    held: int = 16
    candidates: int = 1024
    rounds: int = 8


class FusedGraph(nn.Module):
    """``frames uint8 [N, H, W, 3]`` BGR and ``held_boxes float32 [N, M, 4]`` to patches, boxes and scores.

    Output: ``patches [N, K + M, 3, P, P]`` BGR 0..1, ``boxes [N, K + M, 4]`` xyxy pixels of the frame (the faces;
    a patch shows its box grown by the manifest's `box_scale` and context) and ``scores [N, K + M]``, 0 in an
    empty slot and 1 for a held box. The caller overwrites the slots whose score reaches its threshold.

    Two things that the caller could not see are made to show in the scores. The last slot's is at least that of the
    weakest candidate: where it reaches the threshold, faces may be missing, for want of slots or of candidates. And
    where the detector says NaN of any place, every score is NaN.

    Every size follows from the frames' shape by whole-number arithmetic, so that one exported graph serves all.

    Args:
        detector, generator: the networks; they stay as they are.
        manifest: sizes, box scale and overlap of the model.
        spec: sizes of the graph.
        half: run the two networks in half precision; boxes and sampling stay in single. Patches are then half too.

    Raises:
        ValueError: the spec asks for more candidates than the smallest frame has places, or for odd rounds.
    """

    def __init__(
        self,
        detector: EdgeDetector,
        generator: EdgeUNet | PublishedUNet,
        manifest: Manifest,
        spec: FusedSpec,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.spec, self.manifest = spec, manifest
        self.geometry = PatchGeometry(manifest.patch_size, manifest.patch_context)
        self.dtype = torch.float16 if half else torch.float32
        self.detector = DetectorGraph(folded(detector)).to(self.dtype)
        self.generator = GeneratorGraph(deepcopy(generator).to(self.dtype), self.geometry)
        if spec.rounds % 2:
            raise ValueError(f"rounds: expected an even number, got {spec.rounds}")
        places = sum(
            (manifest.long_side // look // stride) * (MULTIPLE // look // stride)
            for look in (1, 2)
            for stride in STRIDES
        )
        if not spec.slots <= spec.candidates <= places:
            raise ValueError(f"candidates: expected {spec.slots} (the slots) to {places}, got {spec.candidates}")

    def forward(self, frames: Tensor, held_boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Cast first: TensorRT takes bytes at the door and nowhere else.
        pictures = frames.float().permute(0, 3, 1, 2)
        boxes, scores = self.detector(self.letterbox(pictures))
        scale = self.manifest.long_side / _larger(pictures.shape[2], pictures.shape[3])
        boxes, scores = self.strongest(boxes / scale, scores)
        held_size = held_boxes[..., 2:] - held_boxes[..., :2]
        held_score = (held_size.amin(-1) > 0).float()
        boxes = torch.cat([boxes, held_boxes], 1)
        scores = torch.cat([scores, held_score], 1)
        return self.repaint(pictures, boxes), boxes, scores

    def letterbox(self, pictures: Tensor) -> Tensor:
        """As `dartblur_ops.letterbox`: a box mean by a whole factor, then bilinear, then padding."""
        height, width = pictures.shape[2:]
        long_side, multiple = self.manifest.long_side, self.manifest.multiple
        longest = _larger(height, width)
        factor = _larger(1, longest // long_side)
        cells = _cell_means(pictures, height, width, factor)
        rows, columns = ((2 * side * long_side + longest) // (2 * longest) for side in (height, width))
        # By GridSample, since Resize rounds the scale to whole sizes and so shifts boxes by part of a pixel.
        step = long_side * factor / longest
        cells = grid_sample(
            cells, _sampling_grid(cells, rows, columns, step), padding_mode="border", align_corners=False
        )
        below, right = (
            _parts(side * long_side, longest * multiple) * multiple - scaled
            for side, scaled in ((height, rows), (width, columns))
        )
        return pad(cells, (0, right, 0, below))

    def strongest(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The K best faces after cluster-NMS (Zheng et al. 2021, algorithm 2) and box voting, as in `faces_of`; empty
        slots are all zeros.
        """
        spec = self.spec
        # The best of NaN and numbers is whatever the device likes.
        broken = scores.isnan().float().amax(1, keepdim=True) > 0
        scores, order = scores.topk(spec.candidates, dim=1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        overlap = pairwise_iou(boxes, boxes)
        suppresses = (torch.triu(overlap, diagonal=1) > self.manifest.nms_iou).float()
        keep = torch.ones_like(scores)
        for _ in range(spec.rounds):
            keep = 1 - (suppresses * keep[..., None]).amax(1)
        best, order = (scores * keep).topk(spec.slots, dim=1)
        overlap = overlap.gather(1, order[..., None].expand(-1, -1, spec.candidates))
        kept = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        boxes = _voted(kept, overlap, boxes, scores) * (best > 0).float()[..., None]
        last = torch.maximum(best[:, -1:], scores[:, -1:])
        best = torch.cat([best[:, :-1], last], 1)
        return boxes, torch.where(broken, torch.nan, best)

    def repaint(self, pictures: Tensor, boxes: Tensor) -> Tensor:
        """Cuts out, blurs and repaints the boxes ``[N, n, 4]``, all faces by one GridSample."""
        size, (batch, _, height, width) = self.geometry.size, pictures.shape
        count = boxes.shape[1]
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2
        half = (boxes[..., 2:] - boxes[..., :2]) / 2 * self.manifest.box_scale
        grown = torch.cat([centre - half, centre + half], -1).reshape(-1, 4)
        grid = crop_grid(grown, height, width, self.geometry).view(batch, count * size, size, 2)
        column = grid_sample(pictures / 255, grid, padding_mode="border", align_corners=False)
        patches = column.view(batch, 3, count, size, size).transpose(1, 2).reshape(-1, 3, size, size)
        painted: Tensor = self.generator(blur_faces(patches, self.geometry).to(self.dtype))
        return painted.view(batch, count, 3, size, size)


def _voted(kept: Tensor, overlap: Tensor, voters: Tensor, scores: Tensor) -> Tensor:
    """The boxes ``kept [N, K, 4]`` as all candidates see them that overlap them, ``overlap [N, K, C]``, enough."""
    weights = overlap * scores[:, None] * ((overlap > VOTE_IOU) & (scores >= VOTE_SCORE)[:, None]).float()
    total = weights.sum(2)[..., None]
    # Not as a matrix product, for which GPUs round coordinates to ten bits.
    mean = (weights[..., None] * voters[:, None]).sum(2) / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, mean, kept)


def _larger(a: int, b: int) -> int:
    """The maximum, also of sizes that an exported graph leaves free."""
    larger: int = torch.sym_max(a, b)  # type: ignore[no-untyped-call]
    return larger


def _parts(side: int, size: int) -> int:
    """How many parts of this size cover the side; without negative numbers, which ONNX divides another way."""
    return (side + size - 1) // size


def _cell_means(pictures: Tensor, height: int, width: int, factor: int) -> Tensor:
    """Means over cells of `factor` by `factor` pixels; of a cell that the edge cuts, over the pixels that exist."""
    rows, columns = _parts(height, factor), _parts(width, factor)
    whole = pad(pictures, (0, columns * factor - width, 0, rows * factor - height))
    sums = whole.reshape(pictures.shape[0], 3, rows, factor, columns, factor).sum((3, 5))
    lines, across = (
        (side - torch.arange(cells, device=pictures.device) * factor).clamp(max=factor).float()
        for side, cells in ((height, rows), (width, columns))
    )
    return sums / (lines[:, None] * across)


def _sampling_grid(cells: Tensor, rows: int, columns: int, step: float) -> Tensor:
    """``[N, rows, columns, 2]``: pixel x shows the source's ``(x + 0.5) / step - 0.5``."""
    batch, _, height, width = cells.shape
    x = (torch.arange(columns, device=cells.device) + 0.5) / step * (2 / width) - 1
    y = (torch.arange(rows, device=cells.device) + 0.5) / step * (2 / height) - 1
    grid = torch.stack([x[None, :].expand(rows, -1), y[:, None].expand(-1, columns)], -1)
    return grid.expand(batch, -1, -1, -1)
