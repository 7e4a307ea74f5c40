"""The paper's three fidelities: does a detector find what f finds in clear images?

Operational: f on ``g(x)``. Post-hoc: f_g, trained on ``g(x)``, on ``g(x)``. Cycle: the same f_g on clear ``x``.
Each is the AP@0.5 with f's own detections on ``x`` as the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.cache import read_bgr
from ..data.labels import FaceImage
from ..methods import Method
from ..nets.face_detector import FaceDetector
from .average_precision import PrecisionRecall, average_precision
from .detect import detect

Boxes = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Boxes ``[n, 4]`` (xyxy pixels) and scores ``[n]`` of an image."""

CONFIDENCE = 0.5
"""Lowest score of f's detections on clear images that count as truth, where nothing else is said."""


def find(detector: FaceDetector, records: Sequence[FaceImage], at: Callable[[Path], Path] | None = None) -> list[Boxes]:
    """What a detector finds in each picture.

    Args:
        detector: of any family.
        records: pictures.
        at: where the picture lies that is looked at instead, such as its anonymized copy.
    """
    return detect(detector, (read_bgr(record.path if at is None else at(record.path)) for record in records))


def fidelity(
    found: Sequence[Boxes], f_x: Sequence[Boxes], confidence: float = CONFIDENCE, iou: float = 0.5
) -> PrecisionRecall:
    """Agreement with f's detections on clear images.

    Args:
        found: what a detector finds, for each image.
        f_x: what f finds in the clear image.
        confidence: lowest score of `f_x` that counts.
        iou: smallest overlap of a match.
    """
    truth = [boxes[scores >= confidence] for boxes, scores in f_x]
    return average_precision(found, [(boxes, np.zeros(len(boxes), bool)) for boxes in truth], iou)


def operational_fidelity(
    records: Sequence[FaceImage], methods: Mapping[str, Method], f: FaceDetector, confidence: float = CONFIDENCE
) -> dict[str, float]:
    """Operational fidelity of each method, without writing anonymized images.

    Args:
        records: images; their annotated faces are the ones that are overwritten.
        methods: ways to overwrite them, by name.
        f: the detector.
        confidence: see `fidelity`.
    """
    f_x = find(f, records)
    redacted = {
        name: detect(f, (method(read_bgr(record.path), record.boxes) for record in records))
        for name, method in methods.items()
    }
    return {name: fidelity(found, f_x, confidence).average_precision for name, found in redacted.items()}
