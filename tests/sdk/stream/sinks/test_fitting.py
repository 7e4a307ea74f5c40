"""Pictures of another size keep their shape, and all of themselves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dartblur.stream.sinks.fitting import even, fit

SIDES = st.integers(1, 200)


@given(SIDES, SIDES, SIDES, SIDES)
def test_any_size_is_put_into_any_other(w, h, width, height):
    image = np.full((h, w, 3), 200, np.uint8)
    result = fit(image, width, height)
    assert result.shape == (height, width, 3)
    assert result.dtype == np.uint8
    assert set(np.unique(result)) <= {0, 200}
    rows, columns = (np.flatnonzero(result[..., 0].any(axis)) for axis in (1, 0))
    inner_w, inner_h = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    assert result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "one rectangle"
    assert inner_w == width or inner_h == height, "as large as it can be"
    scale = min(width / w, height / h)
    if (width - w, height - h) not in {(0, 1), (1, 0), (1, 1)}:  # those get a border
        assert abs(inner_w - max(1, w * scale)) <= 1
        assert abs(inner_h - max(1, h * scale)) <= 1
        assert abs(columns[0] - (width - 1 - columns[-1])) <= 1, "in the middle"
        assert abs(rows[0] - (height - 1 - rows[-1])) <= 1


def test_the_same_size_costs_nothing():
    image = np.zeros((4, 6, 3), np.uint8)
    assert fit(image, 6, 4) is image


@given(SIDES, SIDES)
def test_an_odd_picture_becomes_even_without_scaling(w, h):
    image = np.random.default_rng(w * 1000 + h).integers(0, 256, (h, w, 3), np.uint8)
    result = fit(image, even(w), even(h))
    assert result.shape[0] % 2 == result.shape[1] % 2 == 0
    assert (result[:h, :w] == image).all()
    assert (result[h:, :w] == image[-1:]).all()
    assert (result[:, w:] == result[:, w - 1 : w]).all()
