"""Arrays in the memory of a CUDA device, whosever they are: what DLPack and ``__cuda_array_interface__`` say of them.

Nothing here needs CUDA or a GPU. DLPack goes first where an array offers both, because it orders streams by itself.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from dartblur_ops._checks import OpsError, describe

LEGACY_STREAM = 1
"""The legacy default stream, in DLPack and in ``__cuda_array_interface__``; 0 would be ambiguous there."""

_MEMORIES = {
    1: "host memory",
    2: "CUDA",
    3: "CUDA pinned host memory",
    4: "OpenCL",
    7: "Vulkan",
    8: "Metal",
    10: "ROCm",
    11: "ROCm pinned host memory",
    13: "CUDA managed memory",
    14: "oneAPI",
    15: "WebGPU",
    16: "Hexagon",
}
_USABLE = (2, 3, 13)
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}
_LETTERS = {"i": "int", "u": "uint", "f": "float", "b": "bool", "c": "complex"}
_READ_ONLY = 1
"""Bit of the flags of a versioned DLPack tensor."""


@dataclass(frozen=True)
class DeviceArray:
    """What an array's owner says of it.

    Attributes:
        name: of the argument, for messages.
        address: of the first element; may be 0 if there is none.
        shape: sides.
        strides: bytes between neighbours along each side.
        dtype: element type as NumPy names it, like "uint8" or "float16".
        read_only: whether its owner forbids writing; not all interfaces can say so.
        device: number of the CUDA device, or None where the interface doesn't tell.
        producer: stream with work on the array that must be waited for, or None.
        owner: keeps the memory while it is in use.
    """

    name: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    read_only: bool
    device: int | None
    producer: int | None
    owner: object

    @property
    def size(self) -> int:
        """Number of elements."""
        product = 1
        for side in self.shape:
            product *= side
        return product

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in C order without gaps."""
        if self.size == 0:
            return True
        expected = _compact(self.shape, _item_size(self.dtype))
        return all(side == 1 or a == b for side, a, b in zip(self.shape, self.strides, expected, strict=True))

    def refuse(self, expected: str) -> OpsError:
        """The error for an array that is not as expected."""
        return OpsError(f"{self.name}: expected {expected}, got {self.dtype} {list(self.shape)}")


def device_array(name: str, value: Any, stream: int) -> DeviceArray:
    """Reads an array that CUDA can reach.

    Args:
        name: of the argument, for messages.
        value: an object with ``__dlpack__`` or ``__cuda_array_interface__``.
        stream: handle of the CUDA stream that will work on it, 0 for the legacy default stream. With DLPack, the
            array's owner makes it wait for what is under way.

    Raises:
        OpsError: it has neither interface, lies elsewhere, or its owner won't share it.
    """
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        return _from_dlpack(name, value, stream or LEGACY_STREAM)
    # Not hasattr, which would hide why an owner refuses.
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
    except Exception as error:
        raise _unshared(name, error) from error
    if interface is None:
        raise OpsError(
            f"{name}: expected an array on a CUDA device (DLPack or __cuda_array_interface__), got {describe(value)}"
        )
    return _from_interface(name, interface, value)


class _Tensor(ctypes.Structure):
    """``DLTensor`` of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _VersionedTensor(ctypes.Structure):
    """``DLManagedTensorVersioned``."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


def _from_dlpack(name: str, value: Any, stream: int) -> DeviceArray:
    try:
        kind, number = (int(part) for part in value.__dlpack_device__())
    except Exception as error:
        raise _unshared(name, error) from error
    if kind not in _USABLE:
        memory = _MEMORIES.get(kind, f"DLPack device type {kind}")
        raise OpsError(f"{name}: expected an array on a CUDA device, got one in {memory}: move it there")
    try:
        capsule = _capsule(value, stream)
    except Exception as error:
        raise _unshared(name, error) from error
    tensor, read_only = _tensor_of(name, capsule)
    if tensor.lanes != 1 or tensor.bits % 8 or tensor.code not in _KINDS:
        raise OpsError(f"{name}: expected plain numbers, got DLPack type {tensor.code, tensor.bits, tensor.lanes}")
    shape, dtype = tuple(tensor.shape[: tensor.ndim]), _dtype(_KINDS[tensor.code], tensor.bits // 8)
    if tensor.strides:
        strides = tuple(step * tensor.bits // 8 for step in tensor.strides[: tensor.ndim])
    else:
        strides = _compact(shape, tensor.bits // 8)
    address = (tensor.data or 0) + tensor.byte_offset
    # The capsule is not renamed, and so gives the tensor back when it goes.
    return DeviceArray(name, address, shape, strides, dtype, read_only, number, None, (value, capsule))


def _capsule(value: Any, stream: int) -> object:
    try:
        return value.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:  # from before DLPack 1.0
        return value.__dlpack__(stream=stream)


def _tensor_of(name: str, capsule: object) -> tuple[_Tensor, bool]:
    """The tensor in a capsule, and whether it is read-only, as far as that can be told."""
    api = ctypes.pythonapi
    is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", api))
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))
    if is_valid(capsule, b"dltensor_versioned"):
        managed = _VersionedTensor.from_address(pointer(capsule, b"dltensor_versioned"))
        if managed.major != 1:
            raise OpsError(f"{name}: expected DLPack 1, got version {managed.major}.{managed.minor}")
        return managed.tensor, bool(managed.flags & _READ_ONLY)
    if is_valid(capsule, b"dltensor"):
        return _Tensor.from_address(pointer(capsule, b"dltensor")), False
    raise OpsError(f"{name}: expected a DLPack capsule from __dlpack__, got {describe(capsule)}")


def _from_interface(name: str, interface: Any, value: object) -> DeviceArray:
    try:
        shape = tuple(int(side) for side in interface["shape"])
        typestr = str(interface["typestr"])
        address, read_only = interface["data"]
        steps, stream, mask = (interface.get(key) for key in ("strides", "stream", "mask"))
        size, letter = int(typestr[2:]), typestr[1]
        strides = _compact(shape, size) if steps is None else tuple(int(step) for step in steps)
        address, stream = int(address or 0), None if stream is None else int(stream)
    except Exception as error:
        raise OpsError(
            f"{name}: expected a __cuda_array_interface__ as documented, got {describe(interface)}"
        ) from error
    if mask is not None:
        raise OpsError(f"{name}: expected an array without a mask, got a masked one")
    if stream == 0:
        raise OpsError(f"{name}: expected a stream as __cuda_array_interface__ numbers them (from 1), got 0")
    if typestr[0] == ">" and size > 1:
        raise OpsError(f"{name}: expected little-endian elements, got {typestr}")
    if len(strides) != len(shape):
        raise OpsError(f"{name}: expected {len(shape)} strides for {list(shape)}, got {list(strides)}")
    dtype = _dtype(_LETTERS.get(letter, letter), size)
    return DeviceArray(name, address, shape, strides, dtype, bool(read_only), None, stream, value)


def _dtype(kind: str, size: int) -> str:
    return kind if kind == "bool" else f"{kind}{8 * size}"


def _item_size(dtype: str) -> int:
    return 1 if dtype == "bool" else int(dtype.lstrip("abcdefghijklmnopqrstuvwxyzV")) // 8


def _compact(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Strides in bytes of an array in C order."""
    strides: list[int] = []
    for side in reversed(shape):
        strides.insert(0, size)
        size *= side
    return tuple(strides)


def _unshared(name: str, error: Exception) -> OpsError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return OpsError(f"{name}: expected an array that its owner shares, but it refused: {reason}")
