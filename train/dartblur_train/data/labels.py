"""Readers of face annotations: WIDER FACE's own lists and RetinaFace's ``label.txt``.

Both become `FaceImage` records: a path and boxes in xyxy pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class DataError(ValueError):
    """A data set is missing or malformed; the message names file and line."""


@dataclass(frozen=True)
class FaceImage:
    """An annotated image.

    Attributes:
        path: the image file.
        boxes: faces, float32 ``[n, 4]``, xyxy pixels.
        ignored: bool ``[n]``; faces that are neither to be found nor to be missed.
        landmarks: float32 ``[n, 5, 2]``, x and y in pixels; -1 where unknown.
    """

    path: Path
    boxes: NDArray[np.float32]
    ignored: NDArray[np.bool_]
    landmarks: NDArray[np.float32]


def read_retinaface_labels(label_file: Path, image_dir: Path) -> list[FaceImage]:
    """Reads RetinaFace's format: ``# path`` and a line ``x y w h (x y flag) * 5 score`` for each face.

    Raises:
        DataError: the file is missing, or a line is not of this form.
    """
    records: list[FaceImage] = []
    path: Path | None = None
    rows: list[list[float]] = []
    for number, line in enumerate([*_lines(label_file), "#"], 1):
        if line.startswith("#"):
            if path is not None:
                records.append(_face_image(path, rows))
            path, rows = image_dir / line[1:].strip(), []
        elif line.strip():
            try:
                row = [float(word) for word in line.split()]
            except ValueError:
                row = []
            if len(row) < 4 or path is None:
                raise DataError(f"{label_file}:{number}: expected 'x y w h ...', got {line.strip()!r}")
            rows.append(row)
    return records


def read_wider_labels(list_file: Path, image_dir: Path) -> list[FaceImage]:
    """Reads WIDER FACE's ``wider_face_*_bbx_gt.txt``: path, count, ``x y w h blur expr illum invalid occl pose``.

    Faces marked ``invalid`` are ignored ones.

    Raises:
        DataError: the file is missing, or a line is not of this form.
    """
    records: list[FaceImage] = []
    lines = [line.strip() for line in _lines(list_file)]
    at = 0
    while at < len(lines):
        try:
            path, count = image_dir / lines[at], int(lines[at + 1])
            # A picture without a face is followed by one line of zeros.
            rows = [[float(word) for word in line.split()] for line in lines[at + 2 : at + 2 + max(count, 1)]]
        except (ValueError, IndexError) as error:
            raise DataError(f"{list_file}:{at + 1}: expected a path, a count and boxes: {error}") from error
        at += 2 + max(count, 1)
        faces = rows[:count]
        invalid = [len(row) > 7 and row[7] == 1 for row in faces]
        records.append(_face_image(path, [row[:4] for row in faces], invalid))
    return records


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(f"{file} is not there: see train/README.md for the layout of a data set")
    return file.read_text().splitlines()


def _face_image(path: Path, rows: list[list[float]], ignored: list[bool] | None = None) -> FaceImage:
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in (row[:4] for row in rows)], np.float32).reshape(-1, 4)
    empty = (boxes[:, 2] - boxes[:, 0] < 1) | (boxes[:, 3] - boxes[:, 1] < 1)
    marks = np.full((len(rows), 5, 2), -1, np.float32)
    for mark, row in zip(marks, rows, strict=True):
        if len(row) >= 19:
            mark[:] = np.array(row[4:19], np.float32).reshape(5, 3)[:, :2]
    return FaceImage(path, boxes, empty | np.array(ignored or [False] * len(rows), bool), marks)
