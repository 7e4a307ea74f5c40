"""The CPU backend: ONNX Runtime for the two networks, native operations for the pixels."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dartblur_ops as ops

from ..boxes import pixel_blocks
from ..bundle import Bundle
from ..detections import Detections
from ..errors import BackendError, BundleError
from ..frame import Image, check_image
from .base import Boxes, Defaults, WholeLook
from .scan import Area, Scan, areas_of, size_for, tiles_for
from .suppression import VOTE_SCORE, faces_of

MAX_PATCHES = 64
"""Faces that go through the generator at once: bounds memory in a crowd."""

MAX_INPUTS = 4
"""Inputs of the detector that a thread keeps, one for each size: pictures of a folder have any number of them."""

MOST_AT_ONCE = 8
"""Frames that are worked on at once, however many cores there are: each is in memory, and what the networks make of it.
Of larger scans that is more, so they get fewer: eight of 640 x 640 pixels' worth of it."""

BUDGET_S = 0.1
"""What the scan size ``auto`` may spend on a frame unless told otherwise."""


class _Inputs(threading.local):
    """A thread's own inputs of the detector, ``[3, H, W]`` by ``(H, W)``: no other's picture gets into them."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], NDArray[np.float32]] = {}

    def of(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """The input of this size; what it holds is overwritten."""
        if size not in self._kept:
            if len(self._kept) >= MAX_INPUTS:
                self._kept.clear()
            self._kept[size] = np.empty((3, *size), np.float32)
        return self._kept[size]


class CpuBackend:
    """Runs a bundle on the CPU, for a frame on each core at once.

    Args:
        bundle: the model.
        threads: that ONNX Runtime may use for a network.
        scan: how closely frames are searched.

    Raises:
        BundleError: a graph can't be loaded.
    """

    depth = 1
    gpu_frames = False

    def __init__(self, bundle: Bundle, threads: int = 2, scan: Scan | None = None) -> None:
        manifest = bundle.manifest
        self._manifest, self._scan = manifest, scan or Scan()
        self.defaults = Defaults(manifest.threshold, manifest.box_scale)
        self.model_name = f"{manifest.name} {manifest.version}"
        self._detector = cpu_session(bundle, "detector.onnx", threads)
        self._generator = cpu_session(bundle, "generator.onnx", threads)
        expected = [3, manifest.patch_size, manifest.patch_size]
        if (shape := self._generator.get_inputs()[0].shape)[1:] != expected:
            raise BundleError(
                f"{bundle.source}: generator.onnx: expected patches {expected} as the manifest says, got {shape[1:]}: "
                "export the bundle again"
            )
        self._inputs = _Inputs()
        self.at_once = max(1, min(usable_cores(), self._room()))
        self._seconds = self._time_at_own_size() if self._scan.size == "auto" else 0.0

    def begin(self, image: Image, threshold: float, boxes: Boxes | None = None, weak: float | None = None) -> WholeLook:
        """A look at an image; nothing is done before it is asked for."""
        return WholeLook(self, check_image(image), threshold, weak)

    def close(self) -> None:
        """Nothing is held that needs it."""

    def detect(self, image: Image, threshold: float) -> Detections:
        """Faces of an image with at least this score, best first."""
        height, width = image.shape[:2]
        looks = []
        for area in self._areas_of(height, width):
            boxes, scores = self._look(image, area, min(threshold, VOTE_SCORE))
            looks.append((boxes, scores, area.cuts(boxes, height, width)))
        boxes, scores, cut = (np.concatenate(parts) for parts in zip(*looks, strict=True))
        return faces_of(boxes, scores, cut, threshold, self._manifest.nms_iou)

    def _look(self, image: Image, area: Area, threshold: float) -> tuple[Boxes, NDArray[np.float32]]:
        """Boxes in pixels of the image and scores, unordered, of what the detector sees in an area."""
        part = image[area.y0 : area.y1, area.x0 : area.x1]
        size = self._manifest.detector_size(area.y1 - area.y0, area.x1 - area.x0, area.size)
        pixels, scale = ops.letterbox(part, size, out=self._inputs.of(size))
        boxes, scores = self._detector.run(None, {"image": pixels[None]})
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            # Such a score is below any threshold, and such a box covers nothing: a face would be missed without a word.
            raise BackendError(
                "the detector's boxes or scores are not finite: the model is broken, export or copy it again"
            )
        strong = np.flatnonzero(scores[0] >= threshold)
        boxes = boxes[0, strong] / np.float32(scale) + np.array([area.x0, area.y0] * 2, np.float32)
        # Whatever a model says, a face that was found has an area, so that it gets covered.
        low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
        return np.concatenate([low, np.maximum(high, low + 1)], 1), scores[0, strong]

    def _room(self) -> int:
        """Frames for which there is memory, see `MOST_AT_ONCE`."""
        size = self._scan.size or self._manifest.long_side
        if size == "auto":
            return 1  # it chooses by the time that a frame takes alone
        return int(MOST_AT_ONCE * 640**2 / size**2)

    def _areas_of(self, height: int, width: int) -> list[Area]:
        """Where the detector looks in frames of this size."""
        scan, own = self._scan, self._manifest.long_side
        size = scan.size or own
        if size == "auto":
            size = size_for(height, width, own, self._seconds, scan.budget or BUDGET_S)
        tiles = tiles_for(height, width, size) if scan.tiles == "auto" else scan.tiles
        return areas_of(height, width, size, tiles, own)

    def _time_at_own_size(self) -> float:
        """Seconds that a square frame takes at the model's own size; the shortest of a few, the first being slow."""
        side = self._manifest.long_side
        blank, whole = np.zeros((side, side, 3), np.uint8), Area(0, 0, side, side, side)

        def seconds() -> float:
            began = time.perf_counter()
            self._look(blank, whole, 1.0)
            return time.perf_counter() - began

        return min(seconds() for _ in range(4))

    def redact(self, image: Image, boxes: Boxes, method: str) -> None:
        """Overwrites the boxes of the image in place by ``dart``, ``gaussian``, ``pixelate`` or ``solid``."""
        if method == "dart":
            self._repaint(image, boxes)
        else:
            cover(image, boxes, method)

    def _repaint(self, image: Image, boxes: Boxes) -> None:
        size, context = self._manifest.patch_size, self._manifest.patch_context
        for start in range(0, len(boxes), MAX_PATCHES):
            some = boxes[start : start + MAX_PATCHES]
            blurred = ops.crop_faces(image, some, size, context)
            painted = self._generator.run(None, {"blurred": blurred})[0]
            ops.composite(image, painted, some, context)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cover(image: Image, boxes: Boxes, method: str) -> None:
    """Overwrites the boxes of the image in place by a method that needs no model."""
    if method == "gaussian":
        ops.gaussian(image, boxes)
    elif method == "pixelate":
        for box, blocks in zip(boxes, pixel_blocks(boxes, *image.shape[:2]), strict=True):
            ops.pixelate(image, box[None], blocks)
    else:
        ops.solid(image, boxes)


def cpu_session(bundle: Bundle, graph: str, threads: int) -> Any:
    """A graph of the bundle in ONNX Runtime on the CPU; raises `BundleError` when it can't be loaded."""
    # Imported here: ONNX Runtime takes longer to import than everything else together.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads sleep: the other cores decode and encode video meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(bundle.graphs[graph], options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"{bundle.source}: {graph} can't be loaded by ONNX Runtime: {reason}") from error
