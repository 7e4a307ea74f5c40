"""What an anonymized copy of a data set will hold: which pictures, with which faces, and which other files."""

from __future__ import annotations

import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..data.formats import has_part, read_data_set
from ..data.labels import IMAGE_SUFFIXES, FaceImage, face_image
from ..data.problems import DataError, Problems
from ..data.yolo import find_yolo

PARTS = ("train", "val", "test")
ANNOTATION_SUFFIXES = frozenset({".json", ".txt", ".xml", ".yaml", ".yml"})
MANIFEST = "manifest.json"
"""Of the copy; a file of that name in the source, which may be a copy itself, is not copied."""

_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_EMBEDDED = re.compile(rb"(?:/9j/|iVBORw0KGgo|UklGR|R0lGOD|data:image/)[\w+/\\=;,]{60}")
"""A JPEG, PNG, WebP or GIF in base64, as some tools keep in their annotations."""

_HARMLESS = {"missing image", "malformed image"}
"""Kinds of problems after which no picture is listed with a face too few: its reader leaves the whole picture out."""

_WHERE = re.compile(r"(?P<file>.+\.(?:json|txt|xml))(?::\s*(?P<place>.*))?", re.DOTALL)


@dataclass
class Plan:
    """What is done with each file of a data set; all names are relative to it, with slashes.

    Attributes:
        pictures: to be anonymized, with all their faces that have an area.
        annotations: to be copied as they are.
        left_out: what should be in the copy and can't be, and why.
        unannotated: pictures that no annotation mentions: what they show isn't known.
        not_copied: all else.
    """

    pictures: dict[str, FaceImage] = field(default_factory=dict)
    annotations: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    unannotated: list[str] = field(default_factory=list)
    not_copied: list[str] = field(default_factory=list)


def make_plan(source: Path, layout: str, policy: Literal["refuse", "skip"]) -> Plan:
    """Reads the annotations of all parts and looks at all files.

    Args:
        source: folder of the data set.
        layout: see `read_data_set`.
        policy: whether malformed annotations are refused. If not, their pictures are left out: a face may be missing.

    Raises:
        DataError: there is no data set, something is refused, or a malformed annotation may belong to any picture.
    """
    plan, problems = Plan(), _Problems(policy)
    records, unlabelled = _read(source, layout, problems)
    doubted = _doubted(problems.reports)
    # By the file itself: it may go by several names and ids, in several parts, with some of its faces under each.
    same: dict[Path, list[FaceImage]] = defaultdict(list)
    for record in records:
        same[record.path.resolve()].append(record)
    for where, reason in problems.unreadable:
        plan.left_out[_name(source, Path(where))] = reason
    for file, found in same.items():
        doubtful = any({record.path.name, record.path.stem} & doubted for record in found)
        for path in {record.path for record in found}:
            name = _name(source, path)
            if name.startswith("../"):
                plan.left_out[name] = "expected a picture in the folder of the data set, got one outside of it"
            elif doubtful:
                plan.left_out[name] = "expected well-formed annotations, got some that aren't: a face may be missing"
            elif file not in unlabelled:
                plan.pictures[name] = _merged(path, found)
    _sort_files(source, plan)
    return plan


class _Problems(Problems):
    """Keeps what was reported; pictures that can't be read are always left out, and never end the run."""

    def __init__(self, policy: Literal["refuse", "skip"]) -> None:
        super().__init__(policy)
        self.reports: list[tuple[str, str]] = []
        self.unreadable: list[tuple[str, str]] = []

    def report(self, where: str, what: str) -> None:
        if what.startswith("unreadable image"):
            self.unreadable.append((where, what))
            return
        super().report(where, what)
        self.reports.append((where, what))


def _read(source: Path, layout: str, problems: Problems) -> tuple[list[FaceImage], set[Path]]:
    """The records of all parts, and the pictures among them that have no annotation.

    To YOLO's tools a picture without a label file is one without faces; but it may also be one that nobody has
    looked at.
    """
    records, unlabelled = [], set()
    for part in [part for part in PARTS if has_part(source, layout, part)] or PARTS[:1]:
        found = read_data_set(source, layout, part, problems)
        records += found
        yolo = find_yolo(source, part) if layout in ("auto", "yolo") else None
        if yolo is not None:
            labels = {r.path: (yolo.labels / r.path.relative_to(yolo.images)).with_suffix(".txt") for r in found}
            unlabelled |= {path.resolve() for path, label in labels.items() if not label.is_file()}
    return records, unlabelled


def _name(source: Path, path: Path) -> str:
    """The path relative to the data set, by its letters: links are not followed."""
    return Path(os.path.relpath(path, source)).as_posix()


def _merged(path: Path, records: Iterable[FaceImage]) -> FaceImage:
    boxes = np.concatenate([record.boxes for record in records])
    ignored = np.concatenate([record.ignored for record in records])
    seen = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return face_image(path, boxes[seen].tolist(), ignored[seen].tolist())


def _doubted(reports: Iterable[tuple[str, str]]) -> set[str]:
    """Names, or stems, of the pictures that may lack a face because an annotation is malformed."""
    places: dict[Path, list[str]] = defaultdict(list)
    for where, what in reports:
        if what.partition(":")[0] in _HARMLESS:
            continue
        found = _WHERE.fullmatch(where)
        if found is None:
            raise DataError(f"{where}: {what}. It can't be told which picture this is of: mend it")
        places[Path(found["file"])].append(found["place"] or "")
    names: set[str] = set()
    for file, those in places.items():
        names |= _of_coco(file, those) if file.suffix == ".json" else _of_text(file, those)
    return names


def _of_text(file: Path, places: list[str]) -> set[str]:
    """The picture that a file of YOLO or VOC is named as or names, or those that are listed above these lines."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    names = {file.stem, *re.findall(r"<filename>\s*([^<]*?)\s*</filename>", text)}
    bad = {int(place) for place in places if place.isdecimal()}
    listed = ""
    for number, line in enumerate(text.splitlines(), 1):
        path = Path(line.strip().removeprefix("#").strip())
        listed = path.name if path.suffix.lower() in IMAGE_SUFFIXES else listed
        if number in bad:
            names.add(listed)
    return names


def _of_coco(file: Path, places: list[str]) -> set[str]:
    """The pictures of these annotations of a COCO file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    bad, owners = set(places), set()
    for number, annotation in enumerate(content["annotations"]):
        own = annotation.get("id", f"at place {number}") if isinstance(annotation, dict) else f"at place {number}"
        if f"annotation {own}" in bad:
            owner = annotation.get("image_id") if isinstance(annotation, dict) else None
            if not isinstance(owner, int | str):
                raise DataError(f"{file}: annotation {own}: expected an image_id, got {owner!r:.80}: mend it")
            owners.add(owner)
    images = [
        image for image in content["images"] if isinstance(image, dict) and isinstance(image.get("id"), int | str)
    ]
    return {Path(str(image.get("file_name"))).name for image in images if image["id"] in owners}


def _sort_files(source: Path, plan: Plan) -> None:
    """Adds all files that the annotations do not mention."""
    for folder, folders, files in os.walk(source):
        here = Path(folder)
        for name in sorted(folders):
            if name.startswith(".") or (here / name).is_symlink():
                plan.not_copied.append((here / name).relative_to(source).as_posix() + "/")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (here / name for name in sorted(files)):
            name = path.relative_to(source).as_posix()
            if name not in plan.pictures and name not in plan.left_out:
                _sort_file(source, path, name, plan)


def _sort_file(source: Path, path: Path, name: str, plan: Plan) -> None:
    if not path.is_file() or not path.resolve().is_relative_to(source.resolve()):
        plan.not_copied.append(name)  # a pipe, a broken link, a link to elsewhere
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        plan.unannotated.append(name)
    elif path.suffix.lower() in ANNOTATION_SUFFIXES and name != MANIFEST:
        reason = _why_no_annotation(path)
        if reason is None:
            plan.annotations.append(name)
        else:
            plan.left_out[name] = reason
    else:
        (plan.unannotated if _is_picture(path) else plan.not_copied).append(name)


def _why_no_annotation(path: Path) -> str | None:
    """Why a file isn't copied, whatever its name says."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return f"expected a readable file, got {error.strerror}"
    if _NO_TEXT.search(data):
        return "expected text, got something else"
    if _EMBEDDED.search(data) or _is_picture(io.BytesIO(data)):
        return "expected annotations without pictures, got a picture in them"
    return None


def _is_picture(file: Path | io.BytesIO) -> bool:
    try:
        with Image.open(file):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:
        return True  # Pillow knew it, and then it was damaged
