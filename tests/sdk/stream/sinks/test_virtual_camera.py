"""Redacted pictures as a camera; the kernel's module is played by a fake."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import SinkError
from dartblur.frame import Frame
from dartblur.stream.sinks import virtual_camera
from dartblur.stream.sinks.virtual_camera import VirtualCameraSink

anonymize = Anonymizer(backend=FakeBackend())
DEVICE = "v4l2:///dev/null"
"""A character device that is there on every machine."""


class FakeCamera:
    made: ClassVar[list["FakeCamera"]] = []

    def __init__(self, width, height, fps, *, fmt, device):
        if width > 8000:
            raise RuntimeError("Device /dev/null is busy")
        self.size, self.fps, self.fmt, self.device = (width, height), fps, fmt, device
        self.pictures, self.closed = [], False
        self.made.append(self)

    def send(self, picture):
        assert picture.shape == (self.size[1], self.size[0], 3)
        assert picture.dtype == np.uint8
        assert picture.flags.c_contiguous
        self.pictures.append(picture.copy())

    def close(self):
        self.closed = True


@pytest.fixture
def loopback(monkeypatch):
    library = SimpleNamespace(Camera=FakeCamera, PixelFormat=SimpleNamespace(BGR="BGR3"))
    monkeypatch.setitem(sys.modules, "pyvirtualcam", library)
    monkeypatch.setattr(virtual_camera, "driver_of", lambda device: "v4l2 loopback")
    monkeypatch.setattr(FakeCamera, "made", [])
    return FakeCamera.made


def redacted(tools, width, height):
    return anonymize(Frame(tools.pattern(width, height, 0)))


def test_pictures_are_sent_in_the_size_of_the_first(tools, loopback):
    with VirtualCameraSink(DEVICE) as sink:
        sink.write(redacted(tools, 321, 241))
        sink.write(redacted(tools, 640, 240))
    (camera,) = loopback
    assert (camera.size, camera.fmt, camera.device, camera.closed) == ((322, 242), "BGR3", "/dev/null", True)
    assert (camera.pictures[0][:241, :321] == tools.pattern(321, 241, 0)).all()
    assert camera.pictures[1][0].max() == 0
    assert len(camera.pictures) == 2


def test_the_camera_is_let_go_after_an_error(tools, loopback):
    frames = [redacted(tools, 64, 48), "no frame"]
    with pytest.raises(TypeError), VirtualCameraSink(DEVICE) as sink:
        [sink.write(frame) for frame in frames]
    assert loopback[0].closed


def test_a_camera_in_use_is_named(loopback):
    wide = anonymize(Frame(np.zeros((2, 9000, 3), np.uint8)))
    busy = r"can't be opened for 9000x2: Device /dev/null is busy: close the program"
    with pytest.raises(SinkError, match=busy), VirtualCameraSink(DEVICE) as sink:
        sink.write(wide)


def test_an_absent_device_is_named():
    with pytest.raises(SinkError, match="no such device: make one with 'sudo modprobe v4l2loopback video_nr=77"):
        VirtualCameraSink("v4l2:///dev/video77")


def test_a_file_is_refused(tmp_path):
    (tmp_path / "video9").touch()
    with pytest.raises(SinkError, match="expected a camera device, got a file"):
        VirtualCameraSink(f"v4l2://{tmp_path}/video9")


def test_what_is_no_camera_is_refused():
    with pytest.raises(SinkError, match=r"expected a loopback camera, got something else .*modprobe v4l2loopback"):
        VirtualCameraSink(DEVICE)


def test_a_real_camera_is_refused(monkeypatch):
    monkeypatch.setattr(virtual_camera, "driver_of", lambda device: "uvcvideo")
    with pytest.raises(SinkError, match="expected a loopback camera, got one of uvcvideo"):
        VirtualCameraSink(DEVICE)


def test_the_driver_is_asked_for(monkeypatch):
    def ioctl(device, request, answer):
        assert request == virtual_camera._QUERYCAP
        answer[:14] = b"v4l2 loopback\0"

    monkeypatch.setattr(virtual_camera.fcntl, "ioctl", ioctl)
    assert virtual_camera.driver_of(Path("/dev/null")) == "v4l2 loopback"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(virtual_camera, "driver_of", lambda device: "v4l2 loopback")
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(SinkError, match=r"needs pyvirtualcam: pip install 'dartblur-edge\[live\]'"):
        VirtualCameraSink(DEVICE)


def test_clear_frames_never_pass(tools, loopback):
    with pytest.raises(TypeError, match="RedactedFrame only"), VirtualCameraSink(DEVICE) as sink:
        sink.write(Frame(tools.pattern(64, 48, 0)))
    assert not loopback
