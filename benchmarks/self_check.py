"""How often the self-check is right: covers that hide and covers that don't, faces that were missed and none.

    python benchmarks/self_check.py DATA [--model BUNDLE] [--every 1] [--json FILE]

DATA holds ``widerface/`` and ``lfw/``. *Inside*: each annotated face (its shorter side 12 pixels or more) is covered by
every method, then not at all, by a fixed 5 x 5 blur, and 30 % of the box beside where it is; the figures are the share
of covers that the check objects to. *Outside*: pictures are anonymized at default settings; the figures are what the
second look finds outside of the covers, at several thresholds, and how much of that is an annotated face.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dartblur import Anonymizer, load_bundle
from dartblur.anonymizer import METHODS
from dartblur.backends.cpu import CpuBackend
from dartblur.boxes import outermost, scale_boxes
from dartblur.bundle import Bundle
from dartblur.protection.residue import MOST_ALIKE, MOST_UNCHANGED, alike, is_hidden, unchanged
from dartblur.protection.self_check import SecondLook, surer
from dartblur_train.data.cache import read_bgr
from dartblur_train.data.formats import read_data_set
from dartblur_train.data.labels import FaceImage
from dartblur_train.sources import DataArgs, read_validation

SIZES = ((12, 20), (20, 30), (30, 40), (40, 80), (80, 10_000))
MOST_FACES = 8
SHIFT = 0.3
THRESHOLDS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, help="bundle; the built-in one if not given")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture only")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    bundle = load_bundle(args.model)
    wider = read_validation(DataArgs(args.data))[:: args.every]
    portraits = read_data_set(args.data / "lfw")[:: 4 * args.every]
    figures = {
        "model": f"{bundle.manifest.name} {bundle.manifest.version}",
        "limits": {"unchanged": MOST_UNCHANGED, "alike": MOST_ALIKE},
        "inside": inside(CpuBackend(bundle, threads=1), bundle, [*wider, *portraits]),
        "outside": outside(bundle, wider),
        "default_threshold": round(default(bundle), 4),
    }
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def inside(backend: CpuBackend, bundle: Bundle, records: list[FaceImage]) -> dict[str, object]:
    """Share of covers that are objected to, by size of the face and kind of cover; and both measures' distributions."""
    objections: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    measures: dict[str, list[tuple[float, float]]] = defaultdict(list)
    random = np.random.default_rng(0)
    for record in records:
        sides = (record.boxes[:, 2:] - record.boxes[:, :2]).min(1)
        fit = np.flatnonzero((sides >= SIZES[0][0]) & ~record.ignored)
        chosen = record.boxes[random.permutation(fit)[:MOST_FACES]]
        boxes = outermost(scale_boxes(chosen, bundle.manifest.box_scale))
        image = read_bgr(record.path)
        signs = random.choice(np.array([-1, 1], np.float32), size=(len(boxes), 2))
        for kind, covered in covers(backend, image, boxes, signs):
            for box in boxes:
                x0, y0, x1, y1 = np.clip(box, 0, np.array(image.shape[1::-1] * 2)).tolist()
                area = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
                pair = image[area], covered[area]
                side = float((box[2:] - box[:2]).min()) / bundle.manifest.box_scale
                size = next(f"{low}-{high}px" for low, high in SIZES if side < high)
                objections[size][kind].append(not is_hidden(*pair))
                if min(pair[0].shape[:2]) >= 24:
                    measures[kind].append((unchanged(*pair), alike(*pair)))
    return {
        "objected_to": {
            size: {"faces": len(kinds["clear"]), **{kind: round(float(np.mean(v)), 4) for kind, v in kinds.items()}}
            for size, kinds in sorted(objections.items())
        },
        "measures_from_24px": {kind: quantiles(np.array(values)) for kind, values in measures.items()},
    }


def covers(
    backend: CpuBackend, image: NDArray[np.uint8], boxes: NDArray[np.float32], signs: NDArray[np.float32]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The picture with its boxes covered, by a name: properly by each method, and in ways that don't hide."""
    for method in METHODS:
        yield method, redacted(backend, image, boxes, method)
    yield "clear", image
    weak, soft = image.copy(), cv2.GaussianBlur(image, (5, 5), 0)
    for x0, y0, x1, y1 in boxes:
        rows, columns = slice(max(0, int(y0)), int(np.ceil(y1))), slice(max(0, int(x0)), int(np.ceil(x1)))
        weak[rows, columns] = soft[rows, columns]
    yield "5x5", weak
    sides = boxes[:, 2:] - boxes[:, :2]
    for name, direction in (("aside", (1, 0)), ("aside_and_down", (1, 1))):
        shift = SHIFT * sides * signs * np.array(direction, np.float32)
        moved = boxes + np.concatenate([shift, shift], 1)
        for method in METHODS:
            yield f"{name}:{method}", redacted(backend, image, moved, method)


def redacted(
    backend: CpuBackend, image: NDArray[np.uint8], boxes: NDArray[np.float32], method: str
) -> NDArray[np.uint8]:
    copy = np.ascontiguousarray(image).copy()
    backend.redact(copy, boxes, method)
    return copy


def quantiles(values: NDArray[np.float64]) -> dict[str, list[float]]:
    """Smallest, 1 %, 50 %, 99 % and largest of both measures."""
    cuts = np.quantile(values, (0, 0.01, 0.5, 0.99, 1), axis=0)
    return {name: np.round(cuts[:, i], 3).tolist() for i, name in enumerate(("unchanged", "alike"))}


def outside(bundle: Bundle, records: list[FaceImage]) -> dict[str, object]:
    """What is found outside of the covers, per 100 pictures, by method and threshold."""
    look = SecondLook(bundle, min(THRESHOLDS))
    figures: dict[str, object] = {}
    for method in METHODS:
        anonymize = Anonymizer(backend=CpuBackend(bundle, threads=1), method=method)
        scores, true, pictures = [], [], []
        for number, record in enumerate(records):
            result = anonymize(read_bgr(record.path))
            found = look(result.image, result.covered)
            scores += found.scores.tolist()
            true += annotated(found.boxes, record.boxes).tolist()
            pictures += [number] * len(found)
        thresholds = sorted({*THRESHOLDS, default(bundle)})
        figures[method] = table(thresholds, np.array(scores), np.array(true, bool), np.array(pictures), len(records))
    return figures


def default(bundle: Bundle) -> float:
    return surer(bundle.manifest.threshold)


def annotated(found: NDArray[np.float32], faces: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the found boxes overlap an annotated face by 0.4 of their union."""
    low = np.maximum(found[:, None, :2], faces[None, :, :2])
    high = np.minimum(found[:, None, 2:], faces[None, :, 2:])
    common = np.maximum(high - low, 0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (found, faces)]
    overlap = common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-6)
    return (overlap >= 0.4).any(1) if len(faces) else np.zeros(len(found), bool)


def table(
    thresholds: list[float],
    scores: NDArray[np.float64],
    true: NDArray[np.bool_],
    pictures: NDArray[np.int64],
    count: int,
) -> list[dict[str, float]]:
    rows = []
    for threshold in thresholds:
        kept = scores >= threshold
        wrong = set(pictures[kept & ~true].tolist())
        rows.append(
            {
                "threshold": round(threshold, 4),
                "findings_per_100": round(100 * int(kept.sum()) / count, 2),
                "annotated_per_100": round(100 * int((kept & true).sum()) / count, 2),
                "others_per_100": round(100 * int((kept & ~true).sum()) / count, 2),
                "pictures_with_others_per_100": round(100 * len(wrong) / count, 2),
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
