"""A GPU by way of PyCUDA: its primary context, its memory, and waiting for it."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import BackendError, FailClosedError

_POLL_S = 1e-4
"""Between two looks at an event: a tenth of what a fast GPU takes for a frame."""
_NON_BLOCKING = 1
"""``CU_STREAM_NON_BLOCKING``: doesn't wait for the default stream, in which other libraries work."""


@functools.cache
def _primary_context(number: int) -> Any:
    # Never given back: PyCUDA would leave the released context current in this thread, to the harm of PyTorch.
    import pycuda.driver as cuda

    return cuda.Device(number).retain_primary_context()


class CudaDevice:
    """A GPU. All that touches it is done in the block of `active`.

    Args:
        number: of the GPU.
        timeout_s: seconds that the GPU may take for one frame.

    Attributes:
        cuda: the module ``pycuda.driver``.
        name: product name.
        sm: compute capability, like ``8.7``.
        integrated: host and GPU share their memory, as on a Jetson.
        timeout_s: as given.
        lost: it didn't answer in time or failed; what it may still work with is never freed.

    Raises:
        BackendError: PyCUDA is not installed, or there is no such GPU.
    """

    def __init__(self, number: int = 0, timeout_s: float = 10.0) -> None:
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            raise BackendError(
                f"PyCUDA can't be loaded ({error}): pip install 'dartblur-edge[tensorrt]', and check the CUDA driver"
            ) from error
        self.cuda, self.number, self.lost = cuda, number, False
        self.timeout_s = timeout_s
        self._memory: list[Any] = []
        with self._translated():
            cuda.init()
            if number >= cuda.Device.count():
                raise BackendError(f"expected GPU {number}, this machine has {cuda.Device.count()}: use another number")
            device = cuda.Device(number)
            self.name, self.sm = device.name(), "{}.{}".format(*device.compute_capability())
            self.integrated = bool(device.get_attribute(cuda.device_attribute.INTEGRATED))
            self._context = _primary_context(number)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The GPU's context is the thread's current one; CUDA's errors become `BackendError`."""
        with self._translated():
            self._context.push()
            try:
                yield
            finally:
                self.cuda.Context.pop()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self.cuda.MemoryError as error:
            raise BackendError(
                f"the GPU's memory is full ({error}): use a smaller depth, smaller frames, or end other programs"
            ) from error
        except self.cuda.Error as error:
            raise BackendError(
                f"CUDA failed: {error}: restart the program; if it happens again, update the driver"
            ) from error

    def stream(self) -> Any:
        """A stream that works beside all others."""
        return self.cuda.Stream(_NON_BLOCKING)

    def event(self) -> Any:
        """A mark in a stream."""
        return self.cuda.Event(self.cuda.event_flags.DISABLE_TIMING)

    def alloc(self, size: int) -> int:
        """Address of so many bytes of GPU memory."""
        self._memory.append(self.cuda.mem_alloc(size))
        return int(self._memory[-1])

    def host_array(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A NumPy array in pinned memory, which copies need to overlap; on a Jetson the GPU can read it as it lies."""
        flags = self.cuda.host_alloc_flags.DEVICEMAP if self.integrated else 0
        array = self.cuda.pagelocked_empty(shape, dtype, mem_flags=flags)
        self._memory.append(array.base)
        return array

    def mapped(self, host_array: Any) -> int:
        """The GPU's address of a host array, on an integrated GPU."""
        return int(host_array.base.get_device_pointer())

    def wait(self, event: Any) -> None:
        """Waits for a mark.

        Raises:
            FailClosedError: it wasn't reached in time; the device is lost.
        """
        deadline = time.monotonic() + self.timeout_s
        while not event.query():
            if time.monotonic() > deadline:
                self.lost = True
                raise FailClosedError(
                    f"expected the GPU to end a frame within {self.timeout_s:g} s, it did not: restart the program"
                )
            time.sleep(_POLL_S)

    def free(self) -> None:
        """Frees all memory that was allocated here, unless the GPU may still write to it."""
        memory, self._memory = self._memory, []
        if self.lost:
            self.leak(*memory)
            return
        with suppress(BackendError), self.active():
            for block in memory:
                # After an error of the GPU, freeing fails as everything does; it is freed with the process.
                with suppress(self.cuda.Error):
                    block.free()

    def leak(self, *things: Any) -> None:
        """Keeps what a lost device may still work with until the process ends: to free it could wait forever."""
        _leaked.append(things)


_leaked: list[Any] = []
