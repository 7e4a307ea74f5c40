"""A window with redacted pictures; the window system is played by a fake."""

import subprocess
import threading
import time
from types import SimpleNamespace

import cv2
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import SinkError
from dartblur.frame import Frame
from dartblur.stream.sinks import display
from dartblur.stream.sinks.display import DisplaySink, check_display

anonymize = Anonymizer(backend=FakeBackend())


class Windows:
    """OpenCV's windows, without a screen; like Qt it wants one thread, and forgets all with the last window."""

    def __init__(self):
        self.shown, self.key, self.threads = {}, -1, set()
        self.pictures = []

    def install(self, monkeypatch):
        names = "namedWindow", "resizeWindow", "imshow", "waitKey", "getWindowProperty", "destroyWindow"
        for name in names:
            monkeypatch.setattr(cv2, name, self.from_one_thread(getattr(self, name)))

    def from_one_thread(self, function):
        def checked(*args):
            self.threads.add(threading.get_ident())
            return function(*args)

        return checked

    def namedWindow(self, title, flags):  # noqa: N802
        self.shown[title] = None

    def resizeWindow(self, title, width, height):  # noqa: N802
        self.shown[title] = width, height

    def imshow(self, title, picture):
        if picture.shape[0] == 13:
            raise cv2.error("OpenCV(5): the screen is on fire\nsecond line")
        self.pictures.append((title, picture))

    def waitKey(self, milliseconds):  # noqa: N802
        time.sleep(milliseconds / 1000)
        key, self.key = self.key, -1
        return key

    def getWindowProperty(self, title, number):  # noqa: N802
        if not self.shown:
            raise cv2.error("NULL guiReceiver (please create a window)")
        return float(title in self.shown)

    def destroyWindow(self, title):  # noqa: N802
        del self.shown[title]


@pytest.fixture
def windows(monkeypatch):
    fake = Windows()
    fake.install(monkeypatch)
    desk = display._Desk()
    monkeypatch.setattr(display, "_desk", desk)
    monkeypatch.setattr(display, "check_display", lambda uri: None)
    yield fake
    wait_for(lambda: not desk._windows)
    time.sleep(0.05)


def wait_for(done, seconds=3.0):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.005)


def keep_writing(sink, frame):
    for _ in range(100):
        sink.write(frame)
        time.sleep(0.02)


def redacted(tools, index=0, height=48):
    return anonymize(Frame(tools.pattern(64, height, index), index))


def test_the_newest_picture_is_shown_until_the_stream_ends(tools, windows):
    with DisplaySink("display://3") as sink:
        for index in range(5):
            sink.write(redacted(tools, index))
        wait_for(lambda: windows.pictures and (windows.pictures[-1][1] == tools.pattern(64, 48, 4)).all())
        assert windows.shown == {"DartBlur 3": (64, 48)}
    assert windows.shown == {}
    assert {title for title, _ in windows.pictures} == {"DartBlur 3"}


@pytest.mark.parametrize("key", [ord("q"), ord("Q"), 27, 0x100000 | ord("q"), None])
def test_the_user_closes_the_window(tools, windows, key):
    ended = []
    with DisplaySink("display://0") as sink:
        sink.on_end = lambda: ended.append(True)
        sink.write(redacted(tools))
        wait_for(lambda: windows.pictures and sink._window.visible)
        if key is None:
            windows.shown.clear()
        else:
            windows.key = key
        wait_for(lambda: ended)
        for _ in range(3):
            sink.write(redacted(tools))
        time.sleep(0.05)
        assert windows.shown == {}, "it stays closed"
    assert ended == [True]


def test_other_keys_do_nothing(tools, windows):
    ended = []
    with DisplaySink("display://0") as sink:
        sink.on_end = lambda: ended.append(True)
        sink.write(redacted(tools))
        wait_for(lambda: windows.pictures)
        windows.key = ord("x")
        wait_for(lambda: windows.key == -1)
        time.sleep(0.05)
        assert windows.shown
    assert not ended


def test_all_windows_live_in_one_thread(tools, windows):
    with DisplaySink("display://0") as one, DisplaySink("display://1") as other:
        one.write(redacted(tools))
        other.write(redacted(tools))
        wait_for(lambda: len(windows.shown) == 2)
    with DisplaySink("display://0") as again:
        again.write(redacted(tools))
        wait_for(lambda: len(windows.shown) == 1)
    assert len(windows.threads) == 1
    assert threading.get_ident() not in windows.threads


def test_a_window_that_fails_is_an_error_of_the_sink(tools, windows):
    failed = r"the window has failed: OpenCV\(5\): the screen is on fire: check the display"
    with pytest.raises(SinkError, match=failed), DisplaySink("display://0") as sink:
        keep_writing(sink, redacted(tools, height=13))


def test_without_a_display_it_says_so(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkError, match=r"there is no display here.*http://127"):
        DisplaySink("display://0")


def test_a_display_that_is_not_there_does_not_end_the_program(monkeypatch):
    """Qt aborts its process then, or OpenCV is headless: either way it is tried elsewhere."""
    monkeypatch.setenv("DISPLAY", ":4711")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkError, match=r"display://0: .*(no window can be opened|built without windows)"):
        check_display("display://0")


def test_an_opencv_without_windows_is_named(monkeypatch):
    said = b"error: The function is not implemented. Rebuild the library with Windows, GTK+ 2.x or Cocoa support."
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: SimpleNamespace(returncode=1, stderr=said))
    with pytest.raises(SinkError, match="built without windows: pip uninstall opencv-python-headless"):
        check_display("display://0")


def test_the_number_is_one():
    with pytest.raises(SinkError, match="expected display:// and a number"):
        DisplaySink("display://left")


def test_clear_frames_never_pass(tools, windows):
    with pytest.raises(TypeError, match="RedactedFrame only"), DisplaySink("display://0") as sink:
        sink.write(Frame(tools.pattern(64, 48, 0)))
    assert not windows.shown
