"""The families of detectors by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..checkpoints import fill_in, load_checkpoint, start_from
from ..data.labels import DataError
from .edge_detector import SPECS, EdgeDetector
from .face_detector import FaceDetector
from .pyramidbox import PyramidBox
from .retinaface import RetinaFace
from .yolo_face import YoloFace

DETECTORS: dict[str, Callable[[], FaceDetector]] = {
    **{f"edge-{size}": partial(EdgeDetector, spec) for size, spec in SPECS.items()},
    "retinaface": RetinaFace,
    "pyramidbox": PyramidBox,
    "yolo-face": YoloFace,
}
"""Makers of detectors with random weights."""


def build_detector(name: str, weights: Path | None = None, grow: bool = False) -> FaceDetector:
    """A detector of a family.

    Args:
        name: in `DETECTORS`.
        weights: ``.safetensors`` of a training run, a bundle's ``detector.onnx``, or a published ``.pth``;
            random ones if None.
        grow: take weights of a smaller detector, where what it lacks changes nothing at first.

    Raises:
        DataError: the name is unknown, or the file doesn't hold weights of this family.
    """
    if name not in DETECTORS:
        raise DataError(f"detector: expected one of {', '.join(sorted(DETECTORS))}, got {name!r}")
    detector = DETECTORS[name]()
    if weights is None:
        return detector
    if not weights.is_file():
        raise DataError(f"{weights} is not there: expected weights of the detector {name!r}")
    if weights.suffix != ".pth":
        start_from(detector, weights, "detector.", detector.may_be_new if grow else None)
        return detector
    state = {key.removeprefix("module."): value for key, value in load_checkpoint(weights).items()}
    fill_in(detector, state, weights)
    return detector
