"""Settings that must be there before any library is loaded, and what the tests of several packages share."""

from __future__ import annotations

import os

# Threads that wait without spinning: on a busy machine, spinning makes every step many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import settings

# How long an example takes says nothing on a busy machine.
settings.register_profile("dartblur", deadline=None)
settings.load_profile("dartblur")

# Where the tests are started in the background, Ctrl-C is switched off, and what it does couldn't be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

SYSTEM_PYTHON = "/usr/bin/python3"
_PACKAGES = {
    "gstreamer": "python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good",
    "gst-rtsp-server": "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly "
    "gstreamer1.0-plugins-bad",
}
_NAMESPACES = {"gstreamer": ("Gst", "GstVideo"), "gst-rtsp-server": ("Gst", "GstRtspServer")}


@cache
def _is_there(name: str) -> bool:
    if name not in _NAMESPACES:
        return shutil.which(name) is not None
    lines = ["import gi", *(f"gi.require_version({each!r}, '1.0')" for each in _NAMESPACES[name])]
    command = [SYSTEM_PYTHON, "-c", "\n".join(lines)]
    return shutil.which(SYSTEM_PYTHON) is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def require_system() -> Callable[[str], None]:
    """Call it with ``gstreamer``, ``gst-rtsp-server`` or the name of a program, as ``chromium``: where that isn't
    installed, the test is skipped, or fails if the environment has DARTBLUR_REQUIRE_SYSTEM=1."""

    def require(name: str) -> None:
        if _is_there(name):
            return
        message = f"{name} isn't installed: apt-get install {_PACKAGES.get(name, name)}"
        if os.environ.get("DARTBLUR_REQUIRE_SYSTEM") == "1":
            pytest.fail(message)
        pytest.skip(message)

    return require


@pytest.fixture
def left_threads() -> Callable[[], list[threading.Thread]]:
    """Threads of the package that were begun since the test began and are still there."""
    before = set(threading.enumerate())

    def left() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name.startswith("dartblur") and each not in before]

    return left
