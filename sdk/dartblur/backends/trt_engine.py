"""An engine of the fused graph in TensorRT or TensorRT-RTX: all that this package knows of their Python interface."""

from __future__ import annotations

import functools
from collections import deque
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import BackendError
from .fused import INPUTS, OUTPUTS, Layout
from .pycuda_device import CudaDevice


def library(target: str) -> Any:
    """The Python module of TensorRT or TensorRT-RTX, which have the same interface."""
    name = target.replace("-", "_")
    try:
        return import_module(name)
    except Exception as error:
        raise BackendError(
            f"{name} can't be loaded ({error}): pip install {name}, or on a Jetson install JetPack's TensorRT"
        ) from error


@functools.cache
def _log(trt: Any) -> Any:
    """TensorRT's messages; one object, as TensorRT keeps the first logger that it gets for all that follow."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(" ".join(msg.split()))

    return Log()


class Engine:
    """A loaded engine with one execution context; what it can't do is a `BackendError` with TensorRT's own words."""

    def __init__(self, trt: Any, path: Path, size: tuple[int, int], layout: Layout, device: CudaDevice) -> None:
        self._path, self._log = path, _log(trt)
        self._log.errors.clear()
        runtime = trt.Runtime(self._log)
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise self._failed("can't be loaded")
        context = engine.create_execution_context()
        if context is None:
            raise self._failed("has no room to run")
        self._runtime, self._engine, self._context = runtime, engine, context
        self._check_tensors(trt, size, layout)
        self.half = engine.get_tensor_dtype("patches") == trt.DataType.HALF
        # The context is one frame's at a time: the next frame's stream waits for this.
        self._free = device.event()

    def _check_tensors(self, trt: Any, size: tuple[int, int], layout: Layout) -> None:
        engine, context, data = self._engine, self._context, trt.DataType
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if names != {*INPUTS, *OUTPUTS}:
            raise self._failed(f"has {', '.join(sorted(names))}, expected {', '.join((*INPUTS, *OUTPUTS))}")
        count = layout.slots + layout.held
        for name, shape in {"frames": (1, *size, 3), "held_boxes": (1, layout.held, 4)}.items():
            if not context.set_input_shape(name, shape):
                raise self._failed(f"takes no {name} of {list(shape)}")
        expected = {
            "frames": ((1, *size, 3), (data.UINT8,)),
            "held_boxes": ((1, layout.held, 4), (data.FLOAT,)),
            "patches": ((1, *layout.patches), (data.FLOAT, data.HALF)),
            "boxes": ((1, count, 4), (data.FLOAT,)),
            "scores": ((1, count), (data.FLOAT,)),
        }
        for name, (shape, types) in expected.items():
            actual, kind = tuple(context.get_tensor_shape(name)), engine.get_tensor_dtype(name)
            if actual != shape or kind not in types:
                raise self._failed(f"has {name} {list(actual)} {kind}, expected {list(shape)} {types[0]}")

    def enqueue(self, addresses: dict[str, int], stream: Any) -> None:
        """Puts a run of the graph into a stream."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._failed(f"does not take the memory of {name}")
        stream.wait_for_event(self._free)
        if not self._context.execute_async_v3(stream.handle):
            raise self._failed("failed to run")
        self._free.record(stream)

    def _failed(self, what: str) -> BackendError:
        said = "; ".join(self._log.errors) or "TensorRT gave no reason"
        self._log.errors.clear()
        return BackendError(f"{self._path}: the engine {what}: {said}: build it again with 'dartblur build'")
