"""AP@0.5 of a bundle's detector on WIDER FACE's validation part, run as the SDK runs it.

    python benchmarks/detection.py DATA [--model BUNDLE] [--every 1] [--json FILE]

DATA holds ``widerface/`` in the published layout. Pictures are scaled to a long side of 640. Faces whose
sqrt(area) is under 20 px at that size are ignored: neither missed when they aren't found nor false alarms when they
are, and so are unmatched detections that small.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np

from dartblur import load_bundle
from dartblur.anonymizer import scale_boxes
from dartblur.backends.cpu import CpuBackend
from dartblur_train.data.cache import read_bgr
from dartblur_train.evaluation.average_precision import PrecisionRecall, average_precision
from dartblur_train.sources import DataArgs, read_validation

LONG_SIDE = 640
SIZES = ((20, 32), (32, 64), (64, 10_000))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, help="bundle; the built-in one if not given")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture only")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    bundle = load_bundle(args.model)
    backend = CpuBackend(bundle)
    records = read_validation(DataArgs(args.data))[:: args.every]
    detections, truth, sizes = [], [], []
    for record in records:
        image = read_bgr(record.path)
        scale = LONG_SIDE / max(image.shape[:2])
        if scale != 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)
        found = backend.detect(image, 0.02)
        detections.append((found.boxes, found.scores))
        truth.append((record.boxes * np.float32(scale), record.ignored))
        sizes.append(image.shape[:2])

    curve = average_precision(detections, truth, iou=0.5, smallest=20)
    threshold = bundle.manifest.threshold
    figures: dict[str, object] = {
        "model": f"{bundle.manifest.name} {bundle.manifest.version}",
        "pictures": len(records),
        "faces_20px": curve.faces,
        "ap50_20px": round(curve.average_precision, 4),
        "threshold": threshold,
        **{key: round(value, 4) for key, value in at_threshold(curve, threshold).items()},
    }
    for low, high in SIZES:
        figures[f"missed_{low}_{high}px"] = round(missed(detections, truth, threshold, low, high), 4)
    figures["operating_points"] = [
        {
            "threshold": point,
            **{key: round(value, 4) for key, value in at_threshold(curve, point).items()},
            "altered_outside_faces": round(altered(detections, truth, sizes, point, bundle.manifest.box_scale), 5),
        }
        for point in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
    ]
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


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
