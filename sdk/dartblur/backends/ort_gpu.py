"""The fused graph on a GPU through ONNX Runtime: for desktops, where pip alone installs it.

Frames, boxes and patches stay in GPU memory (I/O binding) and are composited there, but one frame is done after the
other: an engine (`TensorRtBackend`) is faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import BackendError, FrameError, InputError
from ..frame import Image, check_image
from .base import Boxes, Defaults
from .fused import OUTPUTS, FusedLook, Layout, Rows, check_size
from .gpu_arrays import GpuArray, gpu_frame, is_on_gpu
from .gpu_ops import cover, cuda_operations, paste

Provider = Literal["cuda", "tensorrt"]
_PROVIDERS: dict[str, str] = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_INSTALL = "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
_MOST_SESSIONS = 4
"""Frame sizes whose sessions are kept; a session takes seconds to make."""


class OrtGpuBackend:
    """Runs a bundle's fused graph on a GPU by an execution provider of ONNX Runtime; never on the CPU.

    Each frame size has a session of its own, in which all sizes are constants: so no part of the graph is left that
    ONNX Runtime would rather run on the CPU, and it can be told to refuse if there is one.

    Args:
        bundle: the model.
        provider: ``cuda``, or ``tensorrt``, which takes minutes to start without `cache`.
        graph: ``fused.onnx`` or ``fused-half.onnx``.
        device: number of the GPU.
        frame: width and height of the frames to expect; made ready at once. Others are made ready when they come.
        cache: folder where the provider ``tensorrt`` keeps its engines.

    Raises:
        BackendError: ONNX Runtime has no such provider, it doesn't work here, or it can't run the whole graph.
    """

    depth = at_once = 1
    gpu_frames = True

    def __init__(
        self,
        bundle: Bundle,
        provider: Provider = "cuda",
        *,
        graph: str = "fused.onnx",
        device: int = 0,
        frame: tuple[int, int] | None = None,
        cache: Path | None = None,
    ) -> None:
        if provider not in _PROVIDERS:
            raise InputError(f"provider: expected one of {', '.join(_PROVIDERS)}, got {provider!r}")
        manifest = bundle.manifest
        if graph not in bundle.graphs:
            raise InputError(
                f"graph: expected one of {', '.join(bundle.graphs)}, got {graph!r}: export the bundle again"
            )
        self.layout = Layout.of(manifest, bundle.source)
        self.runtime = onnxruntime_gpu(_PROVIDERS[provider])
        self.ops = cuda_operations()
        self.device = device
        self.defaults = Defaults(manifest.threshold, manifest.box_scale)
        self.model_name = f"{manifest.name} {manifest.version}"
        self._graph, self._cache = bundle.graphs[graph], cache
        self._provider = _PROVIDERS[provider]
        self._sessions: dict[tuple[int, int], Any] = {}
        self._frame: Any = None
        self._open: _Canvas | None = None
        width, height = frame or (manifest.fused.get("width", 1280), manifest.fused.get("height", 720))
        look = self.begin(np.zeros((height, width, 3), np.uint8), 0.5)
        look.detections()
        look.finish()

    def begin(
        self, image: Image | Any, threshold: float, boxes: Boxes | None = None, weak: float | None = None
    ) -> FusedLook:
        """Runs the graph over an image.

        Args:
            image: uint8 ``[H, W, 3]`` BGR, contiguous and writeable, in host memory or in the GPU's.
            threshold: lowest score of a face.
            boxes: that will be covered besides those that are found.
            weak: lowest score that is told of.

        Raises:
            FrameError: it is not such an image, or the graph was exported for frames of another size.
            BackendError: a frame is being worked on already, or the GPU failed.
        """
        if self._open is not None and not self._open.closed:
            raise BackendError("expected at most 1 frame in flight: finish or close it first")
        gpu = is_on_gpu(image)
        # ONNX Runtime has streams of its own; `_Canvas.run` waits for all of the GPU before it starts.
        frame = gpu_frame(image, self.device)[0] if gpu else check_image(image)
        if isinstance(frame, np.ndarray) and not (frame.flags.c_contiguous and frame.flags.writeable):
            raise FrameError("expected a contiguous, writeable image, got a view or a read-only one: copy it first")
        session = self._session(*frame.shape[:2])
        self._open = _Canvas(self, session, frame)
        return FusedLook(self._open, self.layout, threshold, boxes, weak)

    def close(self) -> None:
        """Frees the sessions and the memory of the GPU."""
        if self._open is not None:
            self._open.close()
        self._sessions, self._frame, self._open = {}, None, None

    def upload(self, image: Image) -> Any:
        """The image in GPU memory, which is kept for the next one of its size."""
        if self._frame is None or tuple(self._frame.shape()) != (1, *image.shape):
            self._frame = self.to_gpu(image[None])
        else:
            self._frame.update_inplace(image[None])
        return self._frame

    def to_gpu(self, array: NDArray[Any]) -> Any:
        """A copy of an array in GPU memory, as an ``OrtValue``."""
        return self.runtime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", self.device)

    def _session(self, height: int, width: int) -> Any:
        session = self._sessions.pop((height, width), None) or self._new_session(height, width)
        # The last one used comes last, so the first is the one to go.
        self._sessions[height, width] = session
        if len(self._sessions) > _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def _new_session(self, height: int, width: int) -> Any:
        options = self.runtime.SessionOptions()
        options.log_severity_level = 3
        for name, value in {"batch": 1, "height": height, "width": width}.items():
            options.add_free_dimension_override_by_name(name, value)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings: dict[str, str] = {"device_id": str(self.device)}
        if self._cache is not None and self._provider == _PROVIDERS["tensorrt"]:
            settings |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(self._cache)}
        try:
            providers = [(self._provider, settings)]
            session = self.runtime.InferenceSession(self._graph, options, providers=providers, enable_fallback=0)
            session.disable_fallback()
        except Exception as error:
            raise BackendError(
                f"{self._provider} can't run the model ({_first_line(error)}): {_INSTALL}, check the CUDA driver with "
                "nvidia-smi, or use --backend cpu"
            ) from error
        if session.get_providers()[:1] != [self._provider]:
            raise BackendError(
                f"expected {self._provider}, ONNX Runtime fell back to {', '.join(session.get_providers())}: "
                f"{_INSTALL}, and check the CUDA driver with nvidia-smi"
            )
        size = session.get_inputs()[0].shape[1:3]
        check_size(height, width, size, "scale them, use --backend cpu, or export a model for all sizes")
        return session


def onnxruntime_gpu(provider: str) -> Any:
    """The module ``onnxruntime`` when it has such an execution provider; raises `BackendError` otherwise."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise BackendError(f"expected ONNX Runtime with {provider}, this one has {', '.join(available)}: {_INSTALL}")
    if hasattr(onnxruntime, "preload_dlls"):
        # CUDA and cuDNN that pip has installed lie where the loader doesn't look.
        onnxruntime.preload_dlls()
    return onnxruntime


class _Run:
    """What one run has made; the patches stay in GPU memory."""

    def __init__(self, patches: Any, boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        half = patches.data_type() == "tensor(float16)"
        shape = tuple(patches.shape()[1:])
        self.patches = GpuArray(patches.data_ptr(), shape, "<f2" if half else "<f4", patches)
        self._boxes, self._scores = boxes, scores

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._boxes, self._scores


class _Canvas:
    """One frame in GPU memory; `Canvas`."""

    def __init__(self, backend: OrtGpuBackend, session: Any, frame: Image | GpuArray) -> None:
        self._backend, self._session = backend, session
        self.closed = False
        self._value: Any = None
        # What the GPU may still read when a call returns.
        self._kept: list[Any] = []
        if isinstance(frame, GpuArray):
            self._frame = frame
        else:
            with _named_errors():
                self._image, self._value = frame, backend.upload(frame)
            self._frame = GpuArray(self._value.data_ptr(), frame.shape, "|u1", self._value)

    def run(self, held: Boxes) -> _Run:
        backend, session = self._backend, self._session
        with _named_errors():
            binding = session.io_binding()
            shape = (1, *self._frame.shape)
            binding.bind_input("frames", "cuda", backend.device, np.uint8, shape, self._frame.pointer)
            held_value = backend.to_gpu(held[None])
            binding.bind_ortvalue_input("held_boxes", held_value)
            for name in OUTPUTS:
                binding.bind_output(name, "cuda", backend.device)
            # Both wait for everything on the GPU.
            binding.synchronize_inputs()
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            patches, boxes, scores = binding.get_outputs()
            run = _Run(patches, boxes.numpy()[0], scores.numpy()[0])
        self._kept += [binding, run]
        return run

    def paste(self, run: Any, boxes: Boxes) -> None:
        backend = self._backend
        paste(backend.ops, self._frame, run.patches, self._send(boxes), backend.layout.patch_context, None)

    def cover(self, boxes: Boxes, method: str) -> None:
        cover(self._backend.ops, self._frame, boxes, self._send(boxes), method, None)

    def _send(self, boxes: Boxes) -> GpuArray:
        value = self._backend.to_gpu(boxes)
        self._kept.append(value)
        return GpuArray(value.data_ptr(), boxes.shape, "<f4", value)

    def finish(self, rows: Sequence[Rows]) -> None:
        self._wait()
        if self._value is None or not rows:
            return
        height = self._frame.shape[0]
        with _named_errors():
            pixels = self._value.numpy()[0]
        for top, bottom in rows:
            span = slice(max(0, top), max(0, min(height, bottom)))
            np.copyto(self._image[span], pixels[span])

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._wait()

    def _wait(self) -> None:
        """For everything on the GPU, which then reads no more of what was kept."""
        kept, self._kept = self._kept, []
        with _named_errors():
            if kept:
                kept[0].synchronize_outputs()


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise BackendError(f"ONNX Runtime failed on the GPU: {_first_line(error)}: restart the program") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
