"""Which pictures a run learns from, and which it is measured on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dartblur_train.data.labels import DataError
from dartblur_train.sources import DataArgs, open_training_sets, read_validation


def learned(data: DataArgs) -> list[Path]:
    """Pictures of ``widerface/`` that a run learns from."""
    sets, _ = open_training_sets(data, several=False)
    return [record.path for record in sets[0].records]  # type: ignore[attr-defined]


def measured(data: DataArgs) -> list[Path]:
    return [record.path for record in read_validation(data)]


def test_the_validation_part_is_only_measured_on(drawn_faces: Path) -> None:
    data = DataArgs(drawn_faces)
    assert {path.parts[-4] for path in learned(data)} == {"train"}
    assert {path.parts[-4] for path in measured(data)} == {"val"}
    assert len(measured(data)) == 4


@pytest.mark.parametrize(("share", "count"), [(0.25, 1), (0.5, 2), (0.75, 3), (0.99, 3)])
def test_a_share_of_it_is_learned_and_only_the_others_are_measured_on(
    drawn_faces: Path, share: float, count: int
) -> None:
    data, whole = DataArgs(drawn_faces, validation_share=share), DataArgs(drawn_faces)
    assert learned(data) == learned(whole) + measured(whole)[:count]
    assert measured(data) == measured(whole)[count:]


def test_a_set_without_others_beside_it_is_shared_too(drawn_faces: Path) -> None:
    alone = DataArgs(drawn_faces / "widerface", validation_share=0.5)
    assert learned(alone) == learned(DataArgs(drawn_faces, validation_share=0.5))
    assert len(measured(alone)) == 2


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, float("nan")])
def test_a_share_that_leaves_nothing_to_measure_on_is_refused(drawn_faces: Path, share: float) -> None:
    with pytest.raises(DataError, match="expected 0 or more and less than 1"):
        DataArgs(drawn_faces, validation_share=share)


def test_shards_hold_all_that_is_learned_from(drawn_faces: Path) -> None:
    with pytest.raises(DataError, match="beside shards"):
        DataArgs(drawn_faces, shards="train-{000000..000001}.tar", validation_share=0.5)
