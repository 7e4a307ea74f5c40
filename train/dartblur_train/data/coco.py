"""Reader of data sets in COCO's format: one JSON file for all images of a part.

pycocotools isn't used for it: an annotation without an id or an image makes it give up the whole file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .classes import face_classes, part_names
from .labels import FaceImage, face_image, is_box
from .problems import DataError, Problems


@dataclass(frozen=True)
class CocoFiles:
    """The JSON file of a part, and the folders that its file names may be relative to."""

    annotations: Path
    roots: list[Path]


@dataclass
class _Faces:
    boxes: list[list[float]] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)


def find_coco(source: Path, part: str) -> CocoFiles | None:
    """The files of a part, or None; raises `DataError` if there are several that could be meant."""
    patterns = [
        pattern
        for name in part_names(part)
        for pattern in (
            f"{name}/_annotations.coco.json",
            f"annotations/instances_{name}*.json",
            f"annotations/{name}*.json",
            f"{name}*.json",
        )
    ]
    if part == "train":
        patterns.append("annotations.json")
    for pattern in patterns:
        found = sorted(source.glob(pattern))
        if len(found) > 1:
            raise DataError(f"{source}: expected one file {pattern}, got {', '.join(file.name for file in found)}")
        if found:
            folders = [
                folder
                for name in part_names(part)
                for place in (source / "images", source)
                for folder in sorted(place.glob(f"{name}*"))
                if folder.is_dir()
            ]
            return CocoFiles(found[0], [found[0].parent, *folders, source / "images", source])
    return None


def read_coco(files: CocoFiles, problems: Problems, classes: Sequence[str] | None) -> list[FaceImage]:
    """The images of a COCO file with their faces; crowds become ignored faces.

    Args:
        files: see `find_coco`.
        problems: takes images and annotations that are malformed.
        classes: see `face_classes`.

    Raises:
        DataError: the file is no COCO file, the classes can't be told, or something is refused.
    """
    images, annotations, categories = _load(files.annotations)
    names = {
        category["id"]: str(category.get("name"))
        for category in categories
        if isinstance(category, dict) and _is_key(category.get("id"))
    }
    wanted = face_classes(files.annotations, set(names.values()), classes)
    faces = {number for number, name in names.items() if name in wanted}
    paths = _paths(images, files, problems)
    known = {image.get("id") for image in images if isinstance(image, dict) and _is_key(image.get("id"))}
    found: dict[Any, _Faces] = {number: _Faces() for number in paths}
    for place, annotation in enumerate(annotations):
        number = annotation.get("id", f"at place {place}") if isinstance(annotation, dict) else f"at place {place}"
        where = f"{files.annotations}: annotation {number}"
        if not _is_annotation(annotation, known, set(names), where, problems):
            continue
        image = found.get(annotation["image_id"])
        if image is not None and annotation["category_id"] in faces and is_box(annotation["bbox"], where, problems):
            x, y, w, h = annotation["bbox"]
            image.boxes.append([x, y, x + w, y + h])
            image.crowd.append(bool(annotation.get("iscrowd", 0)))
    return [face_image(path, found[number].boxes, found[number].crowd) for number, path in paths.items()]


def _load(file: Path) -> tuple[list[Any], list[Any], list[Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected a COCO file in JSON, got {error}") from error
    lists = [content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations", "categories")]
    if not all(isinstance(part, list) for part in lists):
        raise DataError(f"{file}: expected a COCO file with the lists images, annotations and categories")
    images, annotations, categories = lists
    return images, annotations, categories  # type: ignore[return-value]  # all are lists


def _paths(images: list[Any], files: CocoFiles, problems: Problems) -> dict[Any, Path]:
    """The file of each image by its id."""
    paths: dict[Any, Path] = {}
    for place, image in enumerate(images):
        name = image.get("file_name") if isinstance(image, dict) else None
        number = image.get("id") if isinstance(image, dict) else None
        where = f"{files.annotations}: image {place if number is None else number}"
        if not isinstance(name, str) or not _is_key(number) or number in paths:
            problems.report(where, f"malformed image: expected an id of its own and a file_name, got {image!r:.80}")
            continue
        path = next((root / name for root in files.roots if (root / name).is_file()), None)
        if path is None:
            places = ", ".join(str(root) for root in files.roots)
            problems.report(where, f"missing image: expected {name} in one of {places}")
        else:
            paths[number] = path
    return paths


def _is_annotation(value: Any, images: set[Any], categories: set[Any], where: str, problems: Problems) -> bool:
    """Whether it has a box of four numbers, a known category and a known image; reports what it lacks."""
    if not isinstance(value, dict):
        wanted, got = "an object", value
    elif not _is_key(value.get("image_id")) or value["image_id"] not in images:
        wanted, got = "image_id of a listed image", value.get("image_id")
    elif not _is_key(value.get("category_id")) or value["category_id"] not in categories:
        wanted, got = "category_id of a listed category", value.get("category_id")
    elif not _is_four_numbers(value.get("bbox")):
        wanted, got = "bbox of four numbers", value.get("bbox")
    else:
        return True
    problems.report(where, f"malformed annotation: expected {wanted}, got {got!r:.80}")
    return False


def _is_four_numbers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
    )


def _is_key(value: Any) -> bool:
    return isinstance(value, int | str)
