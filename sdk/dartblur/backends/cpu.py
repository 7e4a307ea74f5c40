"""The CPU backend: ONNX Runtime for the two networks, native operations for the pixels."""

from __future__ import annotations

import threading
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import dartblur_ops as ops

from ..boxes import pixel_blocks
from ..bundle import Bundle
from ..detections import Detections
from ..errors import BackendError, BundleError
from ..frame import Image, check_image
from .base import Boxes, Defaults, WholeLook

MAX_PATCHES = 64
"""Faces that go through the generator at once: bounds memory in a crowd."""


class CpuBackend:
    """Runs a bundle on the CPU; one instance serves one frame at a time.

    Args:
        bundle: the model.
        threads: that ONNX Runtime may use for a network.

    Raises:
        BundleError: a graph can't be loaded.
    """

    depth = 1
    gpu_frames = False

    def __init__(self, bundle: Bundle, threads: int = 2) -> None:
        manifest = bundle.manifest
        self._manifest = manifest
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
        self._input: NDArray[np.float32] | None = None
        self._using = threading.Lock()

    def begin(self, image: Image, threshold: float, boxes: Boxes | None = None, weak: float | None = None) -> WholeLook:
        """A look at an image; nothing is done before it is asked for."""
        return WholeLook(self, check_image(image), threshold, weak)

    def close(self) -> None:
        """Nothing is held that needs it."""

    def detect(self, image: Image, threshold: float) -> Detections:
        """Faces of an image with at least this score, best first, after non-maximum suppression."""
        size = self._manifest.detector_size(*image.shape[:2])
        with self._using:  # its input is one for all: a picture of another thread must not get into it
            if self._input is None or self._input.shape[1:] != size:
                self._input = np.empty((3, *size), np.float32)
            pixels, scale = ops.letterbox(image, size, out=self._input)
            boxes, scores = self._detector.run(None, {"image": pixels[None]})
        if not np.isfinite(scores).all():
            # Such a score is below any threshold, so its face would be missed without a word.
            raise BackendError("the detector's scores are not finite: the model is broken, export or copy it again")
        strong = np.flatnonzero(scores[0] >= threshold)
        return self._suppress(boxes[0, strong] / np.float32(scale), scores[0, strong])

    def _suppress(self, boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> Detections:
        if not len(boxes):
            return Detections.empty()
        # Whatever a model says, a face that was found has an area, so that it gets covered.
        low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
        boxes = np.concatenate([low, np.maximum(high, low + 1)], 1)
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        kept = cv2.dnn.NMSBoxes(sides.tolist(), scores.tolist(), 0.0, self._manifest.nms_iou)
        keep = np.asarray(kept, int).reshape(-1)
        return Detections(np.ascontiguousarray(boxes[keep]), np.ascontiguousarray(scores[keep]))

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
