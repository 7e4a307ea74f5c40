"""The native operations on a GPU: `dartblur_ops.cuda`, as the backends of GPUs use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ..boxes import pixel_blocks
from ..errors import BackendError
from .base import Boxes
from .gpu_arrays import GpuArray


def cuda_operations() -> Any:
    """The module `dartblur_ops.cuda`; raises `BackendError` when it can't work here."""
    try:
        ops = import_module("dartblur_ops.cuda")
        ops.require()
    except Exception as error:
        raise BackendError(f"the CUDA operations can't be used: {error}") from error
    return ops


def paste(ops: Any, frame: GpuArray, patches: GpuArray, boxes: GpuArray, context: float, stream: int | None) -> None:
    """Pastes patches over boxes of a frame, all in GPU memory; boxes of no area are left out.

    Args:
        ops: the module `dartblur_ops.cuda`.
        frame: uint8 ``[H, W, 3]``.
        patches: float32 or float16 ``[S, 3, P, P]``.
        boxes: float32 ``[S, 4]``.
        context: that the patches were cut with.
        stream: handle of the CUDA stream; None for the default one.

    Raises:
        BackendError: the GPU refused.
    """
    with _named_errors():
        ops.composite(frame, patches, boxes, context=context, stream=stream)


def cover(ops: Any, frame: GpuArray, boxes: Boxes, on_gpu: GpuArray, method: str, stream: int | None) -> None:
    """Overwrites boxes of a frame in GPU memory by a method that needs no model.

    Args:
        ops: the module `dartblur_ops.cuda`.
        frame: uint8 ``[H, W, 3]``.
        boxes, on_gpu: the same boxes ``[n, 4]``, in host memory and in the GPU's.
        method: ``gaussian``, ``pixelate`` or ``solid``.
        stream: handle of the CUDA stream; None for the default one.

    Raises:
        BackendError: the GPU refused.
    """
    with _named_errors():
        if method == "gaussian":
            ops.gaussian(frame, on_gpu, stream=stream)
        elif method == "pixelate":
            for index, blocks in enumerate(pixel_blocks(boxes, frame.shape[0], frame.shape[1])):
                box = GpuArray(on_gpu.pointer + index * 16, (1, 4), "<f4", on_gpu)
                ops.pixelate(frame, box, blocks=blocks, stream=stream)
        else:
            ops.solid(frame, on_gpu, stream=stream)


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise BackendError(f"the CUDA operations failed: {error}: restart the program") from error
