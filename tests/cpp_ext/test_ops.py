"""The compiled operations against their NumPy reference, OpenCV, and what they promise about single pixels."""

from __future__ import annotations

import math
import threading

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dartblur_ops as ops
from dartblur_ops import OpsError, reference

CASES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
SHAPES = st.sampled_from(["rectangle", "ellipse"])
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def frames(draw, longest=64):
    """Noise, either an array of its own or a view whose rows lie apart (or upside down) in a larger one."""
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    noise = np.random.default_rng(draw(SEEDS)).integers(0, 256, (height + 5, width + 7, 3), dtype=np.uint8)
    layout = draw(st.sampled_from(["own", "view", "flipped"]))
    if layout == "own":
        return noise[:height, :width].copy()
    return noise[2 : 2 + height, 3 : 3 + width] if layout == "view" else noise[1 : 1 + height, :width][::-1]


def coordinates(side):
    ordinary = st.floats(-0.5 * side, 1.5 * side, width=32)
    edges = st.sampled_from([0.0, 0.5, 1.0, side - 0.25, float(side)])
    return ordinary | edges | st.sampled_from([-3e38, -1e9, 1e9, 3e38])


@st.composite
def scenes(draw, longest=64):
    """A frame and boxes that lie inside it, across its border, beside it, or are empty."""
    frame = draw(frames(longest))
    x, y = coordinates(frame.shape[1]), coordinates(frame.shape[0])
    boxes = draw(st.lists(st.tuples(x, y, x, y), max_size=4))
    upright = draw(st.booleans())  # sorted corners, since most random corners would make empty boxes
    boxes = [[*np.sort([b[0], b[2]]), *np.sort([b[1], b[3]])] if upright else list(b) for b in boxes]
    order = [0, 2, 1, 3] if upright else [0, 1, 2, 3]
    return frame, np.array(boxes, np.float32).reshape(-1, 4)[:, order]


def covered(frame, boxes):
    """Which pixels some box covers, counted in exact Python integers."""
    mask = np.zeros(frame.shape[:2], bool)
    for x0, y0, x1, y1 in np.asarray(boxes, np.float64).tolist():
        if x0 < x1 and y0 < y1:
            left, top = max(0, math.floor(x0)), max(0, math.floor(y0))
            mask[top : max(0, math.ceil(y1)), left : max(0, math.ceil(x1))] = True
    return mask


def apart(a, b):
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TestLetterbox:
    @CASES
    @given(frames(), st.tuples(st.integers(1, 64), st.integers(1, 64)))
    def test_matches_the_reference(self, frame, size):
        out, scale = ops.letterbox(frame, size)
        expected, expected_scale = reference.letterbox(frame, size)
        assert scale == expected_scale
        np.testing.assert_allclose(out, expected, atol=0.02)

    @pytest.mark.parametrize(("shape", "size"), [((66, 128), (33, 64)), ((54, 96), (18, 32)), ((80, 60), (20, 15))])
    def test_whole_factors_are_the_area_mean(self, shape, size):
        frame = noise(*shape)
        out, scale = ops.letterbox(frame, size)
        area = cv2.resize(frame.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(out, area.transpose(2, 0, 1), atol=1e-3)
        assert scale == size[0] / shape[0]

    def test_cells_at_the_edge_average_the_pixels_that_exist(self):
        frame = np.zeros((4, 7, 3), np.uint8)
        frame[:, 6] = 200
        out, scale = ops.letterbox(frame, (2, 4))
        assert scale == 0.5
        assert (out[:, :, :3] == 0).all()
        assert (out[:, :, 3] == 200).all()  # a mean with a missing eighth column of 0 would say 100

    def test_rounds_the_picture_and_leaves_the_rest_black(self):
        out, scale = ops.letterbox(np.full((720, 1280, 3), 9, np.uint8), (384, 640))
        assert scale == 0.5
        assert (out[:, :360] == 9).all()
        assert (out[:, 360:] == 0).all()

    @pytest.mark.parametrize("shape", [(16, 24), (15, 40), (24, 31)])
    def test_reuses_the_buffer_and_clears_what_it_held(self, shape):
        frame, out = noise(*shape), np.full((3, 20, 20), 77, np.float32)
        result, _ = ops.letterbox(frame, (20, 20), out)
        assert result is out
        np.testing.assert_array_equal(out, ops.letterbox(frame, (20, 20))[0])

    def test_large_pools_do_not_overflow(self):
        out, _ = ops.letterbox(np.full((5000, 6000, 3), 255, np.uint8), (1, 1))
        np.testing.assert_allclose(out, 255)


class TestCropFaces:
    @CASES
    @given(scenes(), st.sampled_from([1, 2, 12, 33, 48]), st.sampled_from([1.0, 1.5, 1.8]), st.booleans())
    def test_matches_the_reference(self, scene, side, context, blur):
        frame, boxes = scene
        patches = ops.crop_faces(frame, boxes, side, context, blur)
        assert patches.shape == (len(boxes), 3, side, side)
        assert np.isfinite(patches).all()
        np.testing.assert_allclose(patches, reference.crop_faces(frame, boxes, side, context, blur), atol=1e-5)

    def test_samples_pixel_centres(self):
        frame = noise(96, 96)
        patch = ops.crop_faces(frame, [[16, 16, 80, 80]], blur=False)[0]  # grown by a half this is the frame itself
        np.testing.assert_allclose(patch, frame.transpose(2, 0, 1) / 255, atol=1e-6)

    def test_blurs_the_face_and_only_the_face(self):
        frame, boxes = noise(96, 96), [[16, 16, 80, 80]]
        clear, blurred = ops.crop_faces(frame, boxes, blur=False)[0], ops.crop_faces(frame, boxes)[0]
        face = ops.patch_mask(96)[0] == 1
        assert face.sum() == 64 * 64
        np.testing.assert_array_equal(blurred[:, ~face], clear[:, ~face])
        expected = cv2.GaussianBlur(clear.transpose(1, 2, 0), (33, 33), 0, borderType=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(blurred[:, face], expected.transpose(2, 0, 1)[:, face], atol=1e-5)

    @pytest.mark.parametrize(("side", "context", "margin"), [(96, 1.5, 16), (96, 1.0, 0), (64, 2.0, 16), (1, 9.0, 0)])
    def test_margin(self, side, context, margin):
        assert ops.patch_margin(side, context) == margin == reference.patch_margin(side, context)
        mask = ops.patch_mask(side, context)
        np.testing.assert_array_equal(mask, reference.patch_mask(side, context))
        assert mask.sum() == (side - 2 * margin) ** 2


class TestComposite:
    @CASES
    @given(scenes(), st.sampled_from([1, 12, 33]), st.sampled_from([1.0, 1.5]), SHAPES, st.sampled_from([0, 0.3, 1]))
    def test_matches_the_reference(self, scene, side, context, shape, feather):
        frame, boxes = scene
        patches = np.random.default_rng(len(boxes)).uniform(-0.2, 1.2, (len(boxes), 3, side, side)).astype(np.float32)
        patches[:, 0, side // 2] = np.nan
        expected, before = frame.copy(), frame.copy()
        reference.composite(expected, patches, boxes, context, shape, feather)
        ops.composite(frame, patches, boxes, context, shape, feather)
        assert apart(frame, expected) <= 1
        np.testing.assert_array_equal(frame[~covered(frame, boxes)], before[~covered(frame, boxes)])

    @CASES
    @given(scenes(), st.sampled_from([0.0, 1.0, np.nan, np.inf, -5.0]))
    def test_overwrites_every_covered_pixel(self, scene, value):
        frame, boxes = scene
        frame[:] = 100
        ops.composite(frame, np.full((len(boxes), 3, 24, 24), value, np.float32), boxes)
        expected = 255 if value >= 1 else 0
        assert (frame[covered(frame, boxes)] == expected).all()
        assert (frame[~covered(frame, boxes)] == 100).all()

    def test_never_reads_outside_the_face_square(self):
        patches = np.where(ops.patch_mask(24)[None] == 1, np.float32(0.2), np.float32(1)).repeat(3, axis=1)
        frame = np.zeros((40, 40, 3), np.uint8)
        ops.composite(frame, patches, [[3.3, 4.6, 31.2, 37.9]])
        assert set(np.unique(frame)) == {0, 51}

    def test_undoes_the_crop(self):
        frame = cv2.GaussianBlur(noise(96, 96), (9, 9), 0)
        before, boxes = frame.copy(), [[20, 24, 68, 60]]
        patches = ops.crop_faces(frame, boxes, blur=False)
        frame[24:60, 20:68] = 0
        ops.composite(frame, patches, boxes)
        assert apart(frame, before) <= 6  # two bilinear samplings of a smooth picture

    def test_ellipse_leaves_the_corners(self):
        frame = np.zeros((20, 30, 3), np.uint8)
        ops.composite(frame, np.ones((1, 3, 24, 24), np.float32), [[0, 0, 30, 20]], shape="ellipse")
        y, x = np.mgrid[:20, :30] + 0.5
        inside = ((x - 15) / 15) ** 2 + ((y - 10) / 10) ** 2 <= 1
        np.testing.assert_array_equal(frame[..., 0] == 255, inside)

    def test_feather_rises_from_the_edge(self):
        frame = np.zeros((40, 40, 3), np.uint8)
        ops.composite(frame, np.ones((1, 3, 24, 24), np.float32), [[0, 0, 40, 40]], feather=0.5)
        expected = np.minimum(np.arange(0.5, 20) / 20 / 0.5, 1) * 255  # half size 20, full strength from depth 10
        np.testing.assert_allclose(frame[20, :20, 1], expected, atol=0.51)


class TestGaussian:
    @CASES
    @given(scenes())
    def test_matches_the_reference(self, scene):
        frame, boxes = scene
        boxes, expected, before = boxes[:1], frame.copy(), frame.copy()
        reference.gaussian(expected, boxes)
        ops.gaussian(frame, boxes)
        assert apart(frame, expected) <= 1
        np.testing.assert_array_equal(frame[~covered(frame, boxes)], before[~covered(frame, boxes)])

    @pytest.mark.parametrize("size", [*((n, n) for n in range(1, 41)), (3, 50), (64, 21), (200, 150), (101, 400)])
    def test_is_opencvs_blur_of_the_part_alone(self, size):
        frame = noise(410, 410)
        part = frame[5 : 5 + size[0], 7 : 7 + size[1]].copy()
        expected = cv2.GaussianBlur(part, ((size[1] // 2) | 1, (size[0] // 2) | 1), 0)
        ops.gaussian(frame, [[7, 5, 7 + size[1], 5 + size[0]]])
        assert apart(frame[5 : 5 + size[0], 7 : 7 + size[1]], expected.reshape(part.shape)) <= 1


class TestPixelate:
    @CASES
    @given(scenes(), st.integers(1, 70))
    def test_matches_the_reference(self, scene, blocks):
        frame, boxes = scene
        expected, before = frame.copy(), frame.copy()
        reference.pixelate(expected, boxes, blocks)
        ops.pixelate(frame, boxes, blocks)
        np.testing.assert_array_equal(frame, expected)
        np.testing.assert_array_equal(frame[~covered(frame, boxes)], before[~covered(frame, boxes)])

    def test_makes_blocks_of_the_mean(self):
        frame = noise(32, 48)
        means = frame.reshape(8, 4, 8, 6, 3).mean(axis=(1, 3))
        ops.pixelate(frame, [[0, 0, 48, 32]])
        assert np.abs(frame[::4, ::6] - means).max() <= 0.5
        np.testing.assert_array_equal(frame, frame[::4, ::6].repeat(4, axis=0).repeat(6, axis=1))


class TestSolid:
    @CASES
    @given(scenes(), st.tuples(*[st.integers(0, 255)] * 3))
    def test_fills_what_the_boxes_cover_and_nothing_else(self, scene, color):
        frame, boxes = scene
        expected = np.where(covered(frame, boxes)[..., None], np.array(color, np.uint8), frame)
        ops.solid(frame, boxes, color)
        np.testing.assert_array_equal(frame, expected)


IN_PLACE = {
    "composite": lambda frame, boxes: ops.composite(frame, np.ones((len(boxes), 3, 12, 12), np.float32), boxes),
    "gaussian": ops.gaussian,
    "pixelate": ops.pixelate,
    "solid": ops.solid,
}


@pytest.mark.parametrize("name", IN_PLACE)
class TestInPlace:
    @pytest.mark.parametrize("none", [[], np.empty((0, 4)), [[90, 0, 95, 9]], [[5, 5, 5, 9]], [[9, 5, 3, 9]]])
    def test_without_a_covered_pixel_nothing_happens(self, name, none):
        frame = noise(30, 40)
        before = frame.copy()
        IN_PLACE[name](frame, none)
        np.testing.assert_array_equal(frame, before)

    def test_writes_through_a_view(self, name):
        frame = noise(30, 40)
        view, before = frame[4:20, 6:30], frame.copy()
        IN_PLACE[name](view, [[-3, -3, 99, 99]])
        changed = (frame != before).any(axis=2)
        assert changed[4:20, 6:30].mean() > 0.9
        assert changed.sum() == changed[4:20, 6:30].sum()

    def test_refuses_a_read_only_frame(self, name):
        frame = noise(8, 8)
        frame.flags.writeable = False
        with pytest.raises(OpsError, match=r"frame: expected a writeable array, got a read-only uint8 \[8, 8, 3\]"):
            IN_PLACE[name](frame, [[0, 0, 4, 4]])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_refuses_boxes_that_are_not_finite(self, name, bad):
        frame = noise(8, 8)
        before = frame.copy()
        with pytest.raises(OpsError, match=r"boxes: expected finite coordinates, got .* in row 1"):
            IN_PLACE[name](frame, np.array([[0, 0, 4, 4], [1, bad, 4, 4]]))
        np.testing.assert_array_equal(frame, before)

    def test_double_precision_beyond_single_is_far_away_and_not_infinite(self, name):
        frame, other = noise(8, 8), noise(8, 8)
        IN_PLACE[name](frame, [[-1e300, -1e300, 1e300, 1e300]])
        IN_PLACE[name](other, [[-3e38, -3e38, 3e38, 3e38]])
        np.testing.assert_array_equal(frame, other)

    def test_threads_work_at_once(self, name):
        boxes = [[i, 2 * i, i + 40, 2 * i + 30] for i in range(20)]
        results = [noise(80, 80) for _ in range(4)]
        threads = [threading.Thread(target=IN_PLACE[name], args=(frame, boxes)) for frame in results]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        alone = noise(80, 80)
        IN_PLACE[name](alone, boxes)
        for frame in results:
            np.testing.assert_array_equal(frame, alone)


FRAME = np.zeros((6, 8, 3), np.uint8)
PATCHES = np.zeros((1, 3, 12, 12), np.float32)
BOX = [[0, 0, 4, 4]]
REFUSED = [
    (lambda: ops.solid(np.zeros((7, 9), np.float32), BOX), r"frame: expected uint8 \[H, W, 3\], got float32 \[7, 9\]"),
    (
        lambda: ops.solid(np.zeros((6, 8, 4), np.uint8), BOX),
        r"frame: expected uint8 \[H, W, 3\], got uint8 \[6, 8, 4\]",
    ),
    (lambda: ops.solid(None, BOX), r"frame: expected uint8 \[H, W, 3\], got None"),
    (lambda: ops.solid(np.zeros((0, 8, 3), np.uint8), BOX), r"frame: expected sides of 1 to 65536 .*\[0, 8, 3\]"),
    (lambda: ops.solid(FRAME[:, ::2], BOX), r"frame: expected rows of contiguous pixels .* got \[24, 6, 1\]"),
    (lambda: ops.solid(FRAME[..., ::-1], BOX), r"frame: expected rows of contiguous pixels"),
    (lambda: ops.solid(FRAME, [0, 0, 4, 4]), r"boxes: expected float \[n, 4\], got int64 \[4\]"),
    (lambda: ops.solid(FRAME, np.zeros((2, 5))), r"boxes: expected float \[n, 4\], got float64 \[2, 5\]"),
    (lambda: ops.solid(FRAME, [[0, 0, 4, 4], [1]]), r"boxes: expected float \[n, 4\], got "),
    (lambda: ops.solid(FRAME, [["a"] * 4]), r"boxes: expected float \[n, 4\], got <U1 \[1, 4\]"),
    (lambda: ops.solid(FRAME, BOX, (0, 0)), r"color: expected 3 integers in 0..255, got \(0, 0\)"),
    (lambda: ops.solid(FRAME, BOX, (0, 0, 256)), r"color: expected an integer in 0..255, got 256"),
    (lambda: ops.solid(FRAME, BOX, 7), r"color: expected 3 integers in 0..255, got 7"),
    (lambda: ops.pixelate(FRAME, BOX, 0), r"blocks: expected an integer in 1..65536, got 0"),
    (lambda: ops.pixelate(FRAME, BOX, 2.5), r"blocks: expected an integer in 1..65536, got 2.5"),
    (lambda: ops.composite(FRAME, PATCHES, BOX * 2), r"patches: expected float32 \[2, 3, P, P\] .* \[1, 3, 12, 12\]"),
    (lambda: ops.composite(FRAME, PATCHES.astype(float), BOX), r"patches: expected float32 .* got float64"),
    (lambda: ops.composite(FRAME, PATCHES[..., :9], BOX), r"patches: expected square patches .* \[1, 3, 12, 9\]"),
    (lambda: ops.composite(FRAME, PATCHES, BOX, shape="star"), r"shape: expected 'rectangle' or 'ellipse', got 'star'"),
    (lambda: ops.composite(FRAME, PATCHES, BOX, feather=1.5), r"feather: expected a number in 0..1, got 1.5"),
    (lambda: ops.composite(FRAME, PATCHES, BOX, feather=np.nan), r"feather: expected a number in 0..1, got nan"),
    (lambda: ops.crop_faces(FRAME, BOX, 0), r"patch_size: expected an integer in 1..4096, got 0"),
    (lambda: ops.crop_faces(FRAME, BOX, 96, 0.9), r"context: expected a number in 1..100, got 0.9"),
    (lambda: ops.patch_margin(2, 50), r"context: expected a value that leaves the face a pixel .* got 50"),
    (lambda: ops.letterbox(FRAME, (0, 5)), r"size: expected an integer in 1..65536, got 0"),
    (lambda: ops.letterbox(FRAME, (4, 5, 6)), r"size: expected 2 integers in 1..65536, got \(4, 5, 6\)"),
    (
        lambda: ops.letterbox(FRAME, (4, 5), PATCHES),
        r"out: expected a .* float32 \[3, 4, 5\], got float32 \[1, 3, 12, 12\]",
    ),
    (lambda: ops.letterbox(FRAME, (12, 9), PATCHES[0, :, :, :9]), r"out: expected .* got a strided or read-only"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_errors_name_argument_expected_and_actual(call, message):
    with pytest.raises(OpsError, match=message):
        call()
