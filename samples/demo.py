"""Makes a short clip of a real face, anonymizes it, and says what was done: ``make demo``.

The face is that of the astronaut Eileen Collins (NASA, public domain), as it comes with scikit-image.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

SIZE = (640, 360)
RATE = 25


def picture_at(moment: float, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """The clip's frame at a moment from 0 to 1: the camera moves over two astronauts and comes a little nearer."""
    astronaut = np.ascontiguousarray(skimage.data.astronaut()[..., ::-1])
    pair = np.concatenate([astronaut, astronaut[:, ::-1]], 1)
    width, height = size
    shown = 920 - 60 * moment
    scale = width / shown
    x, y = 30 + 90 * moment, 10 * np.sin(6 * moment)
    matrix = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])
    warped = cv2.warpAffine(pair, matrix, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
    return warped.astype(np.uint8, copy=False)


def make_clip(path: Path, seconds: float = 4.0, size: tuple[int, int] = SIZE) -> int:
    """Writes the clip, H.264 with a tone as AAC sound; returns its number of frames."""
    frames = round(seconds * RATE)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"crf": "16", "preset": "veryfast"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=48_000, layout="mono")
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture_at(number / max(1, frames - 1), size), format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        wave = 0.1 * np.sin(2 * np.pi * 440 / 48_000 * np.arange(round(seconds * 48_000), dtype=np.float32))
        for start in range(0, len(wave), 1024):
            sound = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 48_000, start, Fraction(1, 48_000)
            container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    return frames


def read_frame(path: Path, number: int) -> NDArray[np.uint8]:
    """One frame of a video, uint8 [H, W, 3] BGR."""
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == number:
                return frame.to_ndarray(format="bgr24").astype(np.uint8, copy=False)
    raise ValueError(f"{path}: expected at least {number + 1} frames")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"), help="where to write (default: demo/)")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    clip, result, audit = folder / "astronaut.mp4", folder / "anonymized.mp4", folder / "audit.jsonl"

    frames = make_clip(clip)
    print(f"{clip}: {frames} frames of two faces, {SIZE[0]}x{SIZE[1]}, with sound")
    command = [sys.executable, "-m", "dartblur", "run", str(clip), str(result), "--audit", str(audit), "--overwrite"]
    print("dartblur " + " ".join(command[3:]))
    subprocess.run(command, check=True)

    header, *records = [json.loads(line) for line in audit.read_text().splitlines()]
    covered = [len(record["covered"]) for record in records]
    print(f"{audit}: {min(covered)} to {max(covered)} boxes covered in a frame, model {header['model']}")
    pair = np.concatenate([read_frame(clip, frames // 2), read_frame(result, frames // 2)])
    cv2.imwrite(str(folder / "before-after.png"), pair)
    print(f"{folder / 'before-after.png'}: a frame before (above) and after (below)")
    if min(covered) < 2:
        print("A face was missed: the demo has failed.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
