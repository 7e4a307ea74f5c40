"""AP@0.5 of detectors on WIDER FACE's validation part, run as the SDK runs them, in good conditions and in bad ones.

    python benchmarks/detection.py DATA [--model nano --model small ...] [--conditions] [--every 1]
        [--validation-share 0.774] [--json FILE]

DATA holds ``widerface/`` in the published layout. Pictures are scaled to a long side of 640. Faces whose
sqrt(area) is under 20 px at that size are ignored: neither missed when they aren't found nor false alarms when they
are, and so are unmatched detections that small.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dartblur import load_bundle
from dartblur.anonymizer import scale_boxes
from dartblur.backends.cpu import CpuBackend
from dartblur.bundle import MODELS, Bundle
from dartblur_train.data.augmentation import compress, in_light, move, put_on_mask, turn
from dartblur_train.data.cache import read_bgr
from dartblur_train.data.labels import FaceImage
from dartblur_train.evaluation.average_precision import PrecisionRecall, average_precision
from dartblur_train.sources import DataArgs, read_validation

LONG_SIDE, SMALLEST = 640, 20
SIZES = ((20, 32), (32, 64), (64, 10_000))
POINTS = (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]
Condition = Callable[[Image, Boxes, np.random.Generator], tuple[Image, Boxes]]


def in_darkness(image: Image, boxes: Boxes, random: np.random.Generator) -> tuple[Image, Boxes]:
    """A sixth of the light, with the noise of a small sensor."""
    return in_light(image, 1 / 6, 0.002, 0.005, random), boxes


def masked(image: Image, boxes: Boxes, random: np.random.Generator) -> tuple[Image, Boxes]:
    """A light blue mask on each face that counts. Training with ``--augmentation hard`` shows masks drawn just so."""
    image = image.copy()
    for box in that_count(boxes):
        put_on_mask(image, tuple(box), (230, 190, 130))
    return image, boxes


def behind_collars(image: Image, boxes: Boxes, random: np.random.Generator) -> tuple[Image, Boxes]:
    """What lies below each face that counts, drawn over its lower half. Training shows nothing of the kind."""
    dressed = image.copy()
    for x0, y0, x1, y1 in np.round(that_count(boxes)).astype(int).clip(0):
        cloth = image[y1 : y1 + (y1 - y0) // 2, x0:x1]
        dressed[y1 - len(cloth) : y1, x0:x1] = cloth
    return dressed, boxes


def that_count(boxes: Boxes) -> Boxes:
    """Those that are large enough to be measured."""
    return boxes[np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) >= SMALLEST]


CONDITIONS: dict[str, Condition] = {
    "clean": lambda image, boxes, random: (image, boxes),
    "a sixth of the light": in_darkness,
    "motion of 9 px": lambda image, boxes, random: (move(image, 9, random.uniform(0, np.pi)), boxes),
    "JPEG quality 20": lambda image, boxes, random: (compress(image, 20), boxes),
    "turned by 90 degrees": lambda image, boxes, random: turn(image, boxes, 1),
    "masks": masked,
    "behind high collars": behind_collars,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append", help="name or bundle; all built-in ones if not given")
    parser.add_argument(
        "--conditions", action="store_true", help="also in darkness, motion, compressed, turned, masked, collared"
    )
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture only")
    parser.add_argument(
        "--validation-share", type=float, default=0.0, help="leave out this first part, which was learned: 0.774"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    records = read_validation(DataArgs(args.data, validation_share=args.validation_share))[:: args.every]
    conditions = CONDITIONS if args.conditions else {"clean": CONDITIONS["clean"]}
    all_figures = {model: figures_of(load_bundle(model), records, conditions) for model in args.model or MODELS}
    print(json.dumps(all_figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(all_figures, indent=2) + "\n")
    return 0


def figures_of(bundle: Bundle, records: list[FaceImage], conditions: dict[str, Condition]) -> dict[str, object]:
    """All that is told of a model."""
    backend, threshold, box_scale = CpuBackend(bundle), bundle.manifest.threshold, bundle.manifest.box_scale
    precisions: dict[str, float] = {}
    for name, condition in conditions.items():
        seen = look(backend, records, condition)
        curve = average_precision(*seen[:2], iou=0.5, smallest=SMALLEST)
        precisions[name] = round(curve.average_precision, 4)
        if name == "clean":
            clean, of_clean = seen, curve
    detections, truth, sizes = clean
    return {
        "model": f"{bundle.manifest.name} {bundle.manifest.version}",
        "pictures": len(records),
        "faces_20px": of_clean.faces,
        "ap50_20px": precisions,
        "threshold": threshold,
        **{key: round(value, 4) for key, value in at_threshold(of_clean, threshold).items()},
        **{f"missed_{a}_{b}px": round(missed(detections, truth, threshold, a, b), 4) for a, b in SIZES},
        "operating_points": [
            {
                "threshold": point,
                **{key: round(value, 4) for key, value in at_threshold(of_clean, point).items()},
                "altered_outside_faces": round(altered(detections, truth, sizes, point, box_scale), 5),
            }
            for point in sorted({*POINTS, threshold})
        ],
    }


def look(backend: CpuBackend, records: list[FaceImage], condition: Condition) -> tuple[list, list, list]:
    """What is found in each picture, what is there, and how large it is."""
    detections, truth, sizes = [], [], []
    for number, record in enumerate(records):
        image = read_bgr(record.path)
        scale = LONG_SIDE / max(image.shape[:2])
        if scale != 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)
        image, boxes = condition(image, record.boxes * np.float32(scale), np.random.default_rng(number))
        found = backend.detect(image, 0.02)
        detections.append((found.boxes, found.scores))
        truth.append((boxes, record.ignored))
        sizes.append(image.shape[:2])
    return detections, truth, sizes


def at_threshold(curve: PrecisionRecall, threshold: float) -> dict[str, float]:
    """Precision and recall of the detections that the default threshold keeps."""
    kept = int((curve.score >= threshold).sum())
    if not kept:
        return {"precision": float("nan"), "recall": 0.0}
    return {"precision": float(curve.precision[kept - 1]), "recall": float(curve.recall[kept - 1])}


def altered(detections: list, truth: list, sizes: list, threshold: float, box_scale: float) -> float:
    """Share of the area outside the annotated faces that would be overwritten."""
    changed, outside = 0, 0
    for (boxes, scores), (faces, _), (height, width) in zip(detections, truth, sizes, strict=True):
        covered, face = np.zeros((2, height, width), bool)
        # The margin around a face is covered on purpose, so a face counts with a margin here.
        grown = scale_boxes(boxes[scores >= threshold], box_scale), scale_boxes(faces, box_scale * 1.2)
        for mask, rectangles in zip((covered, face), grown, strict=True):
            for x0, y0, x1, y1 in rectangles:
                mask[max(0, int(y0)) : max(0, int(np.ceil(y1))), max(0, int(x0)) : max(0, int(np.ceil(x1)))] = True
        changed += int((covered & ~face).sum())
        outside += int((~face).sum())
    return changed / max(1, outside)


def missed(detections: list, truth: list, threshold: float, low: int, high: int) -> float:
    """Share of the faces of these sizes that the default threshold misses."""
    strong = [(boxes[scores >= threshold], scores[scores >= threshold]) for boxes, scores in detections]
    limited = []
    for boxes, ignored in truth:
        size = np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1))
        limited.append((boxes, ignored | (size < low) | (size >= high)))
    curve = average_precision(strong, limited, iou=0.5)
    return 1 - (float(curve.recall[-1]) if len(curve.recall) else 0.0)


if __name__ == "__main__":
    sys.exit(main())
