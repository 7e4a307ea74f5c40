"""The SDK in a loop of one's own: frames from OpenCV in, redacted frames and detections out.

python samples/own_loop.py in.mp4 [folder]
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2

import dartblur


def main(video: str, folder: str = "frames") -> None:
    anonymize = dartblur.Anonymizer()
    Path(folder).mkdir(parents=True, exist_ok=True)
    capture = cv2.VideoCapture(video)
    number = 0
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        # The frame is ours alone, so its pixels may be overwritten: no copy is made.
        redacted = anonymize(frame, in_place=True)
        if number % 25 == 0:
            cv2.imwrite(f"{folder}/{number:05d}.png", redacted.image)
            print(number, [f"{score:.2f}" for score in redacted.detections.scores])
        number += 1
    capture.release()
    if not number:
        sys.exit(f"{video}: no frame could be read")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:3])
