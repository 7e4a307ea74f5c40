"""Runs a torch detector over images of a data set, as the SDK would: letterboxed, thresholded, suppressed."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..nets.face_detector import FaceDetector, Predictions


def suppress(boxes: Tensor, scores: Tensor, iou: float, most: int = 3000) -> Tensor:
    """Greedy non-maximum suppression of the `most` best: indices of the boxes ``[n, 4]`` to keep, best score first."""
    order = scores.argsort(descending=True)[:most].cpu().numpy()
    corners = boxes[torch.as_tensor(order)].detach().cpu().numpy()
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    keep = cv2.dnn.NMSBoxes(xywh.tolist(), scores.detach().cpu().numpy()[order].tolist(), 0.0, iou)
    return torch.as_tensor(order[np.asarray(keep, int).reshape(-1)])


@torch.no_grad()
def detect(
    detector: FaceDetector,
    images: Iterable[NDArray[np.uint8]],
    long_side: int | None = None,
    threshold: float = 0.02,
    iou: float = 0.45,
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Boxes ``[n, 4]`` (xyxy, pixels of the image) and scores ``[n]`` for each image.

    Args:
        detector: of any family; it is left in the mode that it was in.
        images: uint8 ``[H, W, 3]`` BGR.
        long_side: scale images to this long side; None keeps their size.
    """
    modes = [(module, module.training) for module in detector.modules()]
    detector.eval()
    found = []
    for image in images:
        scale = 1.0 if long_side is None else long_side / max(image.shape[:2])
        if scale != 1.0:
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=how).astype(np.uint8, copy=False)
        height, width = (-(-side // detector.multiple) * detector.multiple for side in image.shape[:2])
        padded = np.zeros((height, width, 3), np.uint8)
        padded[: image.shape[0], : image.shape[1]] = image
        device = next(detector.parameters()).device
        predictions: Predictions = detector(torch.from_numpy(padded).permute(2, 0, 1)[None].float().to(device))
        scores = predictions.logits[0].sigmoid().cpu()
        strong = scores > threshold
        box, score = detector.decode(predictions)[0].cpu()[strong], scores[strong]
        keep = suppress(box, score, iou)
        found.append((box[keep].numpy() / np.float32(scale), score[keep].numpy()))
    # Part by part: a fixed network inside one that trains stays fixed.
    for module, training in modes:
        module.training = training
    return found
