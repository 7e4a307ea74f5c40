"""From 4:2:0 to BGR and back, against the exact real numbers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dartblur_ops as ops
from dartblur_ops import OpsError, reference

CASES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
BT709 = (0.2126, 0.0722)
SEEDS = st.integers(0, 2**32 - 1)
SHARES = st.floats(0.01, 0.4)
WEIGHTS = st.sampled_from([BT709, (0.299, 0.114), (0.2627, 0.0593), (0.212, 0.087)]) | st.tuples(SHARES, SHARES)
NEAREST = 0.56
"""Furthest from the exact number: rounded to the nearest level, from a sum that is off by a twentieth."""


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def planes_of(height, width, layout, seed=0):
    """Noise as decoders lay it out: side by side, with rows apart, NV12, or upside down."""
    rows, columns = (height + 1) // 2, (width + 1) // 2
    if layout == "nv12":
        y, both = noise(height, width + 9, seed=seed)[:, :width], noise(rows, 2 * columns + 6, seed=seed + 1)
        return y, both[:, : 2 * columns : 2], both[:, 1 : 2 * columns : 2]
    gap = 0 if layout == "own" else 7
    planes = [
        noise(h, w + gap, seed=seed + i)[:, :w] for i, (h, w) in enumerate([(height, width), *[(rows, columns)] * 2])
    ]
    return tuple(plane[::-1] if layout == "flipped" else plane for plane in planes)


SIZES = st.tuples(st.integers(1, 70), st.integers(1, 150))
LAYOUTS = st.sampled_from(["own", "apart", "nv12", "flipped"])


class TestYuvToBgr:
    @CASES
    @given(SIZES, LAYOUTS, WEIGHTS, st.booleans(), SEEDS)
    def test_is_nearest_to_the_exact_numbers(self, size, layout, weights, full, seed):
        planes = planes_of(*size, layout, seed)
        exact = reference.yuv_to_bgr(*planes, weights, full).clip(0, 255)
        assert np.abs(ops.yuv_to_bgr(*planes, weights, full) - exact).max() < NEAREST

    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize("weights", [BT709, (0.299, 0.114)])
    def test_is_not_shifted(self, weights, full):
        planes = planes_of(400, 400, "own")
        exact = reference.yuv_to_bgr(*planes, weights, full)
        inside = (exact > 1) & (exact < 254)
        off = (ops.yuv_to_bgr(*planes, weights, full) - exact)[inside]
        assert abs(off.mean()) < 0.02  # to cut off would be 0.5
        assert (np.abs(off) > 0.5).mean() < 0.02

    @pytest.mark.parametrize("full", [False, True])
    def test_grey_stays_grey(self, full):
        y = np.arange(256, dtype=np.uint8).reshape(16, 16)
        none = np.full((8, 8), 128, np.uint8)
        frame = ops.yuv_to_bgr(y, none, none, BT709, full)
        assert (frame == frame[..., :1]).all()
        black, white = (0, 255) if full else (16, 235)
        assert (frame[y <= black] == 0).all()
        assert (frame[y >= white] == 255).all()
        assert (np.diff(frame[..., 0].ravel().astype(int)) >= 0).all()

    def test_writes_into_a_view_and_nothing_else(self):
        planes, whole = planes_of(20, 31, "own"), noise(30, 40, 3)
        view, before = whole[4:24, 5:36], whole.copy()
        assert ops.yuv_to_bgr(*planes, BT709, out=view) is view
        np.testing.assert_array_equal(view, ops.yuv_to_bgr(*planes, BT709))
        before[4:24, 5:36] = view
        np.testing.assert_array_equal(whole, before)

    def test_works_while_another_thread_does(self):
        planes = planes_of(200, 300, "nv12")
        results = [np.zeros((200, 300, 3), np.uint8) for _ in range(4)]
        threads = [threading.Thread(target=ops.yuv_to_bgr, args=(*planes, BT709, False, out)) for out in results]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        alone = ops.yuv_to_bgr(*planes, BT709)
        assert all((result == alone).all() for result in results)


class TestBgrToYuv:
    @CASES
    @given(SIZES, LAYOUTS, WEIGHTS, st.booleans(), SEEDS)
    def test_is_nearest_to_the_exact_numbers(self, size, layout, weights, full, seed):
        frame, planes = noise(*size, 3, seed=seed), planes_of(*size, layout, seed)
        ops.bgr_to_yuv(frame, *planes, weights, full)
        for plane, exact in zip(planes, reference.bgr_to_yuv(frame, weights, full), strict=True):
            assert np.abs(plane - exact.clip(0, 255)).max() < NEAREST

    @pytest.mark.parametrize("full", [False, True])
    def test_grey_stays_grey(self, full):
        frame = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        planes = planes_of(16, 16, "own")
        ops.bgr_to_yuv(frame, *planes, BT709, full)
        assert (planes[1] == 128).all()
        assert (planes[2] == 128).all()
        assert planes[0].min() == (0 if full else 16)
        assert planes[0].max() == (255 if full else 235)

    def test_strongest_colours_do_not_wrap_round(self):
        colours = noise(64, 64, 3) // 128 * 255
        planes = planes_of(64, 64, "own")
        solid = colours[::2, ::2].repeat(2, axis=0).repeat(2, axis=1)
        ops.bgr_to_yuv(np.ascontiguousarray(solid), *planes, (0.299, 0.114), True)
        for plane, exact in zip(planes, reference.bgr_to_yuv(solid, (0.299, 0.114), True), strict=True):
            assert np.abs(plane - exact.clip(0, 255)).max() < NEAREST

    @pytest.mark.parametrize("layout", ["apart", "nv12"])
    def test_writes_the_planes_and_nothing_else(self, layout):
        planes = planes_of(11, 21, layout)
        bases = [plane.base for plane in planes]
        before = [base.copy() for base in bases]
        ops.bgr_to_yuv(noise(11, 21, 3, seed=9), *planes, BT709)
        for base, old, plane in zip(bases, before, planes, strict=True):
            used = plane.shape[1] * (2 if layout == "nv12" and base.shape[0] == 6 else 1)
            np.testing.assert_array_equal(base[:, used:], old[:, used:])
            assert (plane != old[:, :used][:, : plane.shape[1]]).any()

    @pytest.mark.parametrize("full", [False, True])
    def test_what_is_smooth_comes_back(self, full):
        """To BGR and back: brightness within a level, and no shift of any plane."""
        rows, columns = np.mgrid[0:90, 0:160]
        y = (80 + 40 * (1 + np.sin(columns / 17) * np.cos(rows / 13))).astype(np.uint8)
        u, v = ((118 + 16 * np.sin((columns + 3 * k) / 29))[::2, ::2].astype(np.uint8) for k in range(2))
        back = [np.empty_like(plane) for plane in (y, u, v)]
        ops.bgr_to_yuv(ops.yuv_to_bgr(y, u, v, BT709, full), *back, BT709, full)
        for old, new in zip((y, u, v), back, strict=True):
            off = new.astype(int) - old
            assert np.abs(off).max() <= 1
            assert abs(off.mean()) < 0.1


FRAME = np.zeros((6, 8, 3), np.uint8)
Y, U, V = np.zeros((6, 8), np.uint8), np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8)
LOCKED = np.zeros((3, 4), np.uint8)
LOCKED.flags.writeable = False
WIDE = np.zeros((3, 8), np.uint8)
REFUSED = [
    (lambda: ops.yuv_to_bgr(FRAME, U, V, BT709), r"y: expected uint8 \[H, W\], got uint8 \[6, 8, 3\]"),
    (lambda: ops.yuv_to_bgr(Y.astype(int), U, V, BT709), r"y: expected uint8 \[H, W\], got int64 \[6, 8\]"),
    (lambda: ops.yuv_to_bgr(Y[:0], U, V, BT709), r"y: expected sides of 1 to 65536 pixels, got uint8 \[0, 8\]"),
    (lambda: ops.yuv_to_bgr(Y, U[:2], V, BT709), r"u: expected uint8 \[3, 4\], got uint8 \[2, 4\]"),
    (lambda: ops.yuv_to_bgr(Y, U, Y, BT709), r"v: expected uint8 \[3, 4\], got uint8 \[6, 8\]"),
    (lambda: ops.yuv_to_bgr(Y, U, None, BT709), r"v: expected uint8 \[3, 4\], got None"),
    (lambda: ops.yuv_to_bgr(Y[:, ::-1], U, V, BT709), r"y: expected rows of contiguous bytes .* got \[8, -1\]"),
    (lambda: ops.yuv_to_bgr(Y, U, WIDE[:, ::2], BT709), r"u, v: expected bytes side by side.* got steps of \[1, 2\]"),
    (lambda: ops.yuv_to_bgr(Y, U, V, (0.3,)), r"weights: expected two numbers.* got \(0.3,\)"),
    (lambda: ops.yuv_to_bgr(Y, U, V, (0.3, 0.5)), r"weights: expected a number in 0.01..0.4, got 0.5"),
    (lambda: ops.yuv_to_bgr(Y, U, V, (0.0, 0.1)), r"weights: expected a number in 0.01..0.4, got 0"),
    (lambda: ops.yuv_to_bgr(Y, U, V, BT709, out=FRAME[:5]), r"out: expected uint8 \[6, 8, 3\], got uint8 \[5, 8, 3\]"),
    (
        lambda: ops.yuv_to_bgr(FRAME.reshape(-1)[:48].reshape(6, 8), U, V, BT709, out=FRAME),
        "out: expected memory of its own",
    ),
    (lambda: ops.bgr_to_yuv(FRAME, Y[:5], U, V, BT709), r"y: expected uint8 \[6, 8\], got uint8 \[5, 8\]"),
    (lambda: ops.bgr_to_yuv(FRAME[..., :2], Y, U, V, BT709), r"frame: expected uint8 \[H, W, 3\]"),
    (lambda: ops.bgr_to_yuv(FRAME, Y, LOCKED, V, BT709), r"u: expected a writeable array, got a read-only"),
    (
        lambda: ops.bgr_to_yuv(FRAME, FRAME.reshape(-1)[:48].reshape(6, 8), U, V, BT709),
        "frame: expected memory of its own",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_errors_name_argument_expected_and_actual(call, message):
    with pytest.raises(OpsError, match=message):
        call()
