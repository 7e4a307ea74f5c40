"""Faces that flicker: how often a face that was covered before is uncovered when the detector misses one in five.

    python benchmarks/flicker.py VIDEO... [--drop 0.2] [--seeds 20] [--every 1] [--frames N] [--weak 0] [--json FILE]

The detector runs once over all frames; what it finds is the reference. Then detections are dropped at random, and the
rest is replayed without and with the tracker, in the steps of a stream: predict, detections, update, cover. A
face-frame is a reference detection whose face was covered in an earlier frame. It is uncovered when less than 90 % of
the reference box's pixels are covered. Faces are followed by a linking of the reference, made for this measure alone.

Extra area: pixels covered that would not be if nothing were dropped and nothing held, over those that would be. Of
the picture: share of all pixels that is covered.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from dartblur import load_bundle
from dartblur.backends.cpu import CpuBackend
from dartblur.boxes import scale_boxes
from dartblur.coverage import Coverage
from dartblur.detections import Detections
from dartblur.protection.tracking import Tracker
from dartblur.stream import open_source

COVERED = 0.9
LINK_SECONDS, LINK_SIZES = 0.5, 1.0
"""A reference detection is the same face as an earlier one that is no older, and no farther in sizes of the face."""


@dataclass(frozen=True)
class Clip:
    """What the detector found: for each frame its time, the faces, and which face each is."""

    name: str
    size: tuple[int, int]
    frames: list[tuple[float, Detections]]
    faces: list[list[int]]


@dataclass
class Figures:
    """Counts of face-frames; areas in pixels; time of predict and update together."""

    face_frames: int = 0
    uncovered: int = 0
    pixels: int = 0
    covered_pixels: int = 0
    reference_pixels: int = 0
    extra_pixels: int = 0
    frames: int = 0
    tracker_ms: float = 0.0

    def __add__(self, other: Figures) -> Figures:
        return Figures(**{name: value + asdict(other)[name] for name, value in asdict(self).items()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--drop", type=float, default=0.2, help="share of the detections that are dropped")
    parser.add_argument("--seeds", type=int, default=20, help="replays, each with other drops")
    parser.add_argument("--every", type=int, default=1, help="take every n-th frame only")
    parser.add_argument("--frames", type=int, help="of each video at most")
    parser.add_argument("--hold", type=float, default=1.0, help="seconds")
    parser.add_argument("--weak", type=float, default=0.0, help="also replay weak detections from this score")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    bundle = load_bundle()
    manifest = bundle.manifest
    clips = [detect(CpuBackend(bundle), video, manifest.threshold, args) for video in args.videos]
    report: dict[str, object] = {
        "model": f"{manifest.name} {manifest.version}",
        "drop": args.drop,
        "seeds": args.seeds,
        "every": args.every,
        "hold": args.hold,
        "clips": {},
    }
    total = {"without": Figures(), "with": Figures()}
    print("clip         tracker  face-frames uncovered    share extra area of the picture ms/frame")
    for clip in clips:
        rows = {}
        for name, hold in (("without", None), ("with", args.hold)):
            rows[name] = Figures()
            for seed in range(args.seeds):
                tracker = None if hold is None else Tracker(hold=hold, threshold=manifest.threshold)
                rows[name] += replay(clip, tracker, manifest.threshold, manifest.box_scale, args.drop, seed)
            show(clip.name, name, rows[name])
            total[name] += rows[name]
        report["clips"][clip.name] = {name: summary(row) for name, row in rows.items()}  # type: ignore[index]
    for name, row in total.items():
        show("all", name, row)
    report["all"] = {name: summary(row) for name, row in total.items()}
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if total["with"].uncovered else 0


def detect(backend: CpuBackend, video: Path, threshold: float, args: argparse.Namespace) -> Clip:
    """What the detector finds in a video, and which of it is the same face."""
    frames: list[tuple[float, Detections]] = []
    with open_source(video) as source:
        for frame in source:
            if frame.index % args.every == 0:
                frames.append((frame.time, backend.detect(frame.image, args.weak or threshold)))
            if len(frames) == args.frames:
                break
        return Clip(video.name, (source.info.width, source.info.height), frames, link(frames, threshold))


def link(frames: list[tuple[float, Detections]], threshold: float) -> list[list[int]]:
    """The number of each detection's face, 0 for weak ones: that of the nearest one shortly before, or a new one."""
    last: dict[int, tuple[float, np.ndarray]] = {}
    linked = []
    for time, found in frames:
        recent = {face: box for face, (seen, box) in last.items() if time - seen <= LINK_SECONDS}
        numbers = [0] * len(found)
        distances = sorted(
            (apart(box, other), index, face)
            for index, box in enumerate(found.boxes)
            if found.scores[index] >= threshold
            for face, other in recent.items()
        )
        for distance, index, face in distances:
            if distance <= LINK_SIZES and not numbers[index] and face not in numbers:
                numbers[index] = face
        for index, box in enumerate(found.boxes):
            if found.scores[index] >= threshold:
                numbers[index] = numbers[index] or len(last) + 1
                last[numbers[index]] = time, box
        linked.append(numbers)
    return linked


def apart(box: np.ndarray, other: np.ndarray) -> float:
    """Distance of two boxes' centres, in sizes."""
    size = np.sqrt([np.prod(b[2:] - b[:2]) for b in (box, other)]).mean()
    return float(np.linalg.norm((box[:2] + box[2:] - other[:2] - other[2:]) / 2) / size)


def replay(clip: Clip, tracker: Tracker | None, threshold: float, scale: float, drop: float, seed: int) -> Figures:
    """Counts over a clip of which detections are dropped."""
    random = np.random.default_rng(seed)
    figures, known = Figures(), set()
    for (time, reference), faces in zip(clip.frames, clip.faces, strict=True):
        kept = random.random(len(reference)) >= drop
        found = Detections(reference.boxes[kept], reference.scores[kept])
        begun = perf_counter()
        if tracker is not None:
            found, held = tracker.update(found, time, tracker.predict(time))
        else:
            found, held = only(found, found.scores >= threshold), Coverage.empty()
        figures.tracker_ms += (perf_counter() - begun) * 1000
        strong = reference.scores >= threshold
        mask = covered(clip.size, scale_boxes(np.concatenate([found.boxes, held.boxes]), scale))
        plain = covered(clip.size, scale_boxes(reference.boxes[strong], scale))
        for box, face in zip(reference.boxes[strong], np.array(faces)[strong], strict=True):
            seen = mask[pixels(box, clip.size)]
            is_covered = seen.size == 0 or seen.mean() >= COVERED
            figures.face_frames += face in known
            figures.uncovered += face in known and not is_covered
            if is_covered:
                known.add(face)
        figures.frames += 1
        figures.pixels += mask.size
        figures.covered_pixels += int(mask.sum())
        figures.reference_pixels += int(plain.sum())
        figures.extra_pixels += int((mask & ~plain).sum())
    return figures


def only(found: Detections, kept: np.ndarray) -> Detections:
    return Detections(found.boxes[kept], found.scores[kept])


def covered(size: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """Which pixels ``[H, W]`` the boxes touch."""
    mask = np.zeros(size[::-1], bool)
    for box in boxes:
        mask[pixels(box, size)] = True
    return mask


def pixels(box: np.ndarray, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns that a box touches."""
    low, high = np.floor(box[:2]), np.ceil(box[2:])
    (x0, y0), (x1, y1) = np.clip(low, 0, size).astype(int), np.clip(high, 0, size).astype(int)
    return slice(y0, y1), slice(x0, x1)


def summary(figures: Figures) -> dict[str, float]:
    return {
        "face_frames": figures.face_frames,
        "uncovered": figures.uncovered,
        "uncovered_share": round(figures.uncovered / max(1, figures.face_frames), 5),
        "extra_area": round(figures.extra_pixels / max(1, figures.reference_pixels), 4),
        "covered_share_of_picture": round(figures.covered_pixels / max(1, figures.pixels), 4),
        "tracker_ms_per_frame": round(figures.tracker_ms / max(1, figures.frames), 3),
    }


def show(clip: str, tracker: str, figures: Figures) -> None:
    row = summary(figures)
    print(
        f"{clip:12} {tracker:8} {figures.face_frames:11} {figures.uncovered:9} {row['uncovered_share']:8.2%} "
        f"{row['extra_area']:10.1%} {row['covered_share_of_picture']:14.1%} {row['tracker_ms_per_frame']:8.3f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
