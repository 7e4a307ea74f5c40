"""Compares exported graphs with the networks that they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from dartblur.bundle import Manifest
from dartblur.measurement.sample_frames import texture

from .errors import ParityError
from .fused import DetectorGraph, FusedGraph, GeneratorGraph

BOX_TOLERANCE = 1e-3
"""Largest difference of a box's corner, over the box's side."""
PIXEL_TOLERANCE = 2 / 255
"""Largest difference of a patch's pixel, of 0..1."""
SCORE_TOLERANCE = 1e-3
TOLERANCES = {"fused.onnx": (BOX_TOLERANCE, PIXEL_TOLERANCE), "fused-half.onnx": (2e-2, 3 / 255)}
"""Of boxes and pixels, by graph; half precision is compared with single."""
JUDGED = {"fused.onnx": 1.0, "fused-half.onnx": 0.9}
"""Share of boxes that must agree. Half precision turns some decisions of faint ones: which of two alike survives."""
CHECKED_SIZES = [(720, 1280), (1000, 701), (243, 417)]
"""Height and width: no, some and odd remainders in the letterbox, scaled down and up, landscape and portrait."""


@dataclass(frozen=True)
class Parity:
    """The largest differences between a graph in ONNX Runtime and in PyTorch.

    Attributes:
        graph: file name.
        boxes: of corners, over the box's side, of the share that must agree (`JUDGED`); None where it has no boxes.
        pixels: of patches, of 0..1; None where it has none.
    """

    graph: str
    boxes: float | None = None
    pixels: float | None = None


@torch.no_grad()
def verify_detector(graph: DetectorGraph, onnx: bytes, manifest: Manifest) -> Parity:
    """At a landscape, a portrait and a square size."""
    session, worst = _session(onnx), 0.0
    for seed, frame in enumerate([(720, 1280), (1280, 720), (480, 480)]):
        height, width = manifest.detector_size(*frame)
        picture = texture(width, height, seed)
        image = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        expected = [output.numpy() for output in graph(image)]
        actual = session.run(None, {"image": image.numpy()})
        worst = max(worst, float(_box_differences(expected[0], actual[0]).max()))
        _check("detector.onnx", "scores", float(np.abs(expected[1] - actual[1]).max()), SCORE_TOLERANCE)
    _check("detector.onnx", "boxes", worst, BOX_TOLERANCE)
    return Parity("detector.onnx", boxes=worst)


@torch.no_grad()
def verify_generator(graph: GeneratorGraph, onnx: bytes, size: int) -> Parity:
    """With one face and with five."""
    session, worst = _session(onnx), 0.0
    for count in (1, 5):
        pictures = np.stack([texture(size, size, seed) for seed in range(count)])
        blurred = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        actual = session.run(None, {"blurred": blurred.numpy()})[0]
        worst = max(worst, float(np.abs(graph(blurred).numpy() - actual).max()))
    _check("generator.onnx", "pixels", worst, PIXEL_TOLERANCE)
    return Parity("generator.onnx", pixels=worst)


@torch.no_grad()
def verify_fused(
    graph: FusedGraph, name: str, onnx: bytes, frame: tuple[int, int] | None = None, batch: int | None = None
) -> Parity:
    """Faces, held boxes and patches, slot by slot, at `CHECKED_SIZES` or at the one that the graph takes.

    Args:
        graph: in single precision; a graph with half networks is compared with it too.
        name: of the ONNX file; its tolerances are `TOLERANCES` of that name.
        onnx: the file.
        frame, batch: the only ones that it takes; None: all.
    """
    session, spec = _session(onnx), graph.spec
    boxes, pixel = [], 0.0
    for height, width in [frame] if frame else CHECKED_SIZES:
        frames = np.stack([texture(width, height, seed) for seed in range(batch or 2)])
        held = _held_boxes(len(frames), spec.held, height, width)
        expected = [output.numpy() for output in graph(torch.from_numpy(frames), torch.from_numpy(held))]
        actual = session.run(None, {"frames": frames, "held_boxes": held})
        differences = _fused_differences(expected, actual, spec.slots)
        boxes.append(differences[0])
        pixel = max(pixel, differences[1])
    box = float(np.quantile(np.concatenate(boxes), JUDGED[name], method="higher"))
    tolerances = TOLERANCES[name]
    _check(name, "boxes", box, tolerances[0])
    _check(name, "pixels", pixel, tolerances[1])
    return Parity(name, boxes=box, pixels=pixel)


def _fused_differences(
    expected: list[NDArray[np.float32]], actual: list[NDArray[np.float32]], slots: int
) -> tuple[NDArray[np.float32], float]:
    """Those of all boxes, and the largest one of pixels."""
    # Slots whose scores are all but equal may stand in another order, so each is compared with its nearest.
    order = _nearest(expected[1], actual[1], expected[2], actual[2])
    boxes = np.take_along_axis(actual[1], order[..., None], 1)
    judged = expected[2] > expected[2][:, :slots].min(1, keepdims=True) + 1e-4
    # Pixels in the slots of held boxes, where both graphs have the same box to paint.
    pixels = np.abs(expected[0][:, slots:] - actual[0][:, slots:].astype(np.float32))
    return _box_differences(expected[1][judged], boxes[judged]), float(pixels.max(initial=0.0))


def _held_boxes(count: int, held: int, height: int, width: int) -> NDArray[np.float32]:
    """``[count, held, 4]`` xyxy pixels: of all sizes and places, some over the border."""
    random = np.random.default_rng(0)
    centre = random.uniform(0, 1, (count, held, 2)) * (width, height)
    half = random.uniform(0.01, 0.4, (count, held, 2)) * min(height, width)
    return np.concatenate([centre - half, centre + half], 2).astype(np.float32)


def _nearest(
    boxes: NDArray[np.float32],
    other: NDArray[np.float32],
    scores: NDArray[np.float32],
    other_scores: NDArray[np.float32],
) -> NDArray[np.int64]:
    """For each slot ``[N, n]`` the slot of the other list whose box and score are nearest."""
    distance = np.abs(boxes[:, :, None] - other[:, None]).max(-1) + 100 * np.abs(
        scores[:, :, None] - other_scores[:, None]
    )
    nearest: NDArray[np.int64] = distance.argmin(2)
    return nearest


def _box_differences(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> NDArray[np.float32]:
    side = np.maximum(expected[..., 2:] - expected[..., :2], 1).max(-1)
    differences: NDArray[np.float32] = np.abs(expected - actual).max(-1) / side
    return differences


def _check(graph: str, what: str, difference: float, tolerance: float) -> None:
    if not difference <= tolerance:
        raise ParityError(
            f"{graph}: {what} differ by {difference:.2g} between PyTorch and ONNX Runtime, expected at most "
            f"{tolerance:.2g}: nothing was written; try other versions of torch and onnxruntime"
        )


def _session(onnx: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
