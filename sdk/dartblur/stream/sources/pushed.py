"""Frames that the program itself pushes: from its own camera code, a simulation, a network of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import numpy as np

from ...errors import FrameError
from ...frame import Frame, Image, check_image
from ..base import Source, SourceInfo
from ..lanes import Lane, StoppedError
from ..observers import Event
from ..uris import shown

_WAITING = 4
"""Frames that a source which loses nothing lets wait."""


class PushSource(Source):
    """A source that is fed by `push`, from any thread.

    ::

        source = PushSource("robot")
        source.push(image)  # uint8 [H, W, 3], BGR
        source.end()

    Args:
        name: what it is called in messages and records.
        live: the newest frame wins and `push` never waits; otherwise nothing is lost and `push` waits while a few
            frames have not been taken yet.
    """

    def __init__(self, name: str = "pushed", *, live: bool = True) -> None:
        super().__init__()
        self.info = SourceInfo(shown(name), 0, 0, None, live=live)
        self._lane: Lane[Frame] = Lane(1, self._dropped) if live else Lane(_WAITING)
        self._pushing = threading.Lock()
        self._ended = False
        self._pushed = 0
        self._began: float | None = None
        self._last = float("-inf")

    def push(self, image: Any, time: float | None = None, *, copy: bool = True) -> bool:
        """Hands over one frame.

        Args:
            image: uint8 ``[H, W, 3]``, BGR: a NumPy array, or an array of a GPU library that comes to the host by
                ``get()`` (CuPy), ``cpu()`` (PyTorch) or DLPack. Sizes may change.
            time: seconds since the source began, more than those of the frame before; the time of the call by default.
            copy: False hands the array itself over. Its faces are overwritten in place: don't touch it afterwards.

        Returns:
            Whether it was taken: False after `end`, `close` or `stop`.

        Raises:
            FrameError: this is not such an image, or the time isn't later than the last one.
        """
        captured = monotonic()
        pixels = _pixels(image, copy)
        with self._pushing:
            if self._ended:
                return False
            self._began = captured if self._began is None else self._began
            seconds = max(captured - self._began, self._last + 1e-6) if time is None else float(time)
            if not self._last < seconds < float("inf"):
                raise FrameError(f"expected a time later than {self._last:g} s, got {seconds:g}: give rising times")
            try:
                self._lane.put(Frame(pixels, self._pushed, seconds, None, captured))
            except StoppedError:
                return False
            self._pushed += 1
            self._last = seconds
        return True

    def _dropped(self, frame: Frame) -> None:
        self.observe(Event("dropped", f"{self.info.uri}: a frame was left out, a newer one is there", "source"))

    def end(self) -> None:
        """No more frames will come: iteration ends after those that wait."""
        self._ended = True
        self._lane.end()

    def stop(self) -> None:
        """Makes iteration end at once, and wakes who waits in `push`; from any thread."""
        self.stopping.set()
        self._lane.stop()

    def close(self) -> None:
        """Ends it and drops what waits."""
        self.stop()

    def __iter__(self) -> Iterator[Frame]:
        """The frames that were pushed."""
        with suppress(StoppedError):
            yield from self._lane


def _pixels(image: Any, copy: bool) -> Image:
    """The pixels in memory of the host, contiguous and writable; of their own if copied."""
    try:
        host = _to_host(image)
    except Exception as error:  # whatever the GPU library raises
        raise FrameError(f"expected an image [H, W, 3] uint8 BGR, got {type(image).__name__}: {error}") from error
    pixels = check_image(host)
    own = host is not image
    if (copy and not own) or not pixels.flags.c_contiguous or not pixels.flags.writeable:
        return np.array(pixels, order="C")
    return pixels


def _to_host(image: Any) -> Any:
    if isinstance(image, np.ndarray):
        return image
    if callable(getattr(image, "get", None)) and hasattr(image, "__cuda_array_interface__"):  # CuPy
        return image.get()
    if callable(getattr(image, "cpu", None)) and callable(getattr(image, "detach", None)):  # PyTorch
        return np.array(image.detach().cpu().numpy())
    if hasattr(image, "__dlpack__"):
        return np.array(np.from_dlpack(image))
    return image
