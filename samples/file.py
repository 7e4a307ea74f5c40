"""A video file frame by frame: what was covered in each frame, and why.

python samples/file.py in.mp4 [out.mp4]
"""

from __future__ import annotations

import sys
from collections import Counter

import dartblur


class Reasons(dartblur.Observer):
    """Counts why boxes were covered."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()

    def on_frame(self, frame: dartblur.RedactedFrame, source: str) -> None:
        """Counts those of a frame."""
        self.count.update(frame.coverage.reasons)


def main(video: str, out: str = "out.mp4") -> None:
    reasons = Reasons()
    # A face stays covered for two seconds after it was last found, and already eight frames before it is first found.
    stream = dartblur.open(video).anonymize(hold=2.0, lookahead=8, observers=(reasons,))
    summary = stream.to(out)
    print(f"{summary.frames} frames -> {out}: {dict(reasons.count)}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:3])
