"""Operational fidelity: does the detector find in anonymized images what it finds in clear ones?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.cache import read_bgr
from ..data.labels import FaceImage
from ..nets.retinaface import RetinaFace, decode
from ..nets.unet import EdgeUNet, PublishedUNet
from ..patches import PatchGeometry, prepare, redact
from .average_precision import average_precision
from .detect import detect


class ScoredBoxes(nn.Module):
    """RetinaFace seen as `detect` sees a detector: one logit and one box for each anchor."""

    def __init__(self, detector: RetinaFace) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        predictions = self.detector(images.to(next(self.detector.parameters()).device))
        logits = predictions.logits[..., 1] - predictions.logits[..., 0]
        return logits.cpu(), decode(predictions.offsets, predictions.anchors).cpu()


@torch.no_grad()
def operational_fidelity(
    records: Sequence[FaceImage],
    g: EdgeUNet | PublishedUNet,
    f: RetinaFace,
    geometry: PatchGeometry,
    confidence: float = 0.5,
) -> dict[str, float]:
    """AP@0.5 of f on anonymized images against its own detections on clear ones, for g, Gaussian and solid.

    Args:
        records: images; their annotated faces are the ones that are overwritten.
        g, f, geometry: generator, detector, and how faces are cut out.
        confidence: lowest score of the detections on clear images that count as truth.
    """
    detector = ScoredBoxes(f)
    device = next(f.parameters()).device
    truth, found = [], {"dart": [], "gaussian": [], "solid": []}  # type: ignore[var-annotated]
    for record in records:
        image = read_bgr(record.path)
        boxes, scores = detect(detector, [image])[0]
        truth.append((boxes[scores >= confidence], np.zeros(int((scores >= confidence).sum()), bool)))
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float().to(device)
        b = torch.from_numpy(record.boxes).to(device)
        batch = prepare(x, [b], geometry)
        pictures = {
            "dart": redact(batch, g, geometry).images,
            "gaussian": batch.blurred,
            "solid": batch.images * (1 - batch.mask),
        }
        for name, picture in pictures.items():
            found[name].append(detect(detector, [_to_image(picture)])[0])
    return {f"operational_{name}": average_precision(f_x, truth).average_precision for name, f_x in found.items()}


def _to_image(picture: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = picture[0].clamp(0, 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return pixels
