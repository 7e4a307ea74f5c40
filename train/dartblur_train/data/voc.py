"""Reader of data sets in Pascal VOC's format: an XML file for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import parse

from .classes import face_classes, part_names
from .labels import IMAGE_SUFFIXES, FaceImage, face_image, is_box
from .problems import Problems


@dataclass(frozen=True)
class VocFiles:
    """Annotation files of a part, and the folder of its images."""

    annotations: list[Path]
    images: Path


@dataclass(frozen=True)
class _Object:
    where: str
    name: str
    corners: list[float]
    difficult: bool


def find_voc(source: Path, part: str) -> VocFiles | None:
    """The files of a part, or None.

    ``ImageSets/Main/<part>.txt`` lists them; without any list in there all of them are training images.
    """
    folder = source / "Annotations"
    images = next((source / name for name in ("JPEGImages", "images") if (source / name).is_dir()), None)
    if images is None or not folder.is_dir():
        return None
    lists = source / "ImageSets" / "Main"
    for name in part_names(part):
        listed = lists / f"{name}.txt"
        if listed.is_file():
            stems = [line.split()[0] for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
            return VocFiles([folder / f"{stem}.xml" for stem in stems], images)
    if part != "train" or any(lists.glob("*.txt")):
        return None
    return VocFiles(sorted(folder.glob("*.xml")), images)


def read_voc(files: VocFiles, problems: Problems, classes: Sequence[str] | None) -> list[FaceImage]:
    """The images of a part with their faces; difficult ones become ignored faces.

    Corners are pixels counted from 1 and belong to the box, as in VOC's own development kit.

    Args:
        files: see `find_voc`.
        problems: takes files and objects that are malformed.
        classes: see `face_classes`.

    Raises:
        DataError: the classes can't be told, or something is refused.
    """
    found: list[tuple[Path, list[_Object]]] = []
    for file in files.annotations:
        root = _parse(file, problems)
        if root is not None and (image := _image(root, file, files.images, problems)) is not None:
            items = (_object(item, f"{file}: object {i}", problems) for i, item in enumerate(root.iter("object"), 1))
            found.append((image, [item for item in items if item is not None]))
    names = {item.name for _, objects in found for item in objects}
    folder = files.annotations[0].parent if files.annotations else files.images
    faces = face_classes(folder, names, classes) if names else set()
    records = []
    for image, objects in found:
        good = [item for item in objects if item.name in faces and is_box(_xywh(item.corners), item.where, problems)]
        boxes = [[x0 - 1, y0 - 1, x1, y1] for x0, y0, x1, y1 in (item.corners for item in good)]
        records.append(face_image(image, boxes, [item.difficult for item in good]))
    return records


def _parse(file: Path, problems: Problems) -> Element | None:
    try:
        root: Element = parse(file).getroot()
        return root
    except (OSError, ParseError, ValueError) as error:  # entities and external references are ValueErrors
        problems.report(str(file), f"malformed file: expected XML, got {error}")
        return None


def _image(root: Element, file: Path, folder: Path, problems: Problems) -> Path | None:
    """The image that a file annotates: the one it names, or else the one named as itself."""
    named = root.findtext("filename", "").strip()
    names = [named] if named else []
    names += [file.stem + suffix for suffix in sorted(IMAGE_SUFFIXES | {suffix.upper() for suffix in IMAGE_SUFFIXES})]
    image = next((folder / name for name in names if (folder / name).is_file()), None)
    if image is None:
        problems.report(str(file), f"missing image: expected {named or file.stem} in {folder}")
    return image


def _object(item: Element, where: str, problems: Problems) -> _Object | None:
    name = item.findtext("name", "").strip()
    corners = [item.findtext(f"bndbox/{corner}", "") for corner in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x0, y0, x1, y1 = (float(corner) for corner in corners)
    except ValueError:
        name = ""
    if not name:
        problems.report(where, f"malformed object: expected a name and bndbox/xmin, ymin, xmax, ymax, got {corners}")
        return None
    difficult = item.findtext("difficult", "0").strip() == "1"
    return _Object(where, name, [x0, y0, x1, y1], difficult)


def _xywh(corners: Sequence[float]) -> list[float]:
    """Of VOC's corners; one pixel less than the box, for equal corners are meant as no box by most tools."""
    x0, y0, x1, y1 = corners
    return [x0, y0, x1 - x0, y1 - y0]
