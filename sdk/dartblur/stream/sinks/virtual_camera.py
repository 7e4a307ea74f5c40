"""A camera for other programs, which shows the redacted pictures: a loopback device of Video4Linux."""

from __future__ import annotations

import fcntl
import stat
from pathlib import Path
from typing import Any

from ...errors import SinkError
from ...frame import RedactedFrame
from ..base import Sink
from ..media.files import reason
from .fitting import even, fit

_LOOPBACK = "v4l2 loopback"
_QUERYCAP = 0x80685600
"""VIDIOC_QUERYCAP: which driver a device has, among other things."""

_CAPABILITY_BYTES, _DRIVER_BYTES = 104, 16
_NOMINAL_FPS = 30
"""What other programs are told; a picture is shown when it comes."""

_HOW_TO = "sudo modprobe v4l2loopback video_nr={number} card_label=DartBlur exclusive_caps=1"


class VirtualCameraSink(Sink):
    """Shows the pictures as a camera, through ``pyvirtualcam`` and the kernel's module ``v4l2loopback``.

    The camera has the size of the first picture; others are put into it.

    Args:
        uri: ``v4l2:///dev/video9``, or the path alone.

    Raises:
        SinkError: there is no such device, it is no loopback device, or the package is missing.
    """

    remains = "what was shown before has left"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._device = Path(uri.removeprefix("v4l2://"))
        self._check_device()
        try:
            import pyvirtualcam
        except ImportError as error:
            raise SinkError(f"{uri}: needs pyvirtualcam: pip install 'dartblur-edge[live]'") from error
        self._library: Any = pyvirtualcam
        self._camera: Any = None
        self._size = 0, 0

    def _write(self, frame: RedactedFrame) -> None:
        if self._camera is None:
            self._open(frame)
        try:
            self._camera.send(fit(frame.image, *self._size))
        except (OSError, RuntimeError, ValueError) as error:
            raise SinkError(f"{self.uri}: takes no picture: {reason(error)}: check the device") from error

    def commit(self) -> None:
        """The camera shows nothing more."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def discard(self) -> None:
        """As `commit`."""
        self.commit()

    def _open(self, first: RedactedFrame) -> None:
        height, width = first.image.shape[:2]
        self._size = even(width), even(height)
        try:
            self._camera = self._library.Camera(
                *self._size, _NOMINAL_FPS, fmt=self._library.PixelFormat.BGR, device=str(self._device)
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise SinkError(
                f"{self.uri}: can't be opened for {self._size[0]}x{self._size[1]}: {reason(error)}: "
                "close the program that uses it"
            ) from error

    def _check_device(self) -> None:
        number = self._device.name.removeprefix("video")
        advice = _HOW_TO.format(number=number if number.isdigit() else 9)
        if not self._device.exists():
            raise SinkError(f"{self.uri}: no such device: make one with '{advice}'")
        if not stat.S_ISCHR(self._device.stat().st_mode):
            raise SinkError(f"{self.uri}: expected a camera device, got a file: name one such as v4l2:///dev/video9")
        try:
            driver = driver_of(self._device)
        except OSError as error:
            raise SinkError(
                f"{self.uri}: expected a loopback camera, got something else ({reason(error)}): make one: '{advice}'"
            ) from error
        if driver != _LOOPBACK:
            raise SinkError(f"{self.uri}: expected a loopback camera, got one of {driver}: make one with '{advice}'")


def driver_of(device: Path) -> str:
    """The name of the driver of a Video4Linux device.

    Raises:
        OSError: it can't be opened, or isn't such a device.
    """
    answer = bytearray(_CAPABILITY_BYTES)
    with device.open("rb", buffering=0) as opened:
        fcntl.ioctl(opened, _QUERYCAP, answer)
    return bytes(answer[:_DRIVER_BYTES]).partition(b"\x00")[0].decode("ascii", "replace")
