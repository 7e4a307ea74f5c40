"""Faces close to the camera in bad conditions, as at a door at night: how many a detector misses.

    python benchmarks/close_faces.py DATA [--model nano --model small ...] [--every 25] [--json FILE]

DATA holds ``celeba/`` and ``lfw/``, which training knows. The largest face of each picture is scaled to 200 and to
400 px (sqrt(area)) within 640 x 640, gets a drawn mask, a quarter of the light, motion and strong compression, all at
once. It counts as missed when less than half of it would be covered at the default threshold.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dartblur import load_bundle
from dartblur.backends.cpu import CpuBackend
from dartblur.bundle import MODELS
from dartblur_train.data.augmentation import compress, in_light, move, put_on_mask
from dartblur_train.data.cache import read_bgr
from dartblur_train.data.formats import read_data_set
from dartblur_train.data.labels import FaceImage
from dartblur_train.data.problems import Problems

SETS, SIDES = ("celeba", "lfw"), (200, 400)
WIDEST = 640
LIGHT, MOTION_PX, QUALITY = 1 / 4, 9, 25
MASK = (230, 190, 130)

Image = NDArray[np.uint8]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append", help="name or bundle; all built-in ones if not given")
    parser.add_argument("--every", type=int, default=25, help="take every n-th picture only")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    problems = Problems("refuse")
    records = [
        record
        for name in SETS
        for record in read_data_set(args.data / name, "retinaface", "train", problems)[:: args.every]
        if not record.ignored.all()
    ]
    figures = {model: missed(model, records) for model in args.model or MODELS}
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def missed(model: str, records: list[FaceImage]) -> dict[str, object]:
    """Of each size, the share of the faces that this model misses."""
    bundle = load_bundle(model)
    backend = CpuBackend(bundle)
    shares = {}
    for side in SIDES:
        count = 0
        for number, record in enumerate(records):
            image, face = close(record, side, np.random.default_rng(number))
            found = backend.detect(image, bundle.manifest.threshold)
            count += covered(face, found.boxes) < 0.5
        shares[f"missed_{side}px"] = round(count / len(records), 4)
    return {"model": f"{bundle.manifest.name} {bundle.manifest.version}", "faces": len(records), **shares}


def close(record: FaceImage, side: int, random: np.random.Generator) -> tuple[Image, NDArray[np.float32]]:
    """The picture about its largest face, made bad, and where the face is in it (xyxy pixels)."""
    boxes = record.boxes[~record.ignored]
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    scale = float(side / sides.max())
    image = cv2.resize(read_bgr(record.path), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    face = boxes[sides.argmax()] * np.float32(scale)
    centre = (face[:2] + face[2:]) / 2
    x, y = np.clip(centre - WIDEST / 2, 0, np.maximum(0, np.array(image.shape[1::-1]) - WIDEST)).astype(int)
    image, face = image[y : y + WIDEST, x : x + WIDEST].copy(), face - np.array([x, y, x, y], np.float32)
    put_on_mask(image, tuple(face), MASK)
    image = in_light(image, LIGHT, 0.002, 0.005, random)
    return compress(move(image, MOTION_PX, random.uniform(0, np.pi)), QUALITY), face


def covered(face: NDArray[np.float32], boxes: NDArray[np.float32]) -> float:
    """The share of a face that lies in the box that covers most of it, 0..1."""
    common = np.minimum(face[2:], boxes[:, 2:]) - np.maximum(face[:2], boxes[:, :2])
    return float((common.clip(0).prod(1) / (face[2:] - face[:2]).prod()).max(initial=0))


if __name__ == "__main__":
    sys.exit(main())
