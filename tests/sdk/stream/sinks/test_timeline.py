"""A live stream's time goes forward, whatever its source's clock does."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dartblur.frame import Frame, cover_whole
from dartblur.stream.sinks.timeline import Timeline

PIXEL = np.zeros((1, 1, 3), np.uint8)


def shown(stamps, captured):
    timeline = Timeline()
    return [
        timeline.at(cover_whole(Frame(PIXEL, 0, time, captured=at), "test"))
        for time, at in zip(stamps, captured, strict=True)
    ]


def test_a_good_clock_is_kept():
    stamps = [5.0, 5.04, 5.0401, 7.5, 300.0]
    times = shown(stamps, range(5))
    assert times == pytest.approx([0, 0.04, 0.041, 2.5009, 295.0009])


def test_a_gap_of_any_length_is_kept():
    assert shown([0, 90_000.0], [0, 90_001.0]) == [0, 90_000.0]


@given(st.lists(st.tuples(st.floats(), st.floats(0, 1e6))))
def test_it_always_goes_forward(pairs):
    stamps, captured = [time for time, _ in pairs], sorted(at for _, at in pairs)
    times = shown(stamps, captured)
    assert all(later - earlier > 0.0009 for earlier, later in pairwise(times))
    assert all(np.isfinite(times))
    if times:
        assert times[-1] <= (captured[-1] - captured[0]) + 3601 * len(times)
