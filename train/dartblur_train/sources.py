"""Which data a run trains on and is measured on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from .data.cache import ImageCache, ImageSet, read_bgr, report_unreadable
from .data.formats import read_data_set
from .data.labels import FaceImage
from .data.problems import DataError, Problems
from .data.shards import ShardSet

log = logging.getLogger(__name__)

WEIGHTS = {"widerface": 0.85, "celeba": 0.1, "lfw": 0.05}
"""The sets that are looked for in a folder that holds several, and how often a sample's image comes from each."""


@dataclass(frozen=True)
class DataArgs:
    """Where pictures and faces come from.

    Attributes:
        folder: a data set, or a folder with ``widerface/`` and, if wanted, ``celeba/`` and ``lfw/``.
        layout: of the data set, see `read_data_set`; ``auto`` looks.
        shards: WebDataset shards to train on instead, like ``train-{000000..000099}.tar``; `folder` is then only for
            validation.
        on_bad_data: ``refuse`` stops at the first bad line or picture; ``skip`` counts and reports them.
        validation_share: how much of the validation part is learned from as well, 0 up to but not 1: the pictures
            that it lists first. Only the others are measured on then. For weights that ship, once all choices are
            made.

    Raises:
        DataError: `validation_share` is out of range, or asked for beside shards.
    """

    folder: Path
    layout: str = "auto"
    shards: str | None = None
    on_bad_data: Literal["refuse", "skip"] = "refuse"
    validation_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share < 1:
            raise DataError(
                "validation share: expected 0 or more and less than 1, so that pictures are left to measure on, "
                f"got {self.validation_share}"
            )
        if self.validation_share and self.shards is not None:
            raise DataError("validation share: expected none beside shards, which hold all that is learned from")

    def problems(self) -> Problems:
        """A new account of bad data."""
        return Problems(self.on_bad_data)


def open_training_sets(data: DataArgs, several: bool = True) -> tuple[list[ImageSet], list[float]]:
    """The training part, decoded, and how often each of its sets is drawn from.

    Args:
        data: where.
        several: also the sets beside ``widerface/``, whose boxes are less exact.
    """
    problems = data.problems()
    if data.shards is not None:
        return [ShardSet(data.shards, problems=problems)], [1.0]
    sets: list[ImageSet] = []
    weights = []
    for name, folder in _folders(data.folder).items():
        if several or name in ("", "widerface"):
            records = read_data_set(folder, data.layout, "train", problems)
            if data.validation_share and name in ("", "widerface"):
                records = records + _validation(data, problems)[0]
            sets.append(ImageCache(records, problems))
            weights.append(WEIGHTS.get(name, 1.0))
    _tell(problems)
    return sets, weights


def read_validation(data: DataArgs, most: int | None = None) -> list[FaceImage]:
    """The validation pictures that are measured on and can be read; at most so many, evenly drawn."""
    problems = data.problems()
    records = _validation(data, problems)[1]
    if most is not None and most < len(records):
        records = [records[int(index)] for index in np.linspace(0, len(records) - 1, most)]
    # Decoded once, to know; they are too many to keep.
    records = _readable(records, problems)
    _tell(problems)
    return records


def tell_problems(sets: Sequence[ImageSet]) -> None:
    """Says what has been skipped, also by the processes that read: shards show what is wrong only then."""
    for problems in {id(item.problems): item.problems for item in sets}.values():
        _tell(problems)


def _validation(data: DataArgs, problems: Problems) -> tuple[list[FaceImage], list[FaceImage]]:
    """The pictures of the validation part that are learned from and those that are measured on.

    As listed, not drawn: data sets list a place or an event together, so what is measured on is of other ones.
    """
    folder = _folders(data.folder).get("widerface", data.folder)
    records = read_data_set(folder, data.layout, "val", problems)
    learned = min(round(data.validation_share * len(records)), len(records) - 1)
    return records[:learned], records[learned:]


def _folders(folder: Path) -> dict[str, Path]:
    found = {name: folder / name for name in WEIGHTS if (folder / name).is_dir()}
    return found if "widerface" in found else {"": folder}


def _readable(records: list[FaceImage], problems: Problems) -> list[FaceImage]:
    def error_of(record: FaceImage) -> DataError | None:
        try:
            read_bgr(record.path)
        except DataError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        errors = list(pool.map(error_of, records))
    for record, error in zip(records, errors, strict=True):
        if error is not None:
            report_unreadable(record.path, error, problems)
    return [record for record, error in zip(records, errors, strict=True) if error is None]


def _tell(problems: Problems) -> None:
    if problems.count:
        log.warning("skipped bad data: %s", problems.summary())
