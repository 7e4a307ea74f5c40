"""The door of the CUDA operations: how it reads arrays, and what it refuses. Memory is the processor's, the arrays say
that it is a device's."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest

import dartblur_ops as ops
from dartblur_ops import OpsError, cuda
from dartblur_ops._device_arrays import _Tensor, _VersionedTensor, device_array

CUDA, PINNED, MANAGED = 2, 3, 13


def interface(array, **changes):
    """An object with the ``__cuda_array_interface__`` of an array."""
    values = {
        "shape": array.shape,
        "typestr": array.dtype.str,
        "data": (array.ctypes.data, not array.flags.writeable),
        "strides": array.strides,
        "version": 3,
        **changes,
    }

    class Array:
        owner = array
        __cuda_array_interface__ = values

    return Array()


CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
"""Kinds of numbers in DLPack."""


class Shared:
    """An object with DLPack; `__dlpack__` is from before version 1.0 unless `versioned`."""

    def __init__(self, array, device=(CUDA, 0), versioned=None, compact=False, lanes=1):
        self.array, self.device, self.versioned = array, device, versioned
        self.streams, self.returned = [], 0
        sides = ctypes.c_int64 * array.ndim
        self.shape = sides(*array.shape)
        self.strides = None if compact else sides(*(step // array.itemsize for step in array.strides))
        offset = 5  # bytes before the first element
        self.tensor = _Tensor(
            array.ctypes.data - offset, *device, array.ndim, CODES[array.dtype.kind], 8 * array.itemsize, lanes,
            self.shape, self.strides, offset,
        )  # fmt: skip
        self.destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(self._give_back)

    def _give_back(self, capsule):
        self.returned += 1

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None, **options):
        if options and self.versioned is None:
            raise TypeError("unexpected keyword argument")
        self.streams.append(stream)
        held, name = self.tensor, b"dltensor"
        if self.versioned is not None:
            major, flags = self.versioned
            held, name = _VersionedTensor(major, 0, None, None, flags, self.tensor), b"dltensor_versioned"
        self.held = held
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(held), name, ctypes.cast(self.destructor, ctypes.c_void_p))


def frame_of(height=6, width=8):
    return np.zeros((height, width, 3), np.uint8)


BOX = np.array([[0, 0, 4, 4]], np.float32)
PATCHES = np.full((1, 3, 12, 12), 0.2, np.float32)


class TestReading:
    @pytest.mark.parametrize("kind", [CUDA, PINNED, MANAGED])
    @pytest.mark.parametrize("versioned", [None, (1, 0)])
    def test_dlpack(self, kind, versioned):
        source = np.zeros((4, 10, 3), np.float16)[1:, 2:8]
        array = device_array("frame", Shared(source, (kind, 3), versioned), 0)
        assert (array.address, array.shape, array.strides) == (source.ctypes.data, (3, 6, 3), source.strides)
        assert (array.dtype, array.device, array.read_only, array.producer) == ("float16", 3, False, None)
        assert not array.contiguous

    def test_dlpack_without_strides_is_compact(self):
        array = device_array("frame", Shared(frame_of(), compact=True), 0)
        assert array.strides == (24, 3, 1)
        assert array.contiguous

    @pytest.mark.parametrize(("stream", "number"), [(0, 1), (1, 1), (2, 2), (0x7F00DEAD, 0x7F00DEAD)])
    def test_dlpack_is_told_the_stream(self, stream, number):
        """0 is not allowed there: the legacy default stream is 1."""
        shared = Shared(frame_of())
        device_array("frame", shared, stream)
        assert shared.streams == [number]

    @pytest.mark.parametrize("versioned", [None, (1, 0)])
    def test_dlpack_is_given_back_once_the_array_goes(self, versioned):
        shared = Shared(frame_of(), versioned=versioned)
        array = device_array("frame", shared, 0)
        assert shared.returned == 0
        del array
        assert shared.returned == 1

    def test_dlpack_goes_first(self):
        shared = Shared(frame_of())
        shared.__cuda_array_interface__ = interface(frame_of()).__cuda_array_interface__
        assert device_array("frame", shared, 0).address == shared.array.ctypes.data

    def test_interface(self):
        source = np.zeros((4, 10, 3), np.int32)[::-1]
        array = device_array("frame", interface(source, stream=7), 0)
        assert (array.address, array.shape, array.strides) == (source.ctypes.data, (4, 10, 3), source.strides)
        assert (array.dtype, array.device, array.read_only, array.producer) == ("int32", None, False, 7)

    def test_interface_without_strides_is_compact(self):
        array = device_array("frame", interface(frame_of(), strides=None), 0)
        assert array.contiguous
        assert array.strides == (24, 3, 1)

    def test_empty_arrays_may_have_no_address(self):
        assert device_array("boxes", interface(np.empty((0, 4), np.float32), data=(None, False)), 0).address == 0


class Unwilling:
    """As a tensor that autograd watches."""

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("Can't get it from a Variable that requires grad\nmore")


class WronglyPacked:
    def __dlpack_device__(self):
        return (CUDA, 0)

    def __dlpack__(self, **options):
        return 7


UNREADABLE = [
    (lambda: [[1]], r"frame: expected an array on a CUDA device \(DLPack or .*\), got \[\[1\]\]"),
    (lambda: None, r"frame: expected an array on a CUDA device .*, got None"),
    (frame_of, r"frame: expected an array on a CUDA device, got one in host memory: move it there"),
    (lambda: Shared(frame_of(), (10, 0)), r"frame: .* got one in ROCm: move it there"),
    (lambda: Shared(frame_of(), (99, 0)), r"frame: .* got one in DLPack device type 99: move it there"),
    (lambda: Shared(frame_of(), versioned=(2, 0)), r"frame: expected DLPack 1, got version 2.0"),
    (lambda: Shared(frame_of(), lanes=3), r"frame: expected plain numbers, got DLPack type \(1, 8, 3\)"),
    (Unwilling, r"frame: expected an array that its owner shares, but it refused: Can't get it .* requires grad$"),
    (WronglyPacked, r"frame: expected a DLPack capsule from __dlpack__, got 7"),
    (lambda: interface(frame_of(), typestr="u"), r"frame: expected a __cuda_array_interface__ as documented, got \{"),
    (lambda: interface(frame_of(), data=5), r"frame: expected a __cuda_array_interface__ as documented"),
    (lambda: interface(frame_of(), mask=1), r"frame: expected an array without a mask"),
    (lambda: interface(frame_of(), stream=0), r"frame: expected a stream as .* \(from 1\), got 0"),
    (lambda: interface(frame_of(), strides=(3, 1)), r"frame: expected 3 strides for \[6, 8, 3\], got \[3, 1\]"),
    (lambda: interface(frame_of(), typestr=">f4"), r"frame: expected little-endian elements, got >f4"),
]


@pytest.mark.parametrize(("value", "message"), UNREADABLE, ids=[message[:50] for _, message in UNREADABLE])
def test_arrays_that_cannot_be_read_are_named(value, message):
    with pytest.raises(OpsError, match=message):
        device_array("frame", value(), 0)


def on(array):
    return interface(np.asarray(array))


def read_only(array):
    return interface(array, data=(array.ctypes.data, True))


def batch(*shape, dtype=np.float32):
    return on(np.zeros(shape, dtype))


FRAME, FRAMES = on(frame_of()), batch(2, 6, 8, 3, dtype=np.uint8)
REFUSED = [
    (
        lambda: cuda.solid(batch(7, 9), on(BOX)),
        r"frame: expected uint8 \[H, W, 3\] or \[N, H, W, 3\], got float32 \[7, 9\]",
    ),
    (
        lambda: cuda.solid(batch(0, 8, 3, dtype=np.uint8), on(BOX)),
        r"frame: expected 1 to 65535 frames with sides .* \[0, 8, 3\]",
    ),
    (
        lambda: cuda.solid(on(frame_of()[:, ::2]), on(BOX)),
        r"frame: expected rows of contiguous pixels .* got \[24, 6, 1\]",
    ),
    (lambda: cuda.solid(read_only(frame_of()), on(BOX)), r"frame: expected a writeable array, got a read-only uint8"),
    (lambda: cuda.solid(Shared(frame_of(), versioned=(1, 1)), on(BOX)), r"frame: expected a writeable array"),
    (
        lambda: cuda.solid(interface(frame_of(), strides=(0, 3, 1)), on(BOX)),
        r"frame: expected rows that do not overlap, got strides \[0, 3, 1\]",
    ),
    (
        lambda: cuda.solid(interface(np.zeros((2, 6, 8, 3), np.uint8), strides=(24, 24, 3, 1)), batch(2, 1, 4)),
        r"frame: expected rows that do not overlap",
    ),
    (lambda: cuda.solid(FRAME, [[0, 0, 4, 4]]), r"boxes: expected an array on a CUDA device"),
    (lambda: cuda.solid(FRAME, BOX), r"boxes: expected an array on a CUDA device, got one in host memory"),
    (lambda: cuda.solid(FRAME, batch(4)), r"boxes: expected float32 \[S, 4\], got float32 \[4\]"),
    (lambda: cuda.solid(FRAME, batch(2, 5)), r"boxes: expected float32 \[S, 4\], got float32 \[2, 5\]"),
    (lambda: cuda.solid(FRAME, batch(1, 4, dtype=float)), r"boxes: expected float32 \[S, 4\], got float64"),
    (lambda: cuda.solid(FRAMES, batch(1, 4)), r"boxes: expected float32 \[2, S, 4\], got float32 \[1, 4\]"),
    (
        lambda: cuda.solid(FRAME, on(np.zeros((4, 4), np.float32).T[:2])),
        r"boxes: expected a contiguous array, got strides",
    ),
    (lambda: cuda.solid(FRAME, on(BOX), scores=batch(2)), r"scores: expected float32 \[1\], got float32 \[2\]"),
    (lambda: cuda.solid(FRAME, on(BOX), threshold=2), r"threshold: expected a number in 0..1, got 2"),
    (lambda: cuda.solid(FRAME, on(BOX), threshold=np.nan), r"threshold: expected a number in 0..1, got nan"),
    (lambda: cuda.solid(FRAME, on(BOX), box_scale=0.5), r"box_scale: expected a number in 1..100, got 0.5"),
    (lambda: cuda.solid(FRAME, on(BOX), (0, 0, 256)), r"color: expected an integer in 0..255, got 256"),
    (
        lambda: cuda.solid(FRAME, on(BOX), stream="a"),
        r"stream: expected the handle of a CUDA stream as an integer, or None",
    ),
    (lambda: cuda.solid(FRAME, on(BOX), stream=-1), r"stream: expected the handle of a CUDA stream .* got -1"),
    (lambda: cuda.pixelate(FRAME, on(BOX), 0), r"blocks: expected an integer in 1..65536, got 0"),
    (lambda: cuda.gaussian(read_only(frame_of()), on(BOX)), r"frame: expected a writeable array"),
    (
        lambda: cuda.composite(FRAME, batch(2, 3, 12, 12), on(BOX)),
        r"patches: expected float32 or float16 \[1, 3, P, P\], got float32 \[2, 3, 12, 12\]",
    ),
    (lambda: cuda.composite(FRAME, batch(1, 3, 12, 12, dtype=float), on(BOX)), r"patches: expected float32 or float16"),
    (
        lambda: cuda.composite(FRAME, batch(1, 3, 12, 9), on(BOX)),
        r"patches: expected square patches .* \[1, 3, 12, 9\]",
    ),
    (lambda: cuda.composite(FRAME, PATCHES, on(BOX)), r"patches: .* got one in host memory"),
    (lambda: cuda.composite(FRAMES, batch(1, 3, 12, 12), batch(2, 1, 4)), r"patches: expected .* \[2, 1, 3, P, P\]"),
    (lambda: cuda.composite(FRAME, on(PATCHES), on(BOX), shape="star"), r"shape: expected 'rectangle' or 'ellipse'"),
    (lambda: cuda.composite(FRAME, on(PATCHES), on(BOX), feather=2), r"feather: expected a number in 0..1, got 2"),
    (
        lambda: cuda.composite(FRAME, on(PATCHES), on(BOX), context=0.5),
        r"context: expected a number in 1..100, got 0.5",
    ),
    (
        lambda: cuda.letterbox(FRAME, (4, 5), batch(3, 5, 4)),
        r"out: expected float32 \[3, 4, 5\], got float32 \[3, 5, 4\]",
    ),
    (lambda: cuda.letterbox(FRAMES, (4, 5), batch(3, 4, 5)), r"out: expected float32 \[2, 3, 4, 5\], got"),
    (lambda: cuda.letterbox(FRAME, (4, 5), None), r"out: expected an array on a CUDA device"),
    (lambda: cuda.letterbox(FRAME, (0, 5), batch(3, 1, 5)), r"size: expected an integer in 1..65536, got 0"),
    (
        lambda: cuda.letterbox(FRAME, (4, 5), read_only(np.zeros((3, 4, 5), np.float32))),
        r"out: expected a writeable array",
    ),
    (lambda: cuda.crop_faces(FRAME, on(BOX), 12, out=batch(2, 3, 12, 12)), r"out: expected float32 \[1, 3, 12, 12\]"),
    (lambda: cuda.crop_faces(FRAME, on(BOX), 0, out=batch(1)), r"patch_size: expected an integer in 1..4096, got 0"),
    (
        lambda: cuda.solid(Shared(frame_of(), (CUDA, 0)), Shared(BOX, (CUDA, 1))),
        r"frame/boxes: expected all arrays on one CUDA device, got frame on 0, boxes on 1",
    ),
]


@pytest.mark.usefixtures("emulated_cuda")
class TestDoor:
    @pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
    def test_errors_name_argument_expected_and_actual(self, call, message):
        with pytest.raises(OpsError, match=message):
            call()

    @pytest.mark.parametrize("kind", [lambda array: Shared(array), lambda array: Shared(array, versioned=(1, 0)), on])
    def test_takes_arrays_of_either_interface(self, kind):
        frame, expected = frame_of(), frame_of()
        cuda.composite(kind(frame), kind(PATCHES), kind(BOX))
        ops.composite(expected, PATCHES, BOX)
        assert expected.any()
        np.testing.assert_array_equal(frame, expected)

    def test_without_slots_nothing_happens(self):
        frame = frame_of()
        cuda.composite(on(frame), batch(0, 3, 12, 12), interface(np.empty((0, 4), np.float32), data=(0, False)))
        assert not frame.any()

    def test_memory_that_no_device_reaches_is_refused(self, monkeypatch, emulated_cuda):
        monkeypatch.setattr(emulated_cuda, "device_of", lambda address: -1)
        with pytest.raises(OpsError, match="frame: expected memory that a CUDA device reaches, got address 0x"):
            cuda.solid(on(frame_of()), on(BOX))

    def test_waits_for_the_producers_streams(self, monkeypatch, emulated_cuda):
        waits = []
        monkeypatch.setattr(emulated_cuda, "wait", lambda *numbers: waits.append(numbers))
        cuda.solid(interface(frame_of(), stream=5), interface(BOX, stream=9), stream=9)
        assert waits == [(0, 9, 5)]
        cuda.solid(interface(frame_of(), stream=1), interface(BOX, stream=None))
        assert waits == [(0, 9, 5)]  # both on the legacy default stream

    def test_what_cuda_refuses_is_an_error_of_its_own(self, monkeypatch, emulated_cuda):
        def fail(*arguments):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(emulated_cuda, "gaussian", fail)
        with pytest.raises(cuda.CudaError, match="expected device 0 to take the work, got: out of memory"):
            cuda.gaussian(on(frame_of()), on(BOX))

    def test_require_says_why_there_is_no_gpu(self, monkeypatch, emulated_cuda):
        cuda.require()
        monkeypatch.setattr(emulated_cuda, "unusable", lambda: "no CUDA-capable device is detected")
        with pytest.raises(
            cuda.CudaError, match=r"of compute capability 8\.7 .* got: no CUDA-capable device is detected"
        ):
            cuda.require()


def test_without_the_build_every_call_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dartblur_ops._cuda", None)
    assert not cuda.built()
    for call in (cuda.require, lambda: cuda.solid(on(frame_of()), on(BOX))):
        with pytest.raises(cuda.CudaError, match=r"expected the CUDA operations, .* DARTBLUR_CUDA=1 set"):
            call()


def test_importing_the_door_loads_no_cuda():
    code = "import sys, dartblur_ops.cuda; sys.exit('dartblur_ops._cuda' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
