"""WIDER FACE's easy, medium and hard parts: which faces of the validation set count in each.

The lists are those of the official evaluation tools, ``wider_{easy,medium,hard}_val.mat``. A face that is not in a
list is ignored there. Our AP is the exact area under the curve; the official tools sample it at 1000 scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from ..data.labels import DataError, FaceImage

DIFFICULTIES = ("easy", "medium", "hard")


def read_difficulty(folder: Path, difficulty: str, records: Sequence[FaceImage]) -> list[FaceImage]:
    """The records with all faces ignored that the list of this difficulty does not name.

    Args:
        folder: with ``wider_<difficulty>_val.mat``.
        difficulty: one of `DIFFICULTIES`.
        records: of the validation set, faces in the order of the published annotations.

    Raises:
        DataError: the file is missing or is no such list, or does not fit the records.
    """
    file = folder / f"wider_{difficulty}_val.mat"
    try:
        lists = _lists(loadmat(file))
    except (OSError, ValueError, KeyError, IndexError, MatReadError, NotImplementedError) as error:
        raise DataError(f"{file}: expected a list of WIDER FACE's evaluation tools: {error}") from error
    return [_only(record, lists.get(record.path.stem), file) for record in records]


def _lists(content: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Picture's name without suffix to the 1-based numbers of its faces."""
    names, numbers = content["file_list"], content["gt_list"]
    found = {}
    for event in range(len(names)):
        for name, faces in zip(names[event][0], numbers[event][0], strict=True):
            found[str(name[0][0])] = np.asarray(faces[0], int).reshape(-1)
    return found


def _only(record: FaceImage, numbers: np.ndarray[Any, Any] | None, file: Path) -> FaceImage:
    ignored = np.ones(len(record.boxes), bool)
    if numbers is not None and len(numbers):
        if numbers.max() > len(ignored) or numbers.min() < 1:
            raise DataError(
                f"{file}: {record.path.name}: expected faces 1 to {len(ignored)}, the list names {numbers.max()}"
            )
        ignored[numbers - 1] = False
    return replace(record, ignored=ignored | record.ignored)
