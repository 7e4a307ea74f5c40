"""Missed faces of whole commands at their defaults, on the same pictures: ``dartblur run`` and ``deface``.

    python -m venv /tmp/deface && /tmp/deface/bin/pip install deface onnx onnxruntime
    python benchmarks/missed_faces.py DATA --deface /tmp/deface/bin/deface [--every 1] [--validation-share 0.774]
        [--json FILE]

DATA holds ``widerface/`` in the published layout; its validation pictures are scaled to a long side of 640 and stored
without loss. What a command has done is read off its output's pixels: a face of at least 20 px counts as missed when
less than half of its box has changed, and what has changed outside of all faces counts as altered. The commands take
turns over parts of the pictures; times include their start.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dartblur_train.data.cache import read_bgr
from dartblur_train.data.labels import FaceImage
from dartblur_train.sources import DataArgs, read_validation

LONG_SIDE, SMALLEST = 640, 20
SIZES = ((20, 32), (32, 64), (64, 10_000))
PARTS = 4
GROWN = 1.2 * 1.2
"""Around a face a margin is covered on purpose, so a face counts as this much larger where altered area is told."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--deface", help="the command of deface; left out if not given")
    parser.add_argument("--model", action="append", help="of ours; small if not given")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture only")
    parser.add_argument(
        "--validation-share", type=float, default=0.0, help="leave out this first part, which was learned: 0.774"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    records = read_validation(DataArgs(args.data, validation_share=args.validation_share))[:: args.every]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faces = [store(record, folder / "in" / f"{number:04d}.png") for number, record in enumerate(records)]
        files = sorted((folder / "in").iterdir())
        commands = {f"dartblur run --model {model}": ours(model) for model in args.model or ["small"]}
        if args.deface:
            commands["deface"] = lambda part, out: deface(args.deface, part, out)
        seconds = dict.fromkeys(commands, 0.0)
        for part in np.array_split(np.array(files, object), PARTS):
            for number, (command, run) in enumerate(commands.items()):
                began = time.perf_counter()
                run(list(part), folder / f"out{number}")
                seconds[command] += time.perf_counter() - began
        figures = {
            command: judge(files, folder / f"out{number}", faces) | {"pictures_per_s": len(files) / seconds[command]}
            for number, command in enumerate(commands)
        }
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def store(record: FaceImage, path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Writes a picture; its faces, in its pixels, and which are ignored."""
    path.parent.mkdir(exist_ok=True)
    image = read_bgr(record.path)
    scale = LONG_SIDE / max(image.shape[:2])
    cv2.imwrite(str(path), cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return record.boxes * np.float32(scale), record.ignored


def ours(model: str):
    """`dartblur run` over a folder."""

    def run(part: list[Path], out: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            for file in part:
                (Path(name) / file.name).symlink_to(file)
            out.mkdir(exist_ok=True)
            command = [sys.executable, "-m", "dartblur", "run", name, str(out), "--model", model]
            subprocess.run(command, check=True, capture_output=True)

    return run


def deface(command: str, part: list[Path], out: Path) -> None:
    """`deface` over several pictures; it writes beside its input."""
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        links = [Path(name) / file.name for file in part]
        for link, file in zip(links, part, strict=True):
            link.symlink_to(file)
        subprocess.run([command, *map(str, links)], check=True, capture_output=True)
        for link in links:
            made = link.with_name(f"{link.stem}_anonymized{link.suffix}")
            (out / link.name).write_bytes(made.read_bytes())


def judge(files: list[Path], out: Path, faces: list) -> dict[str, object]:
    """What was missed, and what altered."""
    missed, count = dict.fromkeys(SIZES, 0), dict.fromkeys(SIZES, 0)
    altered = outside = 0
    for file, (boxes, ignored) in zip(files, faces, strict=True):
        before, after = (cv2.imread(str(path), cv2.IMREAD_COLOR) for path in (file, out / file.name))
        if before is None or after is None or before.shape != after.shape:
            raise SystemExit(f"{out / file.name}: expected a picture of the size of {file}")
        changed = (before != after).any(2)
        elsewhere = np.ones(changed.shape, bool)
        for box, ignore in zip(boxes, ignored, strict=True):
            size = float(np.sqrt(np.maximum(box[2:] - box[:2], 0).prod()))
            centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
            _part(elsewhere, np.concatenate([centre - half * GROWN, centre + half * GROWN]))[:] = False
            inside = _part(changed, box)
            for low, high in SIZES:
                if not ignore and low <= size < high and inside.size:
                    count[low, high] += 1
                    missed[low, high] += inside.mean() < 0.5
        altered += int((changed & elsewhere).sum())
        outside += int(elsewhere.sum())
    return {
        "faces": sum(count.values()),
        "missed": round(sum(missed.values()) / sum(count.values()), 4),
        **{f"missed_{low}_{high}px": round(missed[low, high] / max(1, count[low, high]), 4) for low, high in SIZES},
        "altered_outside_faces": round(altered / outside, 5),
    }


def _part(mask: NDArray[np.bool_], box: NDArray[np.float32]) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = (max(0, round(float(value))) for value in box)
    return mask[y0:y1, x0:x1]


if __name__ == "__main__":
    sys.exit(main())
