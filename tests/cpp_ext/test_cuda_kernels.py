"""The CUDA kernels, run on the processor by ``cuda_emulation``, beside the native operations: equal to the last bit.

With DARTBLUR_SANITIZE=1 the kernels are built with the address and undefined behaviour sanitizers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dartblur_ops as ops
from dartblur_ops import cuda

SANITIZED = os.environ.get("DARTBLUR_SANITIZE") == "1"
CASES = settings(
    max_examples=10 if SANITIZED else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.sampled_from(["rectangle", "ellipse"])

pytestmark = pytest.mark.usefixtures("emulated_cuda")


class OnDevice:
    """An array as a CUDA library would show it."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        array = self.array
        return {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, not array.flags.writeable),
            "strides": array.strides,
            "version": 3,
        }


@pytest.fixture(autouse=True, scope="module")
def orders():
    """Hypothesis chooses in which order threads and blocks run: any must do."""
    yield
    os.environ.pop("DARTBLUR_EMULATION_ORDER", None)


@st.composite
def batches(draw, longest=70):
    """Noise frames; an array of their own, or views with rows apart, at odd addresses, or upside down."""
    os.environ["DARTBLUR_EMULATION_ORDER"] = draw(st.sampled_from(["forward", "backward", "shuffled"]))
    count, height, width = draw(st.integers(1, 2)), draw(st.integers(1, longest)), draw(st.integers(1, longest))
    noise = np.random.default_rng(draw(SEEDS)).integers(0, 256, (count, height + 5, width + 7, 3), dtype=np.uint8)
    layout = draw(st.sampled_from(["own", "aligned", "odd", "flipped"]))
    if layout == "own":
        return noise[:, :height, :width].copy()
    if layout == "aligned":
        return noise[:, :, : (width + 7) // 4 * 4].copy()[:, 2 : 2 + height, 4 : 4 + width]
    return noise[:, 2 : 2 + height, 3 : 3 + width] if layout == "odd" else noise[:, 1 : 1 + height, :width][:, ::-1]


def coordinates(side):
    ordinary = st.floats(-0.5 * side, 1.5 * side, width=32)
    return (
        ordinary
        | st.sampled_from([0.0, 0.5, 1.0, side - 0.25, float(side)])
        | st.sampled_from([-3e38, -1e9, 1e9, 3e38])
    )


@st.composite
def scenes(draw, longest=70, most=5):
    """Frames and the slots of each: boxes inside, across the border, beside the frame, one over the other, or empty."""
    frames = draw(batches(longest))
    slots = draw(st.integers(0, most))
    x, y = coordinates(frames.shape[2]), coordinates(frames.shape[1])
    boxes = draw(st.lists(st.tuples(x, y, x, y), min_size=len(frames) * slots, max_size=len(frames) * slots))
    boxes = np.array(boxes, np.float32).reshape(len(frames), slots, 4)
    if draw(st.booleans()):  # sorted corners, since most random corners would make empty boxes
        boxes = np.concatenate(
            [np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])], 2
        )
    return frames, np.ascontiguousarray(boxes)


@st.composite
def ratings(draw):
    """Scores are drawn from a seed; which threshold, and by how much boxes are grown."""
    return draw(st.none() | SEEDS), draw(st.sampled_from([0.0, 0.5, 1.0])), draw(st.sampled_from([1.0, 1.15, 2.5]))


def scored(boxes, rating):
    """The door's arguments, and for each frame the slots that count and their grown boxes."""
    seed, threshold, scale = rating
    scores = None
    counts = np.ones(boxes.shape[:2], bool)
    if seed is not None:
        scores = np.random.default_rng(seed).choice([0, 0.25, 0.5, 0.75, 1, np.nan], boxes.shape[:2]).astype(np.float32)
        counts = ~(scores < threshold)
    bounded = np.clip(boxes, -(2**20), 2**20)
    centre, half = (
        (bounded[..., :2] + bounded[..., 2:]) / 2,
        (bounded[..., 2:] - bounded[..., :2]) / 2 * np.float32(scale),
    )
    grown = boxes if scale == 1 else np.concatenate([centre - half, centre + half], 2)
    arguments = {"scores": None if scores is None else OnDevice(scores), "threshold": threshold, "box_scale": scale}
    return arguments, [(np.flatnonzero(keep), some[keep]) for keep, some in zip(counts, grown, strict=True)]


def copied(frames):
    return np.array(frames)


class TestComposite:
    @CASES
    @given(
        scenes(),
        ratings(),
        st.sampled_from([1, 12, 33]),
        st.sampled_from([1.0, 1.5]),
        SHAPES,
        st.sampled_from([0, 0, 0.3, 1]),
        st.sampled_from([np.float32, np.float16]),
    )
    def test_is_that_of_the_processor(self, scene, rating, side, context, shape, feather, dtype):
        frames, boxes = scene
        arguments, kept = scored(boxes, rating)
        random = np.random.default_rng(boxes.size)
        patches = random.uniform(-0.2, 1.2, (*boxes.shape[:2], 3, side, side)).astype(dtype)
        patches[:, :, 0, side // 2] = np.nan
        expected = copied(frames)
        for frame, squares, (slots, grown) in zip(expected, patches, kept, strict=True):
            ops.composite(frame, squares[slots].astype(np.float32), grown, context, shape, feather)
        cuda.composite(OnDevice(frames), OnDevice(patches), OnDevice(boxes), context, shape, feather, **arguments)
        np.testing.assert_array_equal(frames, expected)

    @pytest.mark.parametrize("shape", ["rectangle", "ellipse"])
    def test_of_many_large_faces(self, shape):
        """Several tiles for each block, more slots than bits of a word, most of them one over the other."""
        random = np.random.default_rng(0)
        frames = random.integers(0, 256, (1, 150, 333, 3), dtype=np.uint8)
        corners = random.uniform(-30, 300, (40, 2))
        sizes = random.choice([5, 40, 200], (40, 2))
        boxes = np.concatenate([corners, corners + sizes], 1)[None].astype(np.float32)
        patches = random.random((1, 40, 3, 64, 64), np.float32)
        expected = copied(frames)
        ops.composite(expected[0], patches[0], boxes[0], 1.6, shape)
        cuda.composite(OnDevice(frames), OnDevice(patches), OnDevice(boxes), 1.6, shape)
        np.testing.assert_array_equal(frames, expected)

    def test_takes_a_frame_without_a_batch(self):
        frame, expected = np.full((20, 30, 3), 9, np.uint8), np.full((20, 30, 3), 9, np.uint8)
        patches, boxes = np.ones((1, 3, 12, 12), np.float32), np.array([[3, 4, 9, 11]], np.float32)
        ops.composite(expected, patches, boxes)
        cuda.composite(OnDevice(frame), OnDevice(patches), OnDevice(boxes))
        np.testing.assert_array_equal(frame, expected)


class TestLetterbox:
    @CASES
    @given(batches(), st.tuples(st.integers(1, 70), st.integers(1, 70)))
    def test_is_that_of_the_processor(self, frames, size):
        out = np.full((len(frames), 3, *size), 77, np.float32)
        result, scale = cuda.letterbox(OnDevice(frames), size, given_out := OnDevice(out))
        assert result is given_out
        for frame, planes in zip(frames, out, strict=True):
            expected, expected_scale = ops.letterbox(frame, size)
            np.testing.assert_array_equal(planes, expected)
            assert scale == expected_scale

    def test_large_pools(self):
        frame, out = (
            np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8),
            np.empty((3, 1, 2), np.float32),
        )
        cuda.letterbox(OnDevice(frame), (1, 2), OnDevice(out))
        np.testing.assert_array_equal(out, ops.letterbox(frame, (1, 2))[0])


class TestCropFaces:
    @CASES
    @given(scenes(longest=40, most=3), st.sampled_from([1, 12, 33]), st.sampled_from([1.0, 1.6, 2.0]), st.booleans())
    def test_is_that_of_the_processor(self, scene, side, context, blur):
        frames, boxes = scene
        out = np.full((*boxes.shape[:2], 3, side, side), np.nan, np.float32)
        cuda.crop_faces(OnDevice(frames), OnDevice(boxes), side, context, blur, out=OnDevice(out))
        for frame, places, patches in zip(frames, boxes, out, strict=True):
            np.testing.assert_array_equal(patches, ops.crop_faces(frame, places, side, context, blur))

    def test_boxes_that_are_not_finite_yield_finite_patches(self):
        frame, out = np.full((9, 9, 3), 51, np.uint8), np.full((1, 3, 8, 8), np.nan, np.float32)
        boxes = np.array([[np.nan, 0, np.inf, 4]], np.float32)
        cuda.crop_faces(OnDevice(frame), OnDevice(boxes), 8, out=OnDevice(out))
        np.testing.assert_allclose(out, 0.2, atol=1e-6)


IN_PLACE = {
    "gaussian": lambda door, frame, boxes, **slots: door.gaussian(frame, boxes, **slots),
    "pixelate": lambda door, frame, boxes, **slots: door.pixelate(frame, boxes, 3, **slots),
    "pixelate finely": lambda door, frame, boxes, **slots: door.pixelate(frame, boxes, 12, **slots),
    "solid": lambda door, frame, boxes, **slots: door.solid(frame, boxes, (1, 22, 255), **slots),
}


@pytest.mark.parametrize("name", IN_PLACE)
class TestRedaction:
    @CASES
    @given(scenes(most=3), ratings())
    def test_is_that_of_the_processor(self, name, scene, rating):
        frames, boxes = scene
        arguments, kept = scored(boxes, rating)
        expected = copied(frames)
        for frame, (_, grown) in zip(expected, kept, strict=True):
            IN_PLACE[name](ops, frame, grown)
        IN_PLACE[name](cuda, OnDevice(frames), OnDevice(boxes), **arguments)
        np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("corner", range(4))
def test_a_box_that_is_not_finite_covers_the_whole_frame(bad, corner):
    boxes = np.array([[3, 4, 9, 11], [3, 4, 9, 11]], np.float32)
    boxes[1, corner] = bad
    frame = np.full((13, 21, 3), 100, np.uint8)
    cuda.solid(
        OnDevice(frame), OnDevice(boxes), (1, 2, 3), scores=OnDevice(np.array([1, 0], np.float32)), threshold=0.5
    )
    assert (frame == 100).any()  # the slot does not count
    cuda.solid(OnDevice(frame), OnDevice(boxes), (1, 2, 3))
    assert (frame == (1, 2, 3)).all()
    cuda.composite(OnDevice(frame), OnDevice(np.full((2, 3, 12, 12), np.nan, np.float32)), OnDevice(boxes))
    assert (frame == 0).all()


def test_more_slots_than_there_is_room_for_are_refused():
    boxes = np.zeros((4097, 4), np.float32)
    with pytest.raises(ops.OpsError, match=r"boxes: expected at most 4096 boxes for a frame, got float32 \[4097, 4\]"):
        cuda.solid(OnDevice(np.zeros((4, 4, 3), np.uint8)), OnDevice(boxes))


@pytest.mark.skipif(SANITIZED, reason="this is the sanitized run")
def test_under_sanitizers():
    """All of the above again, stopped by the first access out of bounds or undefined operation."""
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(library := found.stdout.strip()).is_absolute():
        pytest.skip("g++ has no address sanitizer here")
    environment = {
        **os.environ,
        "DARTBLUR_SANITIZE": "1",
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
