"""What is made of a detector's candidates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dartblur.backends.suppression import VOTE_IOU, VOTE_SCORE, faces_of
from dartblur.boxes import pairwise_iou
from dartblur.detections import Detections

NMS = 0.45


def faces(rows: list[tuple[float, ...]], threshold: float = 0.3, cut: tuple[int, ...] = ()) -> Detections:
    """Of rows ``x0, y0, x1, y1, score``, some of which are cut off."""
    array = np.array(rows, np.float32).reshape(-1, 5)
    return faces_of(array[:, :4], array[:, 4], np.isin(np.arange(len(array)), cut), threshold, NMS)


def test_a_box_is_the_mean_of_what_overlaps_it_weighted_by_score_and_overlap() -> None:
    found = faces([(0, 0, 100, 100, 0.6), (20, 0, 120, 100, 0.5), (300, 0, 400, 100, 0.4), (60, 0, 160, 100, 0.31)])
    assert found.scores.tolist() == pytest.approx([0.6, 0.4, 0.31])
    weight = 0.5 * 80 / 120
    left = 20 * weight / (0.6 + weight)
    assert found.boxes[0].tolist() == pytest.approx([left, 0, 100 + left, 100])
    assert found.boxes[1].tolist() == [300, 0, 400, 100], "alone it stays as it is"


def test_what_is_below_the_threshold_votes_all_the_same_and_is_no_face() -> None:
    rows = [(0.0, 0, 100, 100, 0.6), (20, 0, 120, 100, 0.2), (20, 0, 120, 100, VOTE_SCORE / 2), (500, 0, 600, 100, 0.2)]
    found = faces(rows)
    assert len(found) == 1
    left = 20 * (weight := 0.2 * 80 / 120) / (0.6 + weight)
    assert found.boxes[0, 0] == pytest.approx(left)
    lower = faces(rows, threshold=0.15)
    assert lower.boxes[0].tolist() == pytest.approx(found.boxes[0].tolist()), "a box doesn't depend on the threshold"
    assert len(lower) == 2


def test_what_is_cut_off_has_no_vote_and_no_precedence() -> None:
    whole, part = (0.0, 0, 100, 100, 0.5), (0.0, 0, 60, 100, 0.9)
    assert faces([part, whole], cut=(0,)).boxes.tolist() == [list(whole[:4])]
    assert faces([part], cut=(0,)).boxes.tolist() == [list(part[:4])]


def test_nothing_is_nothing() -> None:
    assert len(faces([])) == 0
    assert len(faces([(0, 0, 9, 9, 0.2)])) == 0


SIDE = st.floats(0, 50, width=32)
ROW = st.tuples(SIDE, SIDE, st.floats(1, 60, width=32), st.floats(1, 60, width=32), st.floats(0.03125, 1, width=32))


@given(st.lists(ROW, min_size=1, max_size=20))
def test_each_box_lies_within_those_that_had_a_vote(rows: list[tuple[float, ...]]) -> None:
    candidates = np.array([(x, y, x + w, y + h, score) for x, y, w, h, score in rows], np.float32)
    found = faces([tuple(row) for row in candidates.tolist()])
    best = candidates[np.argmax(candidates[:, 4])]
    if best[4] >= 0.3:
        voters = candidates[pairwise_iou(best[None, :4], candidates[:, :4])[0] > VOTE_IOU][:, :4]
        assert found.scores[0] == best[4]
        assert (found.boxes[0] >= voters.min(0) - 1e-3).all()
        assert (found.boxes[0] <= voters.max(0) + 1e-3).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    else:
        assert len(found) == 0
