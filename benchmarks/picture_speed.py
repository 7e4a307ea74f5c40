"""Folders of photographs: ``dartblur run`` and ``deface`` at their defaults, pictures per second, by their size.

    python -m venv /tmp/deface && /tmp/deface/bin/pip install deface onnx onnxruntime
    python benchmarks/picture_speed.py DATA --deface /tmp/deface/bin/deface [--side 640 ...] [--pictures 64]
        [--runs 3] [--json FILE]

DATA holds ``widerface/`` in the published layout; its validation pictures, of a long side of 640, are also enlarged,
so that files and pixels are those of larger photographs. Both commands read and write JPEG. They take turns; times
include their start.
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

import cv2

from dartblur_train.data.cache import read_bgr
from dartblur_train.sources import DataArgs, read_validation

LONG_SIDES = (640, 1280, 1920, 3840)
QUALITY = 90


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--deface", required=True, help="the command of deface")
    parser.add_argument("--model", default="small", help="of ours")
    parser.add_argument("--side", type=int, action="append", help=f"long side in pixels; {LONG_SIDES} if not given")
    parser.add_argument("--pictures", type=int, default=64, help="how many, evenly from the validation part")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    records = read_validation(DataArgs(args.data))
    files = [record.path for record in records[:: max(1, len(records) // args.pictures)][: args.pictures]]
    figures = {str(side): compare(files, side, args.deface, args.model, args.runs) for side in args.side or LONG_SIDES}
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def compare(files: list[Path], long_side: int, deface: str, model: str, runs: int) -> dict[str, float | int]:
    """How many pictures, medians of both commands' pictures a second, and of the ratio of a turn."""
    rates: dict[str, list[float]] = {"dartblur": [], "deface": []}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            pictures = [
                store(file, folder / "in" / f"{number:04d}.jpg", long_side) for number, file in enumerate(files)
            ]
            ours = [sys.executable, "-m", "dartblur", "run", str(folder / "in"), str(folder / "out"), "--model", model]
            for command, line in {"dartblur": ours, "deface": [deface, *map(str, pictures)]}.items():
                began = time.perf_counter()
                subprocess.run(line, check=True, capture_output=True)
                rates[command].append(len(files) / (time.perf_counter() - began))
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    medians = {f"{name}_per_s": round(statistics.median(values), 2) for name, values in rates.items()}
    return {"pictures": len(files), **medians, "ratio": round(statistics.median(ratios), 2)}


def store(file: Path, path: Path, long_side: int) -> Path:
    """Writes a picture at this size."""
    path.parent.mkdir(exist_ok=True)
    image = read_bgr(file)
    scale = long_side / max(image.shape[:2])
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=method)
    cv2.imwrite(str(path), resized, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return path


if __name__ == "__main__":
    sys.exit(main())
