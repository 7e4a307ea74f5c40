"""Pipelines of the system's GStreamer as sources: ``gst:ELEMENTS`` and, on a Jetson, ``csi://N``.

GStreamer comes with the system, not from PyPI, and so do its Python bindings (PyGObject).
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from ...errors import SourceError
from ...frame import Frame, Image
from ..base import Source, SourceInfo
from ..uris import after_scheme, scheme_of, settings_of, shown
from .reconnecting import STALL_S, Reconnecting, check_stall

START_S = 15.0
"""How long a pipeline may take to its first frame: sensors and decoders of a Jetson take seconds."""
_LOOK_S = 0.2
"""How often a waiting source looks whether it is to stop."""
_INSTALL = (
    "needs GStreamer and its Python bindings: sudo apt install python3-gi gstreamer1.0-plugins-base "
    "gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good"
)
_SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"
_TAIL = "videoconvert ! video/x-raw,format=BGR ! appsink name=dartblur sync=false drop=true max-buffers=1"


def load_gst() -> Any:
    """The module ``gi.repository.Gst``, initialized; from this environment or that of the system's Python.

    Raises:
        ImportError: it isn't installed; the message says what to install.
    """
    gst = load_library("Gst")
    if not gst.is_initialized():
        gst.init(None)
    return gst


def load_library(name: str) -> Any:
    """The module ``gi.repository.NAME`` of GStreamer 1.0, as ``GstVideo``.

    Raises:
        ImportError: it isn't installed; the message says what to install.
    """
    _keep_exceptions()
    try:
        with _system_packages():
            import gi

            gi.require_version(name, "1.0")
            return importlib.import_module(f"gi.repository.{name}")
    except (ImportError, ValueError) as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ImportError(
            f"{_INSTALL}; their compiled part fits the system's Python only, this is Python {version} ({error})"
        ) from error


def _keep_exceptions() -> None:
    """GStreamer brings libunwind, whose functions would take the place of the compiler's in libraries that are loaded
    later: a C++ exception inside TensorRT would then end the process.
    """
    with suppress(OSError):  # not there on systems without GCC's runtime
        ctypes.CDLL("libgcc_s.so.1", ctypes.RTLD_GLOBAL)


@contextmanager
def _system_packages() -> Iterator[None]:
    """The system's packages can be imported, after all others; its compiled ones load only into the same Python."""
    version = f"cpython-{sys.version_info.major}{sys.version_info.minor}-"
    fits = any(version in path.name for path in Path(_SYSTEM_PACKAGES, "gi").glob("_gi.*.so"))
    add = fits and _SYSTEM_PACKAGES not in sys.path
    if add:
        sys.path.append(_SYSTEM_PACKAGES)
    try:
        yield
    finally:
        if add:
            sys.path.remove(_SYSTEM_PACKAGES)


def open_gst(uri: str, *, stall: float = STALL_S, reconnect: bool = True) -> Reconnecting:
    """A pipeline as a live source.

    Args:
        uri: ``gst:`` and elements as ``gst-launch-1.0`` takes them, up to raw video of any format, as
            ``gst:v4l2src ! jpegdec``; or ``csi://N``, the camera N of a Jetson.
        stall: seconds without a frame after which the pipeline counts as lost.
        reconnect: build it again when it fails or ends; otherwise that is a SourceError.

    Raises:
        SourceError: GStreamer isn't installed, the elements aren't a pipeline, or it gives no frame.
    """
    elements = csi_pipeline(uri) if scheme_of(uri) == "csi" else after_scheme(uri).strip()
    if not elements:
        raise SourceError(f"{uri}: expected gst: and a pipeline, as 'gst:v4l2src ! jpegdec', got no element")
    check_stall(shown(uri), stall)
    # More patience than the pipeline has with itself, so that it tells what is wrong.
    return Reconnecting(lambda: GstSource(elements, shown(uri)), stall=stall, connect=START_S + 5, reconnect=reconnect)


def csi_pipeline(uri: str) -> str:
    """The elements for ``csi://N[?size=WxH&fps=F&flip=M]``: a camera at the CSI port of a Jetson.

    It has not been run: it needs a Jetson with a camera.

    Args:
        uri: N is the sensor's number; the default is 1280x720 at 30 frames a second, and flip is that of ``nvvidconv``.

    Raises:
        SourceError: it isn't of this form.
    """
    number, given = settings_of(after_scheme(uri))
    settings = {"size": "1280x720", "fps": "30", "flip": "0"} | given
    width, _, height = settings["size"].partition("x")
    numbers = [number or "0", width, height, settings["fps"], settings["flip"]]
    if not given.keys() <= {"size", "fps", "flip"} or not all(n.isascii() and n.isdigit() for n in numbers):
        raise SourceError(f"{shown(uri)}: expected csi://N or csi://N?size=1280x720&fps=30&flip=0, got something else")
    return (
        f"nvarguscamerasrc sensor-id={numbers[0]} ! "
        f"video/x-raw(memory:NVMM),format=NV12,width={width},height={height},framerate={settings['fps']}/1 ! "
        f"nvvidconv flip-method={settings['flip']} ! video/x-raw,format=BGRx"
    )


class GstSource(Source):
    """One run of a pipeline: it ends when the pipeline does, and keeps only the newest frame.

    Args:
        elements: the user's, up to raw video.
        uri: what they are called in messages.

    Raises:
        SourceError: GStreamer isn't installed, the elements aren't a pipeline, or it gives no frame.
    """

    def __init__(self, elements: str, uri: str) -> None:
        super().__init__()
        self._uri = uri
        try:
            self._gst = load_gst()
            self._video = load_library("GstVideo")
        except ImportError as error:
            raise SourceError(f"{uri}: {error}") from error
        self._pipeline = self._parse(f"{elements} ! {_TAIL}")
        self._sink = self._pipeline.get_by_name("dartblur")
        self._bus = self._pipeline.get_bus()
        self._first: tuple[Any, float] | None = None
        try:
            self._play()
            self._first = self._sample()
            if self._first is None:
                raise SourceError(f"{uri}: expected video, the pipeline ended without a frame: check its elements")
            width, height = _size(self._first[0])
        except BaseException:
            self.close()
            raise
        self.info = SourceInfo(uri, width, height, None, live=True)

    def __iter__(self) -> Iterator[Frame]:
        """The newest frames; their size may change.

        Raises:
            SourceError: an element failed, or no frame came for 15 seconds.
        """
        began: float | None = None
        index = 0
        taken, self._first = self._first, None
        while taken is not None and not self.stopping.is_set():
            sample, captured = taken
            stamp = sample.get_buffer().pts
            seconds = captured if stamp == self._gst.CLOCK_TIME_NONE else stamp / self._gst.SECOND
            began = seconds if began is None else began
            yield Frame(self._image(sample), index, max(0.0, seconds - began), None, captured)
            index += 1
            taken = self._sample()

    def close(self) -> None:
        """Ends the pipeline."""
        self._pipeline.set_state(self._gst.State.NULL)

    def _parse(self, text: str) -> Any:
        from gi.repository import GLib

        try:
            return self._gst.parse_launch(text)
        except GLib.Error as error:
            message = shown(error.message)
        raise SourceError(f"{self._uri}: not a pipeline of GStreamer: {message}: try it with gst-launch-1.0")

    def _play(self) -> None:
        if self._pipeline.set_state(self._gst.State.PLAYING) == self._gst.StateChangeReturn.FAILURE:
            self._raise_error()
            raise SourceError(f"{self._uri}: the pipeline can't be started: try it with gst-launch-1.0")

    def _sample(self) -> tuple[Any, float] | None:
        """The next sample that isn't damaged, and when it came; None when the pipeline has ended or is to stop."""
        until = monotonic() + START_S
        while not self.stopping.is_set():
            sample = self._sink.emit("try-pull-sample", int(_LOOK_S * self._gst.SECOND))
            captured = monotonic()
            if sample is not None and not sample.get_buffer().has_flags(self._gst.BufferFlags.CORRUPTED):
                return sample, captured
            self.damaged += sample is not None
            self._raise_error()
            if self._sink.get_property("eos"):
                return None
            if captured > until:
                raise SourceError(f"{self._uri}: no frame for {START_S:g} s: check the camera and the elements")
        return None

    def _raise_error(self) -> None:
        message = self._bus.pop_filtered(self._gst.MessageType.ERROR)
        if message is not None:
            error, _details = message.parse_error()
            raise SourceError(f"{self._uri}: {message.src.get_name()}: {shown(' '.join(error.message.split()))}")

    def _image(self, sample: Any) -> Image:
        """A copy of the sample's pixels, uint8 ``[H, W, 3]`` BGR."""
        width, height = _size(sample)
        buffer = sample.get_buffer()
        start, stride = self._layout(sample)
        done, mapped = buffer.map(self._gst.MapFlags.READ)
        if not done:
            raise SourceError(f"{self._uri}: a frame's memory can't be read: end the pipeline with system memory")
        try:
            data = np.frombuffer(mapped.data, np.uint8)[start:]
            if data.size < stride * (height - 1) + width * 3:
                raise SourceError(f"{self._uri}: a frame of {width}x{height} is too short: {data.size} bytes")
            rows: Image = np.lib.stride_tricks.as_strided(data, (height, width, 3), (stride, 3, 1)).copy()
            return rows
        finally:
            buffer.unmap(mapped)

    def _layout(self, sample: Any) -> tuple[int, int]:
        """Where the pixels begin, and the bytes from one row to the next."""
        meta = self._video.buffer_get_video_meta(sample.get_buffer())
        form = meta if meta is not None else self._video.VideoInfo.new_from_caps(sample.get_caps())
        return int(form.offset[0]), int(form.stride[0])


def _size(sample: Any) -> tuple[int, int]:
    form = sample.get_caps().get_structure(0)
    return int(form.get_value("width")), int(form.get_value("height"))
