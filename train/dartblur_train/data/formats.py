"""The door to data sets: one call reads any of the known layouts into `FaceImage` records.

====================  ===============================================================================================
``wider``             ``wider_face_split/wider_face_<part>_bbx_gt.txt``, else ``<part>/label.txt`` in RetinaFace's
                      format; images in ``<part>/images/``
``retinaface``        ``label.txt`` and ``images/``
``coco``              a JSON file (``annotations/instances_<part>*.json`` and others) and images
``yolo``              ``images/<part>/`` and ``labels/<part>/``, or ``<part>/images/`` and ``<part>/labels/``;
                      ``data.yaml`` names the classes
``voc``               ``Annotations/*.xml`` and ``JPEGImages/`` or ``images/``; ``ImageSets/Main/<part>.txt``
====================  ===============================================================================================

``retinaface``, and ``yolo``, ``coco`` and ``voc`` without a name of a part in their paths, hold training images only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from .coco import find_coco, read_coco
from .labels import FaceImage, read_retinaface_labels, read_wider_labels
from .problems import DataError, Problems
from .voc import find_voc, read_voc
from .yolo import find_yolo, read_yolo

LAYOUTS = ("wider", "retinaface", "coco", "yolo", "voc")


def has_part(source: Path, layout: str, part: str) -> bool:
    """Whether `read_data_set` would find this part of a data set; arguments as there."""
    readers = _readers(source, part, Problems("skip"), None)
    return any(reader for name, (_, reader) in readers.items() if layout in ("auto", name))


Reader = Callable[[], list[FaceImage]]


def read_data_set(
    source: Path,
    layout: str = "auto",
    part: str = "train",
    problems: Problems | None = None,
    classes: Sequence[str] | None = None,
) -> list[FaceImage]:
    """Reads the annotations of a data set; the images are not opened, except for their size by ``yolo``.

    Args:
        source: folder of the data set.
        layout: one of `LAYOUTS`, or ``auto`` to recognise it.
        part: ``train`` or ``val``.
        problems: takes what is malformed; None refuses it.
        classes: names of the classes that are faces, for ``coco``, ``yolo`` and ``voc``. None takes the only class
            there is, or else the one named ``face``.

    Raises:
        DataError: the layout isn't there or can't be told, something is refused, or no image is listed.
    """
    if layout not in ("auto", *LAYOUTS):
        raise DataError(f"expected a layout out of auto, {', '.join(LAYOUTS)}, got {layout!r}")
    candidates = _readers(source, part, problems or Problems(), classes)
    if layout != "auto":
        candidates = {layout: candidates[layout]}
    found = [(name, reader) for name, (_, reader) in candidates.items() if reader is not None]
    if not found:
        looked = "; ".join(f"{name}: {needed}" for name, (needed, _) in candidates.items())
        raise DataError(f"{source}: expected the part {part!r} of a data set, found none. Looked for {looked}")
    if len(found) > 1:
        raise DataError(f"{source}: expected one layout, it could be {' or '.join(n for n, _ in found)}: name it")
    records = found[0][1]()
    if not records:
        raise DataError(f"{source}: expected images in the part {part!r}, layout {found[0][0]}; got none")
    return records


def _readers(
    source: Path, part: str, problems: Problems, classes: Sequence[str] | None
) -> dict[str, tuple[str, Reader | None]]:
    """For each layout what it would need, and a reader if that is there."""
    official, published = source / "wider_face_split" / f"wider_face_{part}_bbx_gt.txt", source / part / "label.txt"
    wider = [
        partial(read, file, source / part / "images", problems)
        for read, file in ((read_wider_labels, official), (read_retinaface_labels, published))
        if file.is_file()
    ]
    single = source / "label.txt"
    listed = part == "train" and single.is_file()
    coco, yolo, voc = find_coco(source, part), find_yolo(source, part), find_voc(source, part)
    return {
        "wider": (f"wider_face_split/{official.name} or {part}/label.txt", wider[0] if wider else None),
        "retinaface": (
            "label.txt and images/ (for 'train')",
            partial(read_retinaface_labels, single, source / "images", problems) if listed else None,
        ),
        "coco": (
            f"annotations/instances_{part}*.json, {part}/_annotations.coco.json or {part}*.json",
            partial(read_coco, coco, problems, classes) if coco else None,
        ),
        "yolo": (
            f"images/{part}/ and labels/{part}/, or {part}/images/ and {part}/labels/",
            partial(read_yolo, yolo, problems, classes) if yolo else None,
        ),
        "voc": (
            f"Annotations/*.xml with JPEGImages/ or images/, and ImageSets/Main/{part}.txt",
            partial(read_voc, voc, problems, classes) if voc else None,
        ),
    }
