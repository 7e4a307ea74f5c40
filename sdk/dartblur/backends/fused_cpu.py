"""The fused graph on the CPU: what engines are compared with, and how the backends of GPUs are tested without one.

Slower than `CpuBackend`, which makes patches of the faces that are there and not of every slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dartblur_ops as ops

from ..bundle import Bundle
from ..errors import BackendError
from ..frame import Image, check_image
from .base import Boxes, Defaults
from .cpu import cover, cpu_session
from .fused import INPUTS, OUTPUTS, FusedLook, Layout, Rows, check_size


class FusedCpuBackend:
    """Runs a bundle's fused graph in ONNX Runtime, and pastes with the native operations.

    Args:
        bundle: the model.
        graph: ``fused.onnx`` or ``fused-half.onnx``.
        threads: that ONNX Runtime may use.

    Raises:
        BundleError: the graph can't be loaded.
    """

    depth = at_once = 1
    gpu_frames = False

    def __init__(self, bundle: Bundle, graph: str = "fused.onnx", threads: int = 2) -> None:
        manifest = bundle.manifest
        self.defaults = Defaults(manifest.threshold, manifest.box_scale)
        self.model_name = f"{manifest.name} {manifest.version}"
        self._layout = Layout.of(manifest, bundle.source)
        self._session = cpu_session(bundle, graph, threads)

    def begin(self, image: Image, threshold: float, boxes: Boxes | None = None, weak: float | None = None) -> FusedLook:
        """Runs the graph over an image.

        Raises:
            FrameError: the graph was exported for frames of another size.
            BackendError: the graph failed.
        """
        image = check_image(image)
        size, mend = self._session.get_inputs()[0].shape[1:3], "scale them, or export a model for all sizes"
        check_size(image.shape[0], image.shape[1], size, mend)
        return FusedLook(_Canvas(self._session, image, self._layout), self._layout, threshold, boxes, weak)

    def close(self) -> None:
        """Nothing is held that needs it."""


class _Run:
    def __init__(self, patches: NDArray[Any], boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        self.patches, self._boxes, self._scores = patches, boxes, scores

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._boxes, self._scores


class _Canvas:
    def __init__(self, session: Any, image: Image, layout: Layout) -> None:
        self._session, self._image, self._context = session, image, layout.patch_context

    def run(self, held: Boxes) -> _Run:
        try:
            outputs = self._session.run(OUTPUTS, dict(zip(INPUTS, (self._image[None], held[None]), strict=True)))
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed on the fused graph: {str(error).splitlines()[0]}") from error
        return _Run(*(output[0] for output in outputs))

    def paste(self, run: Any, boxes: Boxes) -> None:
        chosen = np.flatnonzero(boxes.any(1))
        ops.composite(self._image, run.patches[chosen].astype(np.float32), boxes[chosen], self._context)

    def cover(self, boxes: Boxes, method: str) -> None:
        cover(self._image, boxes, method)

    def finish(self, rows: Sequence[Rows]) -> None:
        pass

    def close(self) -> None:
        pass
