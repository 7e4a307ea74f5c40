"""A network camera on a web page, and recorded in files of ten minutes, both with hidden faces.

python samples/rtsp_to_page.py rtsp://user:password@camera/stream [recording.mp4] [http://127.0.0.1:8080]

The page of another address than 127.0.0.1 asks for a token, which is printed when it starts.
"""

from __future__ import annotations

import signal
import sys

import dartblur


class Told(dartblur.Observer):
    """Prints what happens: lost and found cameras, frames that could not be anonymized."""

    def on_event(self, event: dartblur.Event) -> None:
        """Prints all but what is too frequent to read."""
        if event.kind not in ("dropped", "sink-dropped"):
            print(f"{event.kind}: {event.message}", flush=True)


def main(camera: str, recording: str = "recording.mp4", page: str = "http://127.0.0.1:8080") -> None:
    stream = dartblur.open(camera).anonymize(observers=(Told(),))
    # Ctrl-C ends the stream, and what was recorded is finished and kept.
    signal.signal(signal.SIGINT, lambda number, at: stream.stop())
    print(f"look at {page}", flush=True)
    summary = stream.to(page, recording, options=dartblur.SinkOptions(segment=600))
    print(f"{summary.frames} frames, {summary.fps:.1f} fps")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:4])
