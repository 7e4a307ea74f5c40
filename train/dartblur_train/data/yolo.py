"""Reader of data sets in YOLO's format: a text file for each image, boxes as shares of its width and height.

Ultralytics' rule holds: an image without a label file is one without faces. supervision isn't used for it, since a
single bad line makes it give up the whole set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from .cache import report_unreadable, sizes_or_errors
from .classes import face_classes, part_names
from .labels import IMAGE_SUFFIXES, FaceImage, face_image, is_box
from .problems import DataError, Problems

SLACK = 0.01
"""How far beyond 0 and 1 a rounded share may lie."""


@dataclass(frozen=True)
class YoloFiles:
    """Folders of a part, and the file that names the classes (None if there is none)."""

    images: Path
    labels: Path
    names: Path | None


@dataclass(frozen=True)
class _Line:
    where: str
    category: str
    shares: list[float]


def find_yolo(source: Path, part: str) -> YoloFiles | None:
    """The folders of a part, or None."""
    names = part_names(part)
    pairs = [(source / "images" / name, source / "labels" / name) for name in names]
    pairs += [(source / name / "images", source / name / "labels") for name in names]
    if part == "train":
        pairs.append((source / "images", source / "labels"))
    described = next((source / name for name in ("data.yaml", "dataset.yaml") if (source / name).is_file()), None)
    for images, labels in pairs:
        if images.is_dir() and labels.is_dir():
            return YoloFiles(images, labels, described)
    return None


def read_yolo(files: YoloFiles, problems: Problems, classes: Sequence[str] | None) -> list[FaceImage]:
    """The images of a folder with their faces.

    Args:
        files: see `find_yolo`. Without a file of names the classes go by their numbers.
        problems: takes lines, boxes and images that can't be used.
        classes: see `face_classes`.

    Raises:
        DataError: the classes can't be told, or something is refused.
    """
    names, numbers = _describe(files.names)
    images = sorted(path for path in files.images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    lines: dict[Path, list[_Line]] = {}
    for path in images:
        file = (files.labels / path.relative_to(files.images)).with_suffix(".txt")
        lines[path] = _read_lines(file, names, numbers, problems) if file.is_file() else []
    _report_orphans(files, images, problems)
    seen = set(names.values()) if names else {line.category for found in lines.values() for line in found}
    faces = face_classes(files.names or files.labels, seen, classes) if seen else set()
    records = []
    for path, size in zip(images, sizes_or_errors(images), strict=True):
        if isinstance(size, DataError):
            report_unreadable(path, size, problems)
        else:
            boxes = [_pixels(line.shares, size) for line in lines[path] if line.category in faces]
            wheres = [line.where for line in lines[path] if line.category in faces]
            good = [box for box, where in zip(boxes, wheres, strict=True) if is_box(box, where, problems)]
            records.append(face_image(path, [[x, y, x + w, y + h] for x, y, w, h in good]))
    return records


def _read_lines(file: Path, names: dict[str, str], numbers: int, problems: Problems) -> list[_Line]:
    """The lines of a label file that are well-formed; `numbers` of keypoints may follow each box."""
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = text.split()
        if not words:
            continue
        where = f"{file}:{number}"
        try:
            category, values = str(int(float(words[0]))), [float(word) for word in words[1:]]
        except (ValueError, OverflowError):
            category, values = "", []
        if len(values) not in (4, 5, 4 + numbers) or float(words[0]) != int(category):
            problems.report(where, f"malformed line: expected 'class x y w h', got {text.strip()[:80]!r}")
        elif names and category not in names:
            problems.report(where, f"unknown class: expected a number out of {', '.join(names)}, got {category}")
        elif not all(-SLACK <= value <= 1 + SLACK for value in values[:4] if abs(value) < float("inf")):
            problems.report(where, f"box not in shares: expected numbers from 0 to 1, got {text.strip()[:80]!r}")
        else:
            lines.append(_Line(where, names.get(category, category), values[:4]))
    return lines


def _pixels(shares: Sequence[float], size: tuple[int, int]) -> list[float]:
    """``x y w h`` in pixels, x and y of the corner, of centre and size in shares."""
    x, y, w, h = shares
    width, height = size
    return [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]


def _report_orphans(files: YoloFiles, images: Sequence[Path], problems: Problems) -> None:
    """Reports labels whose image is absent."""
    expected = {path.relative_to(files.images).with_suffix(".txt") for path in images} | {Path("classes.txt")}
    for file in sorted(files.labels.rglob("*.txt")):
        if file.relative_to(files.labels) not in expected:
            problems.report(str(file), f"missing image: expected one of that name in {files.images}")


def _describe(file: Path | None) -> tuple[dict[str, str], int]:
    """Names of the classes by their numbers, and how many numbers of keypoints follow each box."""
    if file is None:
        return {}, 0
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        names = content["names"]
        named = dict(enumerate(names)) if isinstance(names, list) else dict(names)
        points = content.get("kpt_shape", [0, 0])
        return {str(int(number)): str(name) for number, name in named.items()}, int(points[0]) * int(points[1])
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise DataError(
            f"{file}: expected the classes under 'names', a list or numbered, got {error!r:.200}"
        ) from error
