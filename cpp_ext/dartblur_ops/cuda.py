"""The image operations on a CUDA device, for arrays of any library: PyTorch, CuPy, PyCUDA, Numba, JAX.

Conventions are those of `dartblur_ops`, and so are the results, bit by bit except where an exponential is rounded
differently (`gaussian`, and `crop_faces` with its blur). What differs:

* Arrays lie in memory that the GPU reaches, all of a call on one device, and have DLPack or
  ``__cuda_array_interface__``. A frame is uint8 [H, W, 3], or a batch [N, H, W, 3] of up to 65535. Its rows may lie
  apart; everything else is contiguous. The operations allocate no arrays, so results go into an `out` of yours.
* Boxes are float32 [S, 4] for a frame or [N, S, 4] for a batch, up to 4096 slots for each frame. They stay on the
  device, so what they hold can't be refused: a box with a coordinate that is not finite covers the whole frame.
* ``scores`` (float32 [S] or [N, S]) let slots stay empty: one below ``threshold`` is passed over. NaN counts as a face.
  ``box_scale`` grows each box about its centre first, 1 to 100.
* Work is queued on ``stream`` (the handle of a cudaStream_t as an integer; None is the legacy default stream), and the
  call returns. It starts after what the arrays' owners have under way, as far as they tell; what you do on another
  stream afterwards must wait for this one. Keep the arrays until the work is done.
* Wrong types, shapes, ranges, devices and read-only arrays raise `OpsError` before anything is queued; `CudaError`, one
  of them, says that there is no usable GPU or that CUDA refused the work.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsIndex

from dartblur_ops import Shape, _layout
from dartblur_ops._checks import MAX_CONTEXT, MAX_PATCH, MAX_SIDE, OpsError, as_integer, as_integers, as_number, refuse
from dartblur_ops._device_arrays import LEGACY_STREAM, DeviceArray, device_array

if TYPE_CHECKING:
    from dartblur_ops import _cuda

__all__ = [
    "CudaError",
    "built",
    "composite",
    "crop_faces",
    "gaussian",
    "letterbox",
    "pixelate",
    "require",
    "solid",
]


class CudaError(OpsError):
    """The CUDA operations aren't built, there is no usable GPU, or CUDA refused the work."""


def built() -> bool:
    """Whether this installation has the CUDA operations; it says nothing of a GPU."""
    return not isinstance(_load(), ImportError)


def require() -> None:
    """Make sure that the operations can run on the current device.

    Raises:
        CudaError: they aren't built, or there is no usable GPU; the message says which, and what to do.
    """
    native = _native()
    if reason := native.unusable():
        numbers = ", ".join(f"{number // 10}.{number % 10}" for number in native.architectures())
        raise CudaError(
            f"expected a CUDA device of compute capability {numbers} with its driver, got: {reason}: check nvidia-smi, "
            "or use the operations on the processor"
        )


def composite(
    frame: Any,
    patches: Any,
    boxes: Any,
    context: SupportsFloat = 1.5,
    shape: Shape = "rectangle",
    feather: SupportsFloat = 0.0,
    *,
    scores: Any = None,
    threshold: SupportsFloat = 0.0,
    box_scale: SupportsFloat = 1.0,
    stream: int | None = None,
) -> None:
    """Paste the face square of each patch back over its box, in place: one launch for all frames and faces.

    Args:
        frame: uint8 [H, W, 3] or [N, H, W, 3], BGR, writeable.
        patches: float32 or float16 [S, 3, P, P] or [N, S, 3, P, P], planes in B, G, R order. Values are clamped to
            0..1; NaN counts as 0.
        boxes, scores, threshold, box_scale, stream: see above.
        context, shape, feather: as for `dartblur_ops.composite`.

    Raises:
        OpsError: An argument is not as described.
    """
    work = _Work.of(frame, boxes, scores, threshold, box_scale, stream, writeable=True)
    squares = work.array("patches", patches)
    lead = [*work.lead, work.slots[2]]
    if squares.dtype not in ("float32", "float16") or squares.shape[:-2] != (*lead, 3) or len(squares.shape) < 2:
        raise squares.refuse(f"float32 or float16 {[*lead, 3, 'P', 'P']}".replace("'", ""))
    side = squares.shape[-1]
    if squares.shape[-2] != side or not 1 <= side <= MAX_PATCH:
        raise squares.refuse(f"square patches with sides of 1 to {MAX_PATCH}")
    if shape not in ("rectangle", "ellipse"):
        raise refuse("shape", "'rectangle' or 'ellipse'", shape)
    fade = as_number("feather", feather, 0, 1)
    _, margin, growth = _layout(side, context)
    half = squares.dtype == "float16"
    work.queue(_native().composite, squares.address, half, side, margin, growth, shape == "ellipse", fade)


def letterbox(
    frame: Any, size: tuple[SupportsIndex, SupportsIndex], out: Any, *, stream: int | None = None
) -> tuple[Any, float]:
    """Fit frames into a network's input.

    Args:
        frame: uint8 [H, W, 3] or [N, H, W, 3], BGR.
        size: (height, width) of the input in pixels, each 1 to 65536.
        out: float32 [3, height, width] or [N, 3, height, width] to write into.
        stream: see above.

    Returns:
        `out` and the scale, as `dartblur_ops.letterbox` does.

    Raises:
        OpsError: An argument is not as described.
    """
    work = _Work.of(frame, None, None, 0.0, 1.0, stream, writeable=False)
    height, width = as_integers("size", size, 2, 1, MAX_SIDE)
    planes = work.output("out", out, (*work.lead, 3, height, width))
    scale = work.run(_native().letterbox, work.device, work.stream, work.frames, planes.address, height, width)
    return out, float(scale)


def crop_faces(
    frame: Any,
    boxes: Any,
    patch_size: SupportsIndex = 96,
    context: SupportsFloat = 1.5,
    blur: bool = True,
    *,
    out: Any,
    box_scale: SupportsFloat = 1.0,
    stream: int | None = None,
) -> Any:
    """Cut a square patch with some context around each face, the face itself blurred.

    Args:
        frame: uint8 [H, W, 3] or [N, H, W, 3], BGR; it stays as it is.
        boxes: float32 [S, 4] or [N, S, 4]. Every slot yields a patch of defined, finite values.
        patch_size, context, blur: as for `dartblur_ops.crop_faces`.
        out: float32 [S, 3, P, P] or [N, S, 3, P, P] to write into.
        box_scale, stream: see above.

    Returns:
        `out`.

    Raises:
        OpsError: An argument is not as described.
    """
    work = _Work.of(frame, boxes, None, 0.0, box_scale, stream, writeable=False)
    side, margin, growth = _layout(patch_size, context)
    patches = work.output("out", out, (*work.lead, work.slots[2], 3, side, side))
    work.queue(_native().crop_faces, patches.address, side, margin, growth, bool(blur))
    return out


def gaussian(
    frame: Any,
    boxes: Any,
    *,
    scores: Any = None,
    threshold: SupportsFloat = 0.0,
    box_scale: SupportsFloat = 1.0,
    stream: int | None = None,
) -> None:
    """Blur each box in place, alone, as `dartblur_ops.gaussian` does; two launches for each slot of a frame.

    Args:
        frame: uint8 [H, W, 3] or [N, H, W, 3], BGR, writeable.
        boxes, scores, threshold, box_scale, stream: see above.

    Raises:
        OpsError: An argument is not as described.
    """
    work = _Work.of(frame, boxes, scores, threshold, box_scale, stream, writeable=True)
    work.queue(_native().gaussian)


def pixelate(
    frame: Any,
    boxes: Any,
    blocks: SupportsIndex = 8,
    *,
    scores: Any = None,
    threshold: SupportsFloat = 0.0,
    box_scale: SupportsFloat = 1.0,
    stream: int | None = None,
) -> None:
    """Replace each box by blocks of its mean colours, in place; a launch for each slot of a frame.

    Args:
        frame: uint8 [H, W, 3] or [N, H, W, 3], BGR, writeable.
        blocks: as for `dartblur_ops.pixelate`.
        boxes, scores, threshold, box_scale, stream: see above.

    Raises:
        OpsError: An argument is not as described.
    """
    work = _Work.of(frame, boxes, scores, threshold, box_scale, stream, writeable=True)
    work.queue(_native().pixelate, as_integer("blocks", blocks, 1, MAX_SIDE))


def solid(
    frame: Any,
    boxes: Any,
    color: Sequence[SupportsIndex] = (0, 0, 0),
    *,
    scores: Any = None,
    threshold: SupportsFloat = 0.0,
    box_scale: SupportsFloat = 1.0,
    stream: int | None = None,
) -> None:
    """Fill each box with one colour, in place: one launch for all frames and faces.

    Args:
        frame: uint8 [H, W, 3] or [N, H, W, 3], BGR, writeable.
        color: Three integers 0 to 255 in B, G, R order.
        boxes, scores, threshold, box_scale, stream: see above.

    Raises:
        OpsError: An argument is not as described.
    """
    work = _Work.of(frame, boxes, scores, threshold, box_scale, stream, writeable=True)
    work.queue(_native().solid, *as_integers("color", color, 3, 0, 255))


@dataclass
class _Work:
    """The checked frames and slots of a call, on the way to a stream."""

    stream: int
    lead: tuple[int, ...]
    frames: _cuda.Frames
    slots: _cuda.Slots
    arrays: list[DeviceArray]

    @classmethod
    def of(
        cls,
        frame: Any,
        boxes: Any,
        scores: Any,
        threshold: SupportsFloat,
        box_scale: SupportsFloat,
        stream: int | None,
        *,
        writeable: bool,
    ) -> _Work:
        native = _native()
        work = cls(_handle(stream), (), (0,) * 6, (0, 0, 0, 0.0, 1.0), [])
        image = work.array("frame", frame)
        work.frames = _check_frames(image, native.MAX_FRAMES, writeable)
        work.lead = image.shape[:-3]
        limits = as_number("threshold", threshold, 0, 1), as_number("box_scale", box_scale, 1, MAX_CONTEXT)
        if boxes is None:
            return work
        places = work.array("boxes", boxes)
        if places.dtype != "float32" or places.shape != (*work.lead, *places.shape[-2:-1], 4) or len(places.shape) < 2:
            raise places.refuse(f"float32 {[*work.lead, 'S', 4]}".replace("'", ""))
        count = places.shape[-2]
        if count > native.MAX_SLOTS:
            raise places.refuse(f"at most {native.MAX_SLOTS} boxes for a frame")
        rating = None if scores is None else work.array("scores", scores)
        if rating and (rating.dtype != "float32" or rating.shape != (*work.lead, count)):
            raise rating.refuse(f"float32 {[*work.lead, count]}")
        work.slots = (places.address, rating.address if rating else 0, count, *limits)
        return work

    def array(self, name: str, value: Any) -> DeviceArray:
        """An argument as an array; all but frames must be contiguous."""
        array = device_array(name, value, self.stream)
        if name != "frame" and not array.contiguous:
            raise OpsError(f"{name}: expected a contiguous array, got strides {list(array.strides)}: copy it first")
        self.arrays.append(array)
        return array

    def output(self, name: str, value: Any, shape: tuple[int, ...]) -> DeviceArray:
        """An argument that is written to."""
        array = self.array(name, value)
        if array.dtype != "float32" or array.shape != shape:
            raise array.refuse(f"float32 {list(shape)}")
        return _writeable(array)

    @property
    def device(self) -> int:
        """The device that all arrays lie on."""
        native = _native()
        devices: dict[str, int] = {}
        for array in self.arrays:
            if array.size == 0:
                continue
            number = native.device_of(array.address)
            if number < 0:
                raise OpsError(
                    f"{array.name}: expected memory that a CUDA device reaches, got address {array.address:#x}"
                )
            devices[array.name] = number if array.device is None else array.device
        if len(set(devices.values())) > 1:
            places = ", ".join(f"{name} on {number}" for name, number in devices.items())
            raise OpsError(f"{'/'.join(devices)}: expected all arrays on one CUDA device, got {places}")
        return next(iter(devices.values()))

    def queue(self, operation: Callable[..., None], *arguments: Any) -> None:
        """Runs an operation on the slots, if there are any."""
        if self.slots[2]:
            self.run(operation, self.device, self.stream, self.frames, self.slots, *arguments)

    def run(self, operation: Callable[..., Any], device: int, *arguments: Any) -> Any:
        """Calls a native operation once the stream waits for the arrays' producers."""
        producers = {array.producer for array in self.arrays} - {None, self.stream or LEGACY_STREAM}
        try:
            for producer in producers:
                _native().wait(device, self.stream, producer or 0)
            return operation(device, *arguments)
        except RuntimeError as error:
            raise CudaError(f"expected device {device} to take the work, got: {error}") from error


def _check_frames(image: DeviceArray, most: int, writeable: bool) -> _cuda.Frames:
    if image.dtype != "uint8" or len(image.shape) not in (3, 4) or image.shape[-1] != 3:
        raise image.refuse("uint8 [H, W, 3] or [N, H, W, 3]")
    count = image.shape[0] if len(image.shape) == 4 else 1
    height, width = image.shape[-3:-1]
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and 1 <= count <= most):
        raise image.refuse(f"1 to {most} frames with sides of 1 to {MAX_SIDE} pixels")
    step = image.strides[0] if len(image.strides) == 4 else 0
    row, pixel, channel = image.strides[-3:]
    if channel != 1 or (width > 1 and pixel != 3):
        raise OpsError(f"frame: expected rows of contiguous pixels (strides [*, 3, 1]), got {list(image.strides)}")
    if writeable:
        _writeable(image)
        reach = 3 * width
        for side, stride in sorted([(count, step), (height, row)], key=lambda pair: abs(pair[1])):
            if side > 1 and abs(stride) < reach:
                raise OpsError(
                    f"frame: expected rows that do not overlap, got strides {list(image.strides)}: copy it first"
                )
            reach = reach if side == 1 else abs(stride) * side
    return image.address, count, height, width, row, step


def _writeable(array: DeviceArray) -> DeviceArray:
    if array.read_only:
        raise OpsError(f"{array.name}: expected a writeable array, got a read-only {array.dtype} {list(array.shape)}")
    return array


def _handle(stream: int | None) -> int:
    """A stream's handle as a number, 0 for the legacy default stream."""
    if stream is None:
        return 0
    try:
        number = operator.index(stream)
    except TypeError as error:
        raise refuse("stream", "the handle of a CUDA stream as an integer, or None", stream) from error
    if not 0 <= number < 2**64:
        raise refuse("stream", "the handle of a CUDA stream as an integer, or None", stream)
    return number


def _native() -> Any:
    loaded = _load()
    if isinstance(loaded, ImportError):
        raise CudaError(
            f"expected the CUDA operations, which this installation lacks ({loaded}): install with the CUDA toolkit on "
            "the PATH and DARTBLUR_CUDA=1 set"
        ) from loaded
    return loaded


def _load() -> ModuleType | ImportError:
    from importlib import import_module

    try:
        return import_module("dartblur_ops._cuda")
    except ImportError as error:
        return error
