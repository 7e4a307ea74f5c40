"""Frames as JPEG pictures, each encoded once for all who watch."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

import cv2

from ....frame import Image, RedactedFrame
from .channel import Channel

LARGEST = (1280, 720)
"""Width and height that fit a page; larger pictures are shown smaller."""
_QUALITY = 80


def fitted(width: int, height: int) -> tuple[int, int]:
    """The size within `LARGEST`, of the same aspect and in even numbers, as video wants it."""
    scale = min(1.0, LARGEST[0] / width, LARGEST[1] / height)
    return max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2)


def jpeg(image: Image, *, quality: int = _QUALITY) -> bytes:
    """An image, BGR, as JPEG."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"expected an image that JPEG can hold, got {list(image.shape)}")
    return data.tobytes()


def _page_jpeg(frame: RedactedFrame) -> bytes:
    height, width = frame.image.shape[:2]
    size = fitted(width, height)
    small = size[0] < width - 1 or size[1] < height - 1
    return jpeg(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA) if small else frame.image)  # type: ignore[arg-type]


class Jpegs:
    """The newest frame of a channel as JPEG, in the size of a page; encoded only when somebody asks.

    Args:
        channel: whose frames.
        executor: threads to encode in.
    """

    def __init__(self, channel: Channel, executor: Executor) -> None:
        self._channel, self._executor = channel, executor
        self._number = -1
        self._encoded: asyncio.Future[bytes] | None = None
        self.encodings = 0

    async def after(self, number: int, patience: float) -> tuple[int, bytes]:
        """As `Channel.after`."""
        number, frame = await self._channel.after(number, patience)
        if self._encoded is None or number != self._number:
            self._number = number
            self.encodings += 1
            self._encoded = asyncio.get_running_loop().run_in_executor(self._executor, _page_jpeg, frame)
        # One who leaves doesn't take it away from the others.
        return number, await asyncio.shield(self._encoded)
