"""Frames in the memory of a GPU, whosever they are, and this package's own memory as others see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dartblur_ops import OpsError
from dartblur_ops._device_arrays import LEGACY_STREAM, device_array

from ..errors import FrameError

_DLPACK_CUDA = (2, 13)
"""Of DLPack's kinds of memory: CUDA's, and its managed one."""


@dataclass(frozen=True, slots=True)
class GpuArray:
    """A contiguous array in GPU memory.

    Attributes:
        pointer: address of the first element.
        shape: of the array.
        typestr: element type as NumPy writes it, like ``|u1`` or ``<f4``.
        owner: what the memory belongs to; kept alive with the array.
    """

    pointer: int
    shape: tuple[int, ...]
    typestr: str
    owner: Any = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The array for other libraries; whoever reads it sees to the order of work himself."""
        return {
            "shape": self.shape,
            "typestr": self.typestr,
            "data": (self.pointer, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }


def is_on_gpu(array: Any) -> bool:
    """Whether an array says that it lies in the memory of a CUDA device."""
    if hasattr(array, "__cuda_array_interface__"):
        return True
    return hasattr(array, "__dlpack_device__") and int(array.__dlpack_device__()[0]) in _DLPACK_CUDA


def gpu_frame(image: Any, device: int, stream: int = 0) -> tuple[GpuArray, int | None]:
    """A frame in GPU memory, as it lies.

    Args:
        image: uint8 ``[H, W, 3]`` BGR, contiguous and writeable, with DLPack or ``__cuda_array_interface__``.
        device: number of the GPU that it must lie on, where it says so.
        stream: handle of the CUDA stream that is to work with it; 0 is the legacy default stream.

    Returns:
        The frame, and the stream in which its owner may have work on it under way, numbered as in
        ``__cuda_array_interface__``: the caller waits for that. None where `stream` does so already.

    Raises:
        FrameError: it is not such an image.
    """
    try:
        array = device_array("frame", image, stream)
    except OpsError as error:
        raise FrameError(str(error)) from error
    if array.dtype != "uint8" or len(array.shape) != 3 or array.shape[2] != 3 or array.size == 0:
        shape = list(array.shape)
        raise FrameError(f"expected a GPU image [H, W, 3] uint8 BGR, got {shape} {array.dtype}: convert it first")
    if array.device not in (None, device):
        raise FrameError(f"expected a frame on GPU {device}, got one on GPU {array.device}: move it")
    if not array.contiguous:
        raise FrameError(f"expected a contiguous GPU frame, got strides {list(array.strides)}: copy it first")
    if array.read_only:
        raise FrameError("expected a GPU frame that can be overwritten, got a read-only one: copy it first")
    frame = GpuArray(array.address, array.shape, "|u1", (array.owner, image))
    # Without DLPack, None says that nothing is under way; but PyCUDA says so of work in the default stream, too.
    return frame, None if array.device is not None else array.producer or LEGACY_STREAM
