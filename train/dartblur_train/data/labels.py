"""Readers of face annotations: WIDER FACE's own lists and RetinaFace's ``label.txt``.

Both become `FaceImage` records: a path and boxes in xyxy pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .problems import DataError, Problems

__all__ = ["DataError", "FaceImage", "face_image", "is_box", "read_retinaface_labels", "read_wider_labels"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

FARTHEST = 1e9
"""Pixels; a coordinate beyond it is not one, nor would float32 hold it."""


@dataclass(frozen=True)
class FaceImage:
    """An annotated image.

    Attributes:
        path: the image file.
        boxes: faces, float32 ``[n, 4]``, xyxy pixels; they may reach over the image's edge.
        ignored: bool ``[n]``; faces that are neither to be found nor to be missed.
        landmarks: float32 ``[n, 5, 2]``, x and y in pixels; -1 where unknown.
    """

    path: Path
    boxes: NDArray[np.float32]
    ignored: NDArray[np.bool_]
    landmarks: NDArray[np.float32]


def face_image(
    path: Path,
    boxes: Sequence[Sequence[float]],
    ignored: Sequence[bool] | None = None,
    landmarks: Sequence[NDArray[np.float32] | None] | None = None,
) -> FaceImage:
    """A record from xyxy boxes in pixels; faces under a pixel are ignored ones, landmarks that are None unknown."""
    faces = np.array(boxes, np.float32).reshape(-1, 4)
    tiny = (faces[:, 2:] - faces[:, :2] < 1).any(1)
    marks = np.full((len(faces), 5, 2), -1, np.float32)
    for row, known in enumerate(landmarks or ()):
        if known is not None:
            marks[row] = known
    return FaceImage(path, faces, tiny | np.array(ignored or [False] * len(faces), bool), marks)


def is_box(xywh: Sequence[float], where: str, problems: Problems) -> bool:
    """Whether ``x y w h`` is a box in finite pixels with an area; what is not one is reported."""
    if not all(abs(value) < FARTHEST for value in xywh):  # False for NaN
        kind = "box that is not finite"
    elif min(xywh[2:]) < 0:
        kind = "box of negative size"
    elif min(xywh[2:]) == 0:
        kind = "box of no area"
    else:
        return True
    problems.report(where, f"{kind}: expected finite x and y, w and h above 0, got {_words(xywh)}")
    return False


def read_retinaface_labels(label_file: Path, image_dir: Path, problems: Problems | None = None) -> list[FaceImage]:
    """Reads RetinaFace's format: ``# path`` and a line ``x y w h (x y flag) * 5 score`` for each face.

    Landmarks and score may be absent. Faces of zero width or height are ignored ones: see `read_wider_labels`.

    Args:
        label_file: the list.
        image_dir: what the paths in it are relative to.
        problems: takes lines and boxes that are malformed; None refuses them.

    Raises:
        DataError: the file is missing, or something in it is refused.
    """
    problems = problems or Problems()
    records: list[FaceImage] = []
    for _, path, block in _blocks(label_file, "#", problems):
        faces, marks = [], []
        for number, line in block:
            row = _numbers(line)
            where = f"{label_file}:{number}"
            if len(row) not in (4, 5, 19, 20):
                problems.report(where, f"malformed line: expected 'x y w h' and 15 numbers of landmarks, got {line!r}")
            elif _is_listed_face(row[:4], where, problems):
                faces.append(_xyxy(row))
                marks.append(_landmarks(row[4:19], where, problems) if len(row) > 5 else None)
        records.append(face_image(image_dir / path, faces, None, marks))
    return records


def read_wider_labels(list_file: Path, image_dir: Path, problems: Problems | None = None) -> list[FaceImage]:
    """Reads WIDER FACE's ``wider_face_*_bbx_gt.txt``: path, count, ``x y w h blur expr illum invalid occl pose``.

    Faces marked ``invalid`` are ignored ones. So are those of zero width or height: each published list has one, so
    they are counted and never refused.

    Args:
        list_file: the list.
        image_dir: what the paths in it are relative to.
        problems: takes lines and boxes that are malformed; an image whose count is wrong is left out. None refuses.

    Raises:
        DataError: the file is missing, or something in it is refused.
    """
    problems = problems or Problems()
    records: list[FaceImage] = []
    for number, path, block in _blocks(list_file, "", problems):
        where, count = f"{list_file}:{number + 1}", block[0][1] if block else "nothing"
        if not count.isdecimal():
            problems.report(where, f"malformed count: expected the number of faces of {path}, got {count!r}")
            continue
        rows = block[1:]
        if int(count) == 0 and len(rows) <= 1:
            rows = []  # a picture without a face is followed by one line of zeros
        if len(rows) != int(count):
            problems.report(where, f"wrong count: expected {count} lines of faces of {path}, got {len(rows)}")
            continue
        faces = []
        for number, line in rows:
            row = _numbers(line)
            if len(row) < 4:
                problems.report(f"{list_file}:{number}", f"malformed line: expected 'x y w h ...', got {line!r}")
            elif _is_listed_face(row[:4], f"{list_file}:{number}", problems):
                faces.append(row)
        invalid = [len(row) > 7 and row[7] == 1 for row in faces]
        records.append(face_image(image_dir / path, [_xyxy(row) for row in faces], invalid))
    return records


def _is_listed_face(xywh: Sequence[float], where: str, problems: Problems) -> bool:
    """As `is_box`, but a zero width or height only counts: WIDER FACE is published with such faces."""
    if min(xywh[2:]) == 0 and max(map(abs, xywh)) < FARTHEST:
        problems.note(where, f"box of no area: expected w and h above 0, got {_words(xywh)}; the face is ignored")
        return True
    return is_box(xywh, where, problems)


def _landmarks(numbers: Sequence[float], where: str, problems: Problems) -> NDArray[np.float32] | None:
    """``x y flag`` of five points as ``[5, 2]``; None, and reported, where they are not finite."""
    if all(abs(number) < FARTHEST for number in numbers):
        return np.array(numbers, np.float32).reshape(5, 3)[:, :2]
    problems.report(where, f"landmarks that are not finite: expected 15 finite numbers, got {_words(numbers)}")
    return None


def _blocks(file: Path, mark: str, problems: Problems) -> Iterator[tuple[int, str, list[tuple[int, str]]]]:
    """Each image's path with the number of its line, and the lines below it with theirs; paths begin with `mark`.

    Without a mark they are known by their suffix, so that a line too few or too many harms one image only.
    """
    at, path = 0, ""
    block: list[tuple[int, str]] = []
    for number, raw in enumerate(_lines(file), 1):
        line = raw.strip()
        if line.startswith(mark) if mark else Path(line).suffix.lower() in IMAGE_SUFFIXES:
            if at:
                yield at, path, block
            at, path, block = number, line[len(mark) :].strip(), []
        elif line and not at:
            wanted = f"'{mark} path'" if mark else "the path of an image"
            problems.report(f"{file}:{number}", f"malformed line: expected {wanted} first, got {line!r}")
        elif line:
            block.append((number, line))
    if at:
        yield at, path, block


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(f"{file} is not there: see train/README.md for the layout of a data set")
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: expected text in UTF-8, got {error}") from error


def _numbers(line: str) -> list[float]:
    try:
        return [float(word) for word in line.split()]
    except ValueError:
        return []


def _xyxy(row: Sequence[float]) -> list[float]:
    x, y, w, h = row[:4]
    return [x, y, x + w, y + h]


def _words(values: Sequence[float]) -> str:
    return " ".join(str(value).removesuffix(".0")[:20] for value in values)
