"""A GPU in this process: streams that run late and in any order, and fakes of the libraries that drive it.

Nothing that is put into a stream happens before somebody looks (at an event, or by synchronizing), and then one step of
a random stream at a time. Code that forgets to wait reads stale memory, and one that reuses memory too early spoils
what a copy was to bring: both show in the pixels. Memory is the host's, by its address; what wasn't allocated or was
freed can't be touched.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

import dartblur_ops

SLOTS, HELD, PATCH, CONTEXT, SCALE = 4, 3, 16, 1.6, 1.2
HEIGHT, WIDTH = 72, 96


def picture(random: np.random.Generator, faces: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Noise with faces; where they are stands in the first row, one in a pixel: x0, y0 and side."""
    frame = random.integers(1, 256, (height, width, 3), np.uint8)
    frame[0, :SLOTS] = 0
    for index in range(faces):
        side = random.integers(3, 24)
        frame[0, index] = random.integers(2, width - 24), random.integers(4, height - 24), side
    return frame


def graph(frame: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fused graph's contract by simple means: the faces of `picture`; a painted patch is the negative."""
    boxes, scores = np.zeros((SLOTS + HELD, 4), np.float32), np.zeros(SLOTS + HELD, np.float32)
    for index, (x, y, side) in enumerate(frame[0, :SLOTS].astype(np.float32)):
        boxes[index] = [x, y, x + side, y + side] if side else 0
        scores[index] = 0.9 - 0.1 * index if side else 0
    boxes[SLOTS:] = held
    scores[SLOTS:] = (held[:, 2:] > held[:, :2]).all(1)
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * np.float32(SCALE)
    grown = np.concatenate([centre - half, centre + half], 1)
    return 1 - dartblur_ops.crop_faces(frame, grown, PATCH, CONTEXT), boxes, scores


class Gpu:
    """Memory and streams.

    Attributes:
        log: what was put into streams, in order: ``(what, stream handle, bytes)``.
        blocks: memory that is allocated: ``address: bytes``.
        stuck: nothing ever happens any more.
        integrated: it shares the host's memory.
    """

    def __init__(self, seed: int = 0, integrated: bool = False) -> None:
        self.log: list[tuple[str, int, int]] = []
        self.blocks: dict[int, np.ndarray] = {}
        self.stuck, self.integrated = False, integrated
        self.contexts = 0
        self.objects = 0
        self.streams: dict[int, deque[tuple[Callable[[], bool], Callable[[], None]]]] = {0: deque()}
        self._random = np.random.default_rng(seed)

    def alloc(self, size: int, offset: int = 0) -> int:
        room = np.full(size + 512, 0xA5, np.uint8)
        address = room.ctypes.data + (-room.ctypes.data) % 256 + offset
        self.blocks[address] = room
        return address

    def free(self, address: int) -> None:
        assert address in self.blocks, "freed twice"
        del self.blocks[address]

    def view(self, address: int, shape: tuple[int, ...], kind: Any) -> np.ndarray:
        """Memory at an address; refused where it isn't allocated."""
        kind = np.dtype(kind)
        size = int(np.prod(shape)) * kind.itemsize
        assert any(
            start <= address and address + size <= room.ctypes.data + room.nbytes for start, room in self.blocks.items()
        ), "illegal address"
        return np.frombuffer((ctypes.c_ubyte * size).from_address(address), kind).reshape(shape)

    def put(self, what: str, stream: int, size: int, work: Callable[[], None], ready: Any = lambda: True) -> None:
        # 1 is another number of the default stream.
        stream = 0 if stream == 1 else stream
        self.log.append((what, stream, size))
        self.streams[stream].append((ready, work))

    def step(self) -> bool:
        """One step of one stream that can go on; False when none can."""
        able = [queue for queue in self.streams.values() if queue and queue[0][0]()]
        if self.stuck or not able:
            return False
        able[self._random.integers(len(able))].popleft()[1]()
        return True

    def drain(self) -> None:
        while self.step():
            pass
        assert not any(self.streams.values()), "a stream waits for ever"

    def copies(self, what: str) -> list[int]:
        return [size for name, _, size in self.log if name == what]


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._asked, self._done = gpu, 0, 0
        gpu.objects += 1

    def __del__(self) -> None:
        self._gpu.objects -= 1

    def record(self, stream: Any = None) -> Event:
        self._asked += 1
        number = self._asked

        def work() -> None:
            self._done = max(self._done, number)

        self._gpu.put("record", stream.handle if stream else 0, 0, work)
        return self

    def query(self) -> bool:
        self._gpu.step()
        return self._done >= self._asked

    def reached(self) -> Callable[[], bool]:
        """Whether what has been recorded so far is done."""
        number = self._asked
        return lambda: self._done >= number


class Stream:
    def __init__(self, gpu: Gpu, flags: int = 0) -> None:
        self.handle, self.flags, self._gpu = max(gpu.streams) + 1000, flags, gpu
        gpu.streams[self.handle] = deque()
        gpu.objects += 1

    def __del__(self) -> None:
        self._gpu.objects -= 1

    def wait_for_event(self, event: Event) -> None:
        self._gpu.put("wait", self.handle, 0, lambda: None, event.reached())


class HostAllocation:
    def __init__(self, gpu: Gpu, shape: tuple[int, ...], kind: Any) -> None:
        self._gpu = gpu
        self.address = gpu.alloc(int(np.prod(shape)) * np.dtype(kind).itemsize)
        data = (self.address, False)
        self.__array_interface__ = {"shape": shape, "typestr": np.dtype(kind).str, "data": data, "version": 3}

    def free(self) -> None:
        self._gpu.free(self.address)

    def get_device_pointer(self) -> int:
        assert self._gpu.integrated
        return self.address


class DeviceAllocation:
    def __init__(self, gpu: Gpu, size: int) -> None:
        self._gpu, self._address = gpu, gpu.alloc(size)

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._gpu.free(self._address)


def pycuda_driver(gpu: Gpu) -> ModuleType:
    """As much of ``pycuda.driver`` as is used here; all but the device wants a current context."""
    cuda = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        @staticmethod
        def count() -> int:
            return 1

        def name(self) -> str:
            return "Simulated"

        def compute_capability(self) -> tuple[int, int]:
            return 8, 7

        def get_attribute(self, attribute: str) -> int:
            return {"integrated": int(gpu.integrated)}[attribute]

        def retain_primary_context(self) -> Any:
            return Context()

    class Context:
        def push(self) -> None:
            gpu.contexts += 1

        @staticmethod
        def pop() -> None:
            gpu.contexts -= 1

        @staticmethod
        def synchronize() -> None:
            gpu.log.append(("synchronize", 0, 0))
            gpu.drain()

    def current(call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **options: Any) -> Any:
            assert gpu.contexts > 0, "no context is current"
            return call(*args, **options)

        return checked

    def pinned(host: np.ndarray) -> None:
        gpu.view(host.ctypes.data, host.shape, host.dtype)
        assert host.flags.c_contiguous

    def to_gpu(address: int, host: np.ndarray, stream: Stream) -> None:
        pinned(host)
        target = gpu.view(address, host.shape, host.dtype)
        gpu.put("upload", stream.handle, host.nbytes, lambda: np.copyto(target, host))

    def to_host(host: np.ndarray, address: int, stream: Stream) -> None:
        pinned(host)
        source = gpu.view(address, host.shape, host.dtype)
        gpu.put("download", stream.handle, host.nbytes, lambda: np.copyto(host, source))

    def on_gpu(target: int, source: int, size: int, stream: Stream) -> None:
        to, of = gpu.view(target, (size,), np.uint8), gpu.view(source, (size,), np.uint8)
        gpu.put("move", stream.handle, size, lambda: np.copyto(to, of))

    def fill(address: int, value: int, size: int, stream: Stream) -> None:
        gpu.put("fill", stream.handle, size, lambda: gpu.view(address, (size,), np.uint8).fill(value))

    cuda.__dict__.update(
        Error=Error,
        MemoryError=MemoryError,
        Device=Device,
        Context=Context,
        init=lambda: None,
        Stream=current(lambda flags=0: Stream(gpu, flags)),
        Event=current(lambda flags=0: Event(gpu)),
        event_flags=SimpleNamespace(DISABLE_TIMING=2),
        host_alloc_flags=SimpleNamespace(DEVICEMAP=2),
        device_attribute=SimpleNamespace(INTEGRATED="integrated"),
        mem_alloc=current(lambda size: DeviceAllocation(gpu, size)),
        pagelocked_empty=current(lambda shape, dtype, mem_flags=0: np.asarray(HostAllocation(gpu, shape, dtype))),
        memcpy_htod_async=current(to_gpu),
        memcpy_dtoh_async=current(to_host),
        memcpy_dtod_async=current(on_gpu),
        memset_d8_async=current(fill),
    )
    return cuda


def tensorrt(gpu: Gpu, half: bool = False, run: Callable[..., Any] = graph) -> ModuleType:
    """As much of ``tensorrt`` as is used here; what its engine does is in the hands of `trt.failing`."""
    trt = ModuleType("tensorrt")
    trt.__dict__.update(__version__="10.3.0", failing=None, dynamic=True)
    kinds = SimpleNamespace(UINT8="uint8", FLOAT="float", HALF="half")
    names = ["scores", "frames", "patches", "held_boxes", "boxes"]

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

        def log(self, severity: int, msg: str) -> None:
            raise NotImplementedError

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            self._logger.log(ILogger.WARNING, "nothing of note")
            if trt.failing == "load":
                self._logger.log(ILogger.ERROR, "Serialization assertion\n  stdVersionRead == kVERSION failed")
                return None
            assert data == b"engine"
            return Engine(self._logger)

    class Engine:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger
            self.num_io_tensors = len(names)
            gpu.objects += 1

        def __del__(self) -> None:
            gpu.objects -= 1

        def get_tensor_name(self, index: int) -> str:
            return names[index]

        def get_tensor_dtype(self, name: str) -> str:
            return {"frames": kinds.UINT8, "patches": kinds.HALF if half else kinds.FLOAT}.get(name, kinds.FLOAT)

        def create_execution_context(self) -> Context | None:
            return None if trt.failing == "context" else Context(self._logger)

    class Context:
        def __init__(self, logger: ILogger) -> None:
            self._logger, self._addresses, self._running = logger, {}, False

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            return shape in ((1, HEIGHT, WIDTH, 3), (1, HELD, 4))

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            count = SLOTS + HELD
            outputs = {"patches": (1, count, 3, PATCH, PATCH), "boxes": (1, count, 4), "scores": (1, count)}
            return {"frames": (1, HEIGHT, WIDTH, 3), "held_boxes": (1, HELD, 4), **outputs}[name]

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._addresses[name] = address
            return address % 256 == 0

        def execute_async_v3(self, stream: int) -> bool:
            if trt.failing == "run":
                self._logger.log(ILogger.INTERNAL_ERROR, "Cuda Runtime (an illegal memory access)")
                return False
            at = dict(self._addresses)
            # In two steps, so that two frames would be seen in the context at once.
            gpu.put("graph", stream, 0, self._begin)
            gpu.put("graph ends", stream, 0, lambda: self._end(at))
            return True

        def _begin(self) -> None:
            assert not self._running, "two frames in one execution context"
            self._running = True

        def _end(self, at: dict[str, int]) -> None:
            self._running = False
            count = SLOTS + HELD
            frame, held = gpu.view(at["frames"], (HEIGHT, WIDTH, 3), "u1"), gpu.view(at["held_boxes"], (HELD, 4), "f4")
            patches, boxes, scores = run(frame, held)
            if trt.failing == "silent":
                return
            shape = (count, 3, PATCH, PATCH)
            gpu.view(at["patches"], shape, "f2" if half else "f4")[:] = patches
            gpu.view(at["boxes"], (count, 4), "f4")[:] = boxes
            gpu.view(at["scores"], (count,), "f4")[:] = np.nan if trt.failing == "nan" else scores

    trt.__dict__.update(ILogger=ILogger, Runtime=Runtime, DataType=kinds)
    return trt


def cuda_ops(gpu: Gpu) -> ModuleType:
    """``dartblur_ops.cuda`` by way of the operations of the CPU."""
    module = ModuleType("dartblur_ops.cuda")

    def array(interface: Any) -> np.ndarray:
        values = interface.__cuda_array_interface__
        return gpu.view(values["data"][0], values["shape"], values["typestr"])

    def operation(name: str) -> Callable[..., None]:
        def put(frame: Any, *arrays: Any, stream: int | None = None, **options: Any) -> None:
            pixels, others = array(frame), [array(some) for some in arrays]

            def work() -> None:
                single = [some.astype(np.float32) for some in others]
                getattr(dartblur_ops, name)(pixels, *single, **options)

            gpu.put(name, stream or 0, 0, work)

        return put

    for name in ("composite", "gaussian", "pixelate", "solid"):
        setattr(module, name, operation(name))
    module.__dict__.update(built=lambda: True, require=lambda: None)
    return module


class Array:
    """A frame in the GPU's memory, as other libraries have it."""

    def __init__(self, gpu: Gpu, pixels: np.ndarray, offset: int = 0, stream: Any = None) -> None:
        self.gpu, self.shape = gpu, pixels.shape
        self.address = gpu.alloc(pixels.nbytes, offset)
        self.__cuda_array_interface__ = {
            "shape": pixels.shape,
            "typestr": "|u1",
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            "stream": stream,
        }
        # Its owner has written it in a stream that has not run yet.
        content = pixels.copy()
        gpu.put("owner", 0, 0, lambda: np.copyto(gpu.view(self.address, content.shape, "u1"), content))

    @property
    def pixels(self) -> np.ndarray:
        return self.gpu.view(self.address, self.shape, "u1").copy()

    def copy(self) -> Array:
        self.gpu.drain()
        return Array(self.gpu, self.pixels)


class Tensor(Array):
    """One with DLPack besides, as PyTorch has it: asking for it orders the streams."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int) -> object:
        event = Event(self.gpu).record()
        self.gpu.put("wait", stream, 0, lambda: None, event.reached())
        return self.gpu.view(self.address, self.shape, "u1").__dlpack__()


def install(monkeypatch: Any, gpu: Gpu, **modules: ModuleType) -> None:
    """Puts the fakes where the libraries would be."""
    from dartblur.backends import pycuda_device

    pycuda_device._primary_context.cache_clear()
    driver = pycuda_driver(gpu)
    package = ModuleType("pycuda")
    package.driver = driver  # type: ignore[attr-defined]
    for name, module in {
        "pycuda": package,
        "pycuda.driver": driver,
        "dartblur_ops.cuda": cuda_ops(gpu),
        **modules,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
