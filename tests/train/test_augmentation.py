"""Hardships: what they do to pixels, and that boxes follow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dartblur_train.data.augmentation import (
    FacePaster,
    compress,
    cover_parts,
    hardship,
    move,
    night,
    put_on_mask,
    turn,
)


def picture(seed: int = 0, height: int = 120, width: int = 160) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((20, 20, 1), np.uint8))[:height, :width])


@given(st.integers(0, 7), st.integers(1, 60), st.integers(1, 60))
def test_boxes_turn_with_the_picture(quarters: int, height: int, width: int) -> None:
    random = np.random.default_rng(quarters)
    image = np.zeros((height, width, 3), np.uint8)
    x, y = random.integers(0, (width, height))
    x1, y1 = random.integers((x, y), (width, height)) + 1
    image[y:y1, x:x1] = 255
    turned, boxes = turn(image, np.array([[x, y, x1, y1]], np.float32), quarters)
    expected = np.zeros_like(turned)
    left, top, right, bottom = boxes[0].astype(int)
    expected[top:bottom, left:right] = 255
    assert np.array_equal(turned, expected)


@pytest.mark.parametrize("angle", [0.0, 0.7, np.pi / 2])
def test_motion_blurs_along_its_line_only_and_keeps_the_light(angle: float) -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 250
    moved = move(image, 10, angle)
    rows, columns = np.nonzero(moved[..., 0])
    along = (columns - 20) * np.cos(angle) + (rows - 20) * np.sin(angle)
    across = (rows - 20) * np.cos(angle) - (columns - 20) * np.sin(angle)
    assert np.abs(across).max() <= 1
    assert 4 <= np.abs(along).max() <= 6
    assert abs(int(moved[..., 0].sum()) - 250) <= 10
    assert np.array_equal(move(np.full((30, 30, 3), 77, np.uint8), 9, angle), np.full((30, 30, 3), 77, np.uint8))


def test_night_is_darker_and_still_a_picture() -> None:
    image, random = picture(), np.random.default_rng(1)
    for _ in range(10):
        dark = night(image, random)
        assert 0.35 < dark.mean() / image.mean() < 0.8, "a sixth to a half of the light, in gamma 2.2"
        assert np.corrcoef(dark.ravel(), image.ravel())[0, 1] > 0.8


def test_a_mask_hides_the_lower_half() -> None:
    image = np.full((100, 100, 3), 100, np.uint8)
    put_on_mask(image, (20, 20, 80, 80), (250, 250, 250))
    changed = (image != 100).any(2)
    assert changed[60:75, 35:65].all(), "mouth and chin"
    assert not changed[:45].any(), "eyes and what is above"
    assert not changed[:, :20].any()
    assert not changed[:, 81:].any()


def test_small_faces_are_not_covered_and_large_ones_now_and_then() -> None:
    random = np.random.default_rng(0)
    image = picture()
    faces = np.array([[x, y, x + 8, y + 8] for x in range(0, 150, 10) for y in range(0, 110, 10)], np.float32)
    covered = image.copy()
    cover_parts(covered, faces, random)
    assert np.array_equal(covered, image)
    changed = 0
    for _ in range(200):
        covered = image.copy()
        cover_parts(covered, np.array([[20, 20, 80, 80]], np.float32), random)
        outside = covered != image
        outside[19:82, 19:82] = False
        assert not outside.any()
        changed += not np.array_equal(covered, image)
    assert 2 <= changed <= 30


@given(st.integers(0, 10_000))
def test_pasted_faces_lie_in_the_picture_clear_of_the_others(seed: int) -> None:
    random = np.random.default_rng(seed)
    image, source = picture(seed), picture(seed + 1)
    before = image.copy()
    taken = np.array([[40, 30, 90, 100]], np.float32)
    boxes = FacePaster().paste(image, taken, source, np.array([[10, 10, 80, 90], [0, 0, 9, 9]], np.float32), random)
    for number, box in enumerate(boxes):
        assert (box >= 0).all()
        assert (box <= (160, 120, 160, 120)).all()
        assert np.sqrt((box[2:] - box[:2]).prod()) <= 60
        for other in (taken[0], *np.delete(boxes, number, 0)):
            assert (box[:2] >= other[2:]).any() or (box[2:] <= other[:2]).any()
    assert np.array_equal(image[45:85, 55:75], before[45:85, 55:75]), "the face that was there stays"
    assert len(boxes) or np.array_equal(image, before)


def test_hardship_leaves_most_samples_alone_and_is_repeatable() -> None:
    image = picture()
    same = [np.array_equal(hardship(image, np.random.default_rng(seed)), image) for seed in range(200)]
    assert 0.75 < np.mean(same) < 0.95
    first, second = (hardship(image, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert compress(image, 10).shape == image.shape
