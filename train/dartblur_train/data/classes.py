"""Which classes of a data set are faces, and by which names its parts go."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from .problems import DataError

PART_NAMES = {"train": ("train",), "val": ("val", "valid", "validation")}
"""Tools disagree on what the second part is called."""


def part_names(part: str) -> tuple[str, ...]:
    """Names under which a part may be found."""
    return PART_NAMES.get(part, (part,))


def face_classes(source: Path, names: Collection[str], wanted: Sequence[str] | None) -> set[str]:
    """The names of the classes that are faces.

    Args:
        source: file or folder that the error is to name.
        names: all classes of the data set.
        wanted: the user's choice; None takes the only class there is, or else the one named ``face``.

    Raises:
        DataError: a chosen class isn't there, or without a choice it can't be told which one is meant.
    """
    there = ", ".join(sorted(names)) or "none"
    if wanted is not None:
        if absent := sorted(set(wanted) - set(names)) or ([] if wanted else ["at least one"]):
            raise DataError(f"{source}: expected the classes {', '.join(absent)}, there are: {there}")
        return set(wanted)
    faces = set(names) if len(names) == 1 else {name for name in names if name.lower() == "face"}
    if not faces:
        raise DataError(f"{source}: expected one class, or one named 'face', there are: {there}. Name those to take")
    return faces
