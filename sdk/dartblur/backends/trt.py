"""The TensorRT backend: an engine of the fused graph, its frames overwritten where they lie in GPU memory.

Each frame in flight has a stream of its own::

    upload -> graph -> boxes to the host ~ which boxes to cover? ~ boxes to the GPU -> composite -> covered rows back

so one frame is uploaded and another brought back while a third runs through the graph. The graph itself runs one frame
at a time: there is one execution context, since each costs as much memory as the engine's largest layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dartblur_ops._device_arrays import LEGACY_STREAM

from ..bundle import Bundle
from ..errors import BackendError, DartBlurError, FrameError
from ..frame import Image, check_image
from ..passport import Passport, preflight, read_passport
from .base import Boxes, Defaults
from .fused import INPUTS, OUTPUTS, FusedLook, Layout, Rows, check_size
from .gpu_arrays import GpuArray, gpu_frame, is_on_gpu
from .gpu_ops import cover, cuda_operations, paste
from .pycuda_device import CudaDevice
from .trt_engine import Engine, library

_ALIGNMENT = 256
"""Of the addresses that TensorRT takes, bytes."""
_NAN = 0xFF
"""Four bytes of it are a NaN."""
_FIRST_TIMEOUT_S = 120.0
"""For the first run, which loads and at times compiles kernels."""


class TensorRtBackend:
    """Runs an engine that ``dartblur build`` has made; its passport is checked before anything is loaded.

    Args:
        engine: the engine file, its passport beside it.
        bundle: the bundle that the engine must be of; None takes any.
        frame: width and height of the frames to come; None takes those of the engine.
        device: number of the GPU.
        depth: frames in flight.
        timeout_s: seconds that the GPU may take for one frame.

    Raises:
        BackendError: TensorRT, PyCUDA or the CUDA operations are missing, or the engine was built for something else.
        BundleError: engine or passport is missing, damaged or edited.
    """

    at_once = 1
    gpu_frames = True

    def __init__(
        self,
        engine: str | Path,
        bundle: Bundle | None = None,
        *,
        frame: tuple[int, int] | None = None,
        device: int = 0,
        depth: int = 3,
        timeout_s: float = 10.0,
    ) -> None:
        if depth < 1:
            raise BackendError(f"depth: expected at least 1 frame in flight, got {depth}")
        target = read_passport(engine).target
        self._ops = cuda_operations()
        trt = library(target)
        self._device = CudaDevice(device, max(timeout_s, _FIRST_TIMEOUT_S))
        here = {"trt_version": trt.__version__, "sm": self._device.sm, "target": target}
        passport = preflight(engine, bundle, **here, frame=frame, batch=1)
        self.depth = depth
        self.defaults = Defaults(passport.threshold, passport.box_scale)
        self.model_name = f"{passport.model} {passport.model_version}"
        self._layout = _layout(passport)
        self._size = (passport.frame[1], passport.frame[0])
        self._slots: list[_Slot] = []
        self._engine: Engine | None = None
        try:
            with self._device.active():
                self._engine = Engine(trt, Path(engine), self._size, self._layout, self._device)
                self._slots = [_Slot(self._device, self._size, self._layout, self._engine.half) for _ in range(depth)]
            # The first run loads kernels, which takes time, and shows whether the engine works at all.
            look = self.begin(np.zeros((*self._size, 3), np.uint8), 0.5)
            look.detections()
            look.finish()
            self._device.timeout_s = timeout_s
        except BaseException:
            self.close()
            raise

    def begin(
        self, image: Image | Any, threshold: float, boxes: Boxes | None = None, weak: float | None = None
    ) -> FusedLook:
        """Sends an image on its way.

        Args:
            image: uint8 ``[H, W, 3]`` BGR, contiguous and writeable, in host memory or in the GPU's.
            threshold: lowest score of a face.
            boxes: that will be covered besides those that are found.
            weak: lowest score that is told of.

        Raises:
            FrameError: it is not such an image, or not of the engine's size.
            BackendError: `depth` frames are in flight already, the backend is closed, or the GPU failed.
        """
        if self._engine is None or self._device.lost:
            raise BackendError("expected an open TensorRT backend, this one is closed or its GPU is lost: make another")
        slot = next((slot for slot in self._slots if not slot.busy), None)
        if slot is None:
            raise BackendError(f"expected at most {self.depth} frames in flight: finish or close one first")
        with self._device.active():
            canvas = _Canvas(self, self._engine, slot, image)
        return FusedLook(canvas, self._layout, threshold, boxes, weak)

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._engine is None

    def close(self) -> None:
        """Frees all memory of the GPU, and ends what is in flight."""
        for slot in self._slots:
            slot.settle()
        slots, self._slots, engine, self._engine = self._slots, [], self._engine, None
        if self._device.lost:
            self._device.leak(slots, engine)
        with suppress(BackendError), self._device.active():
            # Streams, events and the engine end with the last reference to them, and want the context then.
            slots.clear()
            del engine
        self._device.free()

    def __enter__(self) -> TensorRtBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _layout(passport: Passport) -> Layout:
    geometry = (passport.patch_size, passport.patch_context, passport.box_scale)
    return Layout(passport.slots, passport.held, *geometry)


class _Output:
    """What one run of the graph has made, and the mark in the stream behind it; `Run`."""

    def __init__(self, device: CudaDevice, layout: Layout, half: bool) -> None:
        self._device = device
        patches, count = layout.patches, layout.slots + layout.held
        size = int(np.prod(patches)) * (2 if half else 4)
        self.patches = GpuArray(device.alloc(size), patches, "<f2" if half else "<f4")
        self.held = device.alloc(layout.held * 16)
        self.boxes, self.scores = device.alloc(count * 16), device.alloc(count * 4)
        self.host_held = device.host_array((layout.held, 4), np.float32)
        self.host_boxes = device.host_array((count, 4), np.float32)
        self.host_scores = device.host_array((count,), np.float32)
        self.ready = device.event()

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self._device.active():
            self._device.wait(self.ready)
        return self.host_boxes.copy(), self.host_scores.copy()


class _Slot:
    """Memory and stream of one frame in flight; serves one frame after the other."""

    def __init__(self, device: CudaDevice, size: tuple[int, int], layout: Layout, half: bool) -> None:
        self.device, self._layout, self._half = device, layout, half
        self.busy = False
        self.stream, self.done = device.stream(), device.event()
        self.host_frame = device.host_array((*size, 3), np.uint8)
        # Where host and GPU share their memory the graph reads the frame where the host has put it.
        self.frame = device.mapped(self.host_frame) if device.integrated else device.alloc(self.host_frame.nbytes)
        count = layout.slots + layout.held
        self.host_boxes = device.host_array((count, 4), np.float32)
        self.boxes = device.alloc(count * 16)
        self._outputs: list[_Output] = []
        self.output(0)

    def output(self, index: int) -> _Output:
        """Room for the results of one run of the graph; a second run of a frame is rare."""
        while index >= len(self._outputs):
            self._outputs.append(_Output(self.device, self._layout, self._half))
        return self._outputs[index]

    def settle(self) -> None:
        """Waits until the GPU is done with the memory, and is free for the next frame."""
        if self.busy and not self.device.lost:
            try:
                with self.device.active():
                    self.done.record(self.stream)
                    self.device.wait(self.done)
            except DartBlurError:
                # Whoever ends a frame has its error already, or wants no more of it; the next frame is refused.
                self.device.lost = True
        self.busy = False


class _Canvas:
    """One frame in its slot; `Canvas`."""

    def __init__(self, backend: TensorRtBackend, engine: Engine, slot: _Slot, image: Any) -> None:
        self._backend, self._engine, self._image = backend, engine, image
        self._device, self._ops, self._layout = backend._device, backend._ops, backend._layout
        self._cuda = self._device.cuda
        self._runs, self._sent = 0, False
        self._size = backend._size
        self._slot: _Slot | None = slot
        slot.busy = True
        try:
            self._frame = self._gpu(image, slot) if is_on_gpu(image) else self._upload(image, slot)
        except BaseException:
            self.close()
            raise

    def _upload(self, image: Any, slot: _Slot) -> GpuArray:
        image = check_image(image)
        self._check_size(image.shape)
        if not (image.flags.c_contiguous and image.flags.writeable):
            raise FrameError("expected a contiguous, writeable image, got a view or a read-only one: copy it first")
        np.copyto(slot.host_frame, image)
        if not self._device.integrated:
            self._cuda.memcpy_htod_async(slot.frame, slot.host_frame, slot.stream)
        return GpuArray(slot.frame, image.shape, "|u1")

    def _gpu(self, image: Any, slot: _Slot) -> GpuArray:
        frame, owners = gpu_frame(image, self._device.number, slot.stream.handle)
        self._check_size(frame.shape)
        if owners == LEGACY_STREAM:
            slot.done.record()
            slot.stream.wait_for_event(slot.done)
        elif owners is not None:
            self._cuda.Context.synchronize()
        if frame.pointer % _ALIGNMENT == 0:
            return frame
        self._cuda.memcpy_dtod_async(slot.frame, frame.pointer, int(np.prod(frame.shape)), slot.stream)
        return GpuArray(slot.frame, frame.shape, "|u1", frame)

    def _check_size(self, shape: Sequence[int]) -> None:
        mend = f"scale them, or run 'dartblur build' with --frame {shape[1]}x{shape[0]}"
        check_size(shape[0], shape[1], self._size, mend)

    def run(self, held: Boxes) -> _Output:
        slot = self._open()
        with self._device.active():
            output = slot.output(self._runs)
            self._runs += 1
            np.copyto(output.host_held, held)
            self._cuda.memcpy_htod_async(output.held, output.host_held, slot.stream)
            # Scores that the engine doesn't write are then no numbers, and not those of another frame.
            self._cuda.memset_d8_async(output.scores, _NAN, output.host_scores.nbytes, slot.stream)
            addresses = (self._frame.pointer, output.held, output.patches.pointer, output.boxes, output.scores)
            self._engine.enqueue(dict(zip((*INPUTS, *OUTPUTS), addresses, strict=True)), slot.stream)
            self._cuda.memcpy_dtoh_async(output.host_boxes, output.boxes, slot.stream)
            self._cuda.memcpy_dtoh_async(output.host_scores, output.scores, slot.stream)
            output.ready.record(slot.stream)
        return output

    def paste(self, run: Any, boxes: Boxes) -> None:
        slot = self._open()
        with self._device.active():
            on_gpu, context = self._send(boxes), self._layout.patch_context
            paste(self._ops, self._frame, run.patches, on_gpu, context, slot.stream.handle)

    def cover(self, boxes: Boxes, method: str) -> None:
        slot = self._open()
        stream, most = slot.stream.handle, len(slot.host_boxes)
        with self._device.active():
            for start in range(0, len(boxes), most):
                portion = boxes[start : start + most]
                cover(self._ops, self._frame, portion, self._send(portion), method, stream)

    def _send(self, boxes: Boxes) -> GpuArray:
        """The boxes in GPU memory."""
        slot = self._open()
        if self._sent:
            slot.done.record(slot.stream)
            self._device.wait(slot.done)
        self._sent = True
        slot.host_boxes[: len(boxes)] = boxes
        self._cuda.memcpy_htod_async(slot.boxes, slot.host_boxes, slot.stream)
        return GpuArray(slot.boxes, boxes.shape, "<f4")

    def finish(self, rows: Sequence[Rows]) -> None:
        slot = self._open()
        height, width = self._size
        spans = [(max(0, top), min(height, bottom)) for top, bottom in rows]
        spans = [(top, bottom) for top, bottom in spans if top < bottom]
        on_host = isinstance(self._image, np.ndarray)
        with self._device.active():
            for top, bottom in spans:
                self._bring_back(slot, top * width * 3, bottom * width * 3, on_host)
            slot.done.record(slot.stream)
            self._device.wait(slot.done)
        if on_host:
            for top, bottom in spans:
                np.copyto(self._image[top:bottom], slot.host_frame[top:bottom])
        self._slot, slot.busy = None, False

    def _bring_back(self, slot: _Slot, first: int, last: int, on_host: bool) -> None:
        if on_host and not self._device.integrated:
            host = slot.host_frame.reshape(-1)[first:last]
            self._cuda.memcpy_dtoh_async(host, self._frame.pointer + first, slot.stream)
        elif not on_host and isinstance(self._frame.owner, GpuArray):
            # The caller's frame was copied for want of alignment.
            pointer = self._frame.owner.pointer + first
            self._cuda.memcpy_dtod_async(pointer, self._frame.pointer + first, last - first, slot.stream)

    def close(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.settle()

    def _open(self) -> _Slot:
        if self._slot is None or self._backend.closed:
            raise BackendError("expected a frame in flight, this one has been finished or closed: begin it again")
        return self._slot
