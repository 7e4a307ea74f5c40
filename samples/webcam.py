"""A camera in a window, with hidden faces. Ends with q, Esc, or when the window is closed.

python samples/webcam.py [camera]
"""

from __future__ import annotations

import sys

import dartblur


def main(camera: str = "0") -> None:
    summary = dartblur.open(camera).anonymize().to("display://0")
    print(f"{summary.frames} frames, {summary.fps:.1f} fps, {summary.dropped} gave way to newer ones")


if __name__ == "__main__":
    main(*sys.argv[1:2])
