"""From video to BGR and back: exact, the same by the native way and by swscale, in every matrix and range."""

from __future__ import annotations

import av
import numpy as np
import pytest

from dartblur.stream.media import colours
from dartblur.stream.media.colours import FULL, LIMITED, ColourTags, FromBgr, ToBgr
from dartblur_ops import reference

FORMATS = ["yuv420p", "nv12"]
SIZES = [(64, 48), (61, 47), (1, 1), (34, 2)]
MATRICES = [1, 4, 5, 6, 7, 2]


def tags(matrix=1, range=LIMITED):
    return ColourTags(primaries=matrix, transfer=matrix, matrix=matrix, range=range)


def planes(frame):
    """Brightness and both colour differences, taken apart in another way than the code does."""
    rows = [bytes(plane) for plane in frame.planes]
    strides = [plane.line_size for plane in frame.planes]
    half = (frame.height + 1) // 2, (frame.width + 1) // 2

    def plane(index, height, width, start=0, step=1):
        return np.array(
            [[rows[index][y * strides[index] + start + step * x] for x in range(width)] for y in range(height)],
            np.uint8,
        )

    if frame.format.name == "nv12":
        return plane(0, frame.height, frame.width), plane(1, *half, 0, 2), plane(1, *half, 1, 2)
    return plane(0, frame.height, frame.width), plane(1, *half), plane(2, *half)


def smooth(width, height):
    """A picture whose colours hardly change over a pixel, uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 60 * np.sin(x / 40 + k) * np.cos(y / 30 + 2 * k) + 20 * np.sin((x + y) / 3) for k in range(3)]
    return np.stack(waves, axis=2).astype(np.uint8)


def through_swscale(monkeypatch, call):
    """What a call gives when nothing goes the native way."""
    with monkeypatch.context() as patch:
        patch.setattr(colours, "_NATIVE", ())
        return call()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_a_frame_gets_the_exact_numbers(pixel_format, size):
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    frame = FromBgr(pixel_format, tags())(image)
    assert (frame.format.name, frame.width, frame.height) == (pixel_format, *size)
    for plane, exact in zip(planes(frame), reference.bgr_to_yuv(image, (0.2126, 0.0722)), strict=True):
        assert np.abs(plane - exact).max() < 0.56


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_a_picture_gets_the_exact_numbers(pixel_format, size):
    frame = FromBgr(pixel_format, tags())(smooth(*size))
    exact = reference.yuv_to_bgr(*planes(frame), (0.2126, 0.0722)).clip(0, 255)
    assert np.abs(ToBgr(*size, tags())(frame) - exact).max() < 0.56


@pytest.mark.parametrize("range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_swscale_agrees(monkeypatch, pixel_format, matrix, range):
    """Not in another matrix, range or order: else streams would change their colours with their format."""
    image, of = smooth(96, 64), tags(matrix, range)
    native = FromBgr(pixel_format, of)(image)
    scaled = through_swscale(monkeypatch, lambda: FromBgr(pixel_format, of)(image))
    for ours, theirs in zip(planes(native), planes(scaled), strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 2
    to_bgr = ToBgr(96, 64, of)
    picture = to_bgr(native)
    assert np.abs(picture.astype(int) - through_swscale(monkeypatch, lambda: to_bgr(native))).max() <= 2
    assert np.abs(picture.astype(int) - image)[1:-1, 1:-1].mean() < 2.5  # and it is the picture


@pytest.mark.skipif(9 not in colours._MATRICES, reason="this PyAV doesn't know BT.2020")
def test_swscale_agrees_on_bt2020(monkeypatch):
    test_swscale_agrees(monkeypatch, "yuv420p", 9, LIMITED)


@pytest.mark.parametrize("other", ["yuv444p", "yuv422p", "yuv420p10le"])
def test_other_formats_give_the_same_picture(other):
    frame = FromBgr("yuv420p", tags())(smooth(96, 64))
    same = frame.reformat(format=other)
    to_bgr = ToBgr(96, 64, tags())
    assert np.abs(to_bgr(same).astype(int) - to_bgr(frame)).max() <= 3


@pytest.mark.parametrize("range", [LIMITED, FULL])
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_what_goes_through_comes_back_unshifted(pixel_format, range):
    of = tags(range=range)
    before = FromBgr(pixel_format, of)(smooth(96, 64))
    after = FromBgr(pixel_format, of)(ToBgr(96, 64, of)(before))
    for old, new in zip(planes(before), planes(after), strict=True):
        off = new.astype(int) - old
        assert np.abs(off).max() <= 2
        assert abs(off.mean()) < 0.1


def test_edges_of_colours_come_back_to_their_place():
    frame = av.VideoFrame(64, 16, "yuv420p")
    for plane, value in zip(frame.planes, (128, 100, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    u = np.full((8, frame.planes[1].line_size), 100, np.uint8)
    u[:, 16:] = 150
    frame.planes[1].update(u.tobytes())
    back = planes(FromBgr("yuv420p", tags())(ToBgr(64, 16, tags())(frame)))[1].astype(int)
    blurred_by_both = [100, 106, 144, 150]  # an eighth from either side: symmetric, so the edge is where it was
    assert np.abs(back[:, 14:18] - blurred_by_both).max() <= 1


def test_a_picture_has_memory_of_its_own():
    frame = FromBgr("yuv420p", tags())(smooth(64, 48))
    before = planes(frame)
    to_bgr = ToBgr(64, 48, tags())
    first = to_bgr(frame)
    second = to_bgr(frame)
    first[:] = 0
    assert second.any()
    assert all((old == new).all() for old, new in zip(before, planes(frame), strict=True))


def test_a_frame_of_another_size_is_scaled():
    frame = FromBgr("yuv420p", tags())(smooth(128, 96))
    assert ToBgr(64, 48, tags())(frame).shape == (48, 64, 3)


def test_a_frame_is_tagged():
    frame = FromBgr("yuv420p", ColourTags(primaries=1, transfer=13, matrix=6, range=FULL))(smooth(16, 16))
    assert (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range) == (1, 13, 6, FULL)


def test_a_turned_picture_is_taken_too():
    image = smooth(48, 64)
    turned = np.rot90(image)
    ours, straight = (planes(FromBgr("yuv420p", tags())(each)) for each in (turned, np.ascontiguousarray(turned)))
    assert all((a == b).all() for a, b in zip(ours, straight, strict=True))
