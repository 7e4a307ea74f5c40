"""Several cameras in one process, which share one model.

python samples/several_cameras.py SECONDS CAMERA CAMERA ...
"""

from __future__ import annotations

import sys
import threading

import dartblur


def main(seconds: float, cameras: list[str]) -> None:
    model = dartblur.Anonymizer(shared=True)
    # Files are played at their own speed, so that they can stand in for cameras.
    options = dartblur.SourceOptions(realtime=True, loop=True)
    streams = [dartblur.open(camera, options).anonymize(model) for camera in cameras]

    def watch(name: str, stream: dartblur.AnonymizedStream) -> None:
        faces = sum(frame.detections.faces for frame in stream)
        print(f"{name}: {stream.summary.frames} frames, {faces} faces, {stream.summary.fps:.1f} fps", flush=True)

    threads = [threading.Thread(target=watch, args=pair, daemon=True) for pair in zip(cameras, streams, strict=True)]
    for thread in threads:
        thread.start()
    threading.Event().wait(seconds)
    for stream in streams:
        stream.close()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(float(sys.argv[1]), sys.argv[2:])
