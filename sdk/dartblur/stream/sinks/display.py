"""A window that shows the redacted pictures."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from ...errors import SinkError
from ...frame import Image, RedactedFrame
from ..base import Sink

_KEYS = {ord("q"), ord("Q"), 27}
"""They close the window, and so does Escape."""

_TURN_MS = 15
"""How often the window looks after keys, and after the next picture."""

_CLOSE_S = 3.0
_PROBE_S = 30.0
_PROBE = "import cv2; cv2.namedWindow('dartblur'); cv2.destroyAllWindows()"


def _ignore() -> None:
    """Nobody wants to know."""


class DisplaySink(Sink):
    """Shows the newest picture in a window of OpenCV, until the user closes it: by its button, ``q`` or Escape.

    Windows live in a thread of their own, so they answer while no picture comes, and never hold up a stream. A key
    closes all windows of the program.

    Args:
        uri: ``display://0``; the number is part of the window's title, so several can be told apart.

    Attributes:
        on_end: called once, from the windows' thread, when the user has closed the window.

    Raises:
        SinkError: OpenCV is built without windows, or there is no display.
    """

    remains = "what was shown before was seen"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        name = uri.removeprefix("display://") or "0"
        if not name.isdigit():
            raise SinkError(f"{uri}: expected display:// and a number, as display://0")
        check_display(uri)
        self.on_end: Callable[[], None] = _ignore
        self._window = _Window(f"DartBlur {name}", lambda: self.on_end())

    def _write(self, frame: RedactedFrame) -> None:
        if self._window.error is not None:
            raise SinkError(f"{self.uri}: the window has failed: {self._window.error}: check the display")
        self._window.newest = frame.image
        _desk.open(self._window)

    def commit(self) -> None:
        """Closes the window."""
        _desk.close(self._window)

    def discard(self) -> None:
        """Closes the window."""
        self.commit()


class _Window:
    """What the two threads of a window tell each other.

    Attributes:
        newest: the picture to show next.
        wanted: the stream goes on.
        gone: the window is closed.
        error: why there is no window.
    """

    def __init__(self, title: str, on_closed: Callable[[], None]) -> None:
        self.title, self.on_closed = title, on_closed
        self.newest: Image | None = None
        self.wanted, self.visible = True, False
        self.gone = threading.Event()
        self.error: str | None = None


class _Desk:
    """The thread of all windows: window systems want a single one for the life of the program."""

    def __init__(self) -> None:
        self._windows: list[_Window] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def open(self, window: _Window) -> None:
        """Shows a window, the first time."""
        if window.gone.is_set() or window in self._windows:
            return
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dartblur-display", daemon=True)
                self._thread.start()
            self._windows.append(window)
            self._changed.notify()

    def close(self, window: _Window) -> None:
        """Closes a window; waits a moment for it."""
        window.wanted = False
        if window in self._windows:
            window.gone.wait(_CLOSE_S)

    def _run(self) -> None:
        import cv2

        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._windows)
                windows = list(self._windows)
            for window in windows:
                self._guarded(window, self._turn, cv2, window)
            key = cv2.waitKey(_TURN_MS) & 0xFF
            for window in windows:
                self._guarded(window, self._look_after, cv2, window, key)

    def _guarded(self, window: _Window, work: Callable[..., None], *args: Any) -> None:
        try:
            if window in self._windows:
                work(*args)
        except Exception as error:
            window.error = _first_line(error)
            self._drop(window)

    def _turn(self, cv2: Any, window: _Window) -> None:
        image, window.newest = window.newest, None
        if not window.wanted:
            self._destroy(cv2, window)
            self._drop(window)
        elif image is not None:
            if not window.visible:
                cv2.namedWindow(window.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                cv2.resizeWindow(window.title, image.shape[1], image.shape[0])
            cv2.imshow(window.title, image)

    def _look_after(self, cv2: Any, window: _Window, key: int) -> None:
        try:
            visible = cv2.getWindowProperty(window.title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # Qt has forgotten all when the last window is closed
            visible = False
        # Some window systems need a moment to show one.
        closed = window.visible and not visible
        window.visible = window.visible or visible
        if key in _KEYS and not closed:
            self._destroy(cv2, window)
        if key in _KEYS or closed:
            self._drop(window)
            window.on_closed()

    @staticmethod
    def _destroy(cv2: Any, window: _Window) -> None:
        cv2.destroyWindow(window.title)
        cv2.waitKey(1)  # only now does it go away

    def _drop(self, window: _Window) -> None:
        with self._changed:
            self._windows.remove(window)
        window.gone.set()


_desk = _Desk()


def check_display(uri: str) -> None:
    """Refuses a machine without windows; tried in another process, for the library ends ours when there is no display.

    Raises:
        SinkError: with the reason.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise SinkError(f"{uri}: there is no display here: log in to a desktop, or use the page http://127.0.0.1:8080")
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _PROBE], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SinkError(f"{uri}: no window can be opened: {error}: use the page http://127.0.0.1:8080") from error
    if tried.returncode:
        said = tried.stderr.decode("utf-8", "replace")
        if "not implemented" in said or "Rebuild the library" in said:
            raise SinkError(
                f"{uri}: this OpenCV is built without windows: "
                "pip uninstall opencv-python-headless && pip install --force-reinstall opencv-python"
            )
        raise SinkError(f"{uri}: no window can be opened: {_first_line(said)}: use the page http://127.0.0.1:8080")


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"
