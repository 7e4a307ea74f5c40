"""Whole commands beside each other: ``dartblur run`` and ``deface``, the same 1280x720 clip, frames per second.

    python -m venv /tmp/deface && /tmp/deface/bin/pip install deface onnx onnxruntime
    python benchmarks/vs_deface.py --deface /tmp/deface/bin/deface [--runs 3] [--json FILE]

Both write H.264. The commands take turns, so that a machine whose speed drifts slows all of them; the figure is the
ratio. The outputs are compared with the input outside the faces (SSIM of luma): a fast command that loses quality
would not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

sys.path.insert(0, str(Path(__file__).parent.parent / "samples"))
from demo import make_clip

SIZE = (1280, 720)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deface", default="deface", help="the command of deface")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the clip")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        frames = make_clip(clip, args.seconds, SIZE)
        outputs = {name: Path(folder) / f"{name}.mp4" for name in ("dartblur", "deface", "deface_640x360")}
        audit = Path(folder) / "audit.jsonl"
        ours = [sys.executable, "-m", "dartblur", "run", str(clip), str(outputs["dartblur"])]
        commands = {
            "dartblur": [*ours, "--overwrite", "--audit", str(audit)],
            "deface": [args.deface, str(clip), "-o", str(outputs["deface"])],
            "deface_640x360": [args.deface, str(clip), "-s", "640x360", "-o", str(outputs["deface_640x360"])],
        }
        rates: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.runs):
            for name, command in commands.items():
                outputs[name].unlink(missing_ok=True)
                started = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                rates[name].append(frames / (time.perf_counter() - started))
        boxes = [
            [face["box"] for face in entry["faces"]]
            for entry in map(json.loads, audit.read_text().splitlines())
            if "index" in entry
        ]
        figures: dict[str, object] = {"frames": frames, "runs": args.runs}
        for name, fps in rates.items():
            figures[name] = {
                "fps": round(statistics.median(fps), 2),
                "ssim_outside_faces": round(similarity(clip, outputs[name], boxes), 4),
                "bytes": outputs[name].stat().st_size,
            }
        for name in ("deface", "deface_640x360"):
            ratios = [a / b for a, b in zip(rates["dartblur"], rates[name], strict=True)]
            figures[f"ratio_to_{name}"] = round(statistics.median(ratios), 2)
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def similarity(clip: Path, output: Path, boxes: list[list[list[float]]], every: int = 10) -> float:
    """Mean SSIM of luma outside the faces (and the area around them), over every n-th frame."""
    values = []
    for number, (before, after) in enumerate(zip(lumas(clip), lumas(output), strict=True)):
        if number % every:
            continue
        _, similar = structural_similarity(before, after, full=True, data_range=255)
        outside = np.ones(before.shape, bool)
        for x0, y0, x1, y1 in boxes[number]:
            # deface's boxes are larger than ours; leave out what either may have changed.
            w, h = x1 - x0, y1 - y0
            outside[max(0, int(y0 - h)) : int(y1 + h), max(0, int(x0 - w)) : int(x1 + w)] = False
        values.append(float(similar[outside].mean()))
    return statistics.mean(values)


def lumas(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [cv2.cvtColor(f.to_ndarray(format="bgr24"), cv2.COLOR_BGR2GRAY) for f in container.decode(video=0)]


if __name__ == "__main__":
    sys.exit(main())
