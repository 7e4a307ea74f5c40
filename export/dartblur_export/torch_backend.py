"""Checkpoints as a backend of the SDK, in PyTorch on the CPU: what is held against all that was exported of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dartblur_ops as ops
from dartblur.backends.base import Boxes, Defaults
from dartblur.backends.cpu import cover
from dartblur.backends.fused import FusedLook, Layout, Rows
from dartblur.bundle import Manifest
from dartblur.frame import Image, check_image

from .checkpoints import load_detector, load_generator
from .fused import FusedGraph, FusedSpec


class TorchBackend:
    """Runs the trainer's weights as the fused graph has them, in single precision, and pastes with the native
    operations.

    Args:
        detector, generator: weights from ``dartblur train``.
        manifest: what weights don't say: threshold, box scale, overlap, and the graph's sizes.

    Raises:
        CheckpointError: weights are missing or of another kind.
    """

    depth = at_once = 1
    gpu_frames = False

    def __init__(self, detector: Path, generator: Path, manifest: Manifest) -> None:
        finder, found = load_detector(detector)
        painter, geometry, painted = load_generator(generator)
        manifest = replace(manifest, patch_size=geometry.size, patch_context=geometry.context)
        sizes = {name: manifest.fused[name] for name in ("slots", "held") if name in manifest.fused}
        spec = FusedSpec(**sizes)
        self.defaults = Defaults(manifest.threshold, manifest.box_scale)
        steps = " and ".join(metadata.get("steps", "?") for metadata in (found, painted))
        self.model_name = f"checkpoints of {steps} steps"
        self._layout = Layout(spec.slots, spec.held, geometry.size, geometry.context, manifest.box_scale)
        self._graph = FusedGraph(finder, painter, manifest, spec).eval()

    def begin(self, image: Image, threshold: float, boxes: Boxes | None = None, weak: float | None = None) -> FusedLook:
        """Runs the networks over an image."""
        canvas = _Canvas(self._graph, check_image(image), self._layout.patch_context)
        return FusedLook(canvas, self._layout, threshold, boxes, weak)

    def close(self) -> None:
        """Nothing is held that needs it."""


class _Run:
    def __init__(self, patches: NDArray[np.float32], boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        self.patches, self._boxes, self._scores = patches, boxes, scores

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._boxes, self._scores


class _Canvas:
    """`dartblur.backends.fused.Canvas`."""

    def __init__(self, graph: FusedGraph, image: Image, context: float) -> None:
        self._graph, self._image, self._context = graph, image, context

    @torch.no_grad()
    def run(self, held: Boxes) -> _Run:
        # A copy: PyTorch's tensors know no memory that isn't to be written to.
        outputs = self._graph(torch.from_numpy(self._image.copy())[None], torch.from_numpy(held)[None])
        return _Run(*(output[0].numpy() for output in outputs))

    def paste(self, run: Any, boxes: Boxes) -> None:
        chosen = np.flatnonzero(boxes.any(1))
        ops.composite(self._image, run.patches[chosen], boxes[chosen], self._context)

    def cover(self, boxes: Boxes, method: str) -> None:
        cover(self._image, boxes, method)

    def finish(self, rows: Sequence[Rows]) -> None:
        pass

    def close(self) -> None:
        pass
