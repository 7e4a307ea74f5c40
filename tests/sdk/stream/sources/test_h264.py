"""A lost picture or slice is noticed in the bytes."""

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dartblur.stream.sources.h264 import Continuity


def encode(tools, options, count=30, pix_fmt="yuv420p"):
    """Packets (bytes, whether a key frame) with start codes, in the order of sending."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = 192, 144, pix_fmt
    context.time_base, context.framerate, context.gop_size = Fraction(1, 15), Fraction(15), 10
    context.options = {"preset": "medium", **options}
    packets = []
    for index in range(count):
        frame = av.VideoFrame.from_ndarray(tools.pattern(192, 144, index), format="bgr24")
        frame.pts, frame.time_base = index, Fraction(1, 15)
        packets += context.encode(frame)
    packets += context.encode(None)
    return [(bytes(packet), packet.is_keyframe) for packet in packets]


KINDS = {
    "camera": {"tune": "zerolatency", "preset": "ultrafast"},
    "slices": {"tune": "zerolatency", "x264-params": "slices=4:sliced-threads=0"},
    "slices by bytes": {"tune": "zerolatency", "x264-params": "slice-max-size=300:sliced-threads=0"},
    "B frames": {"bf": "3"},
    "interlaced": {"x264-params": "tff=1"},
    "lossless 4:4:4": {"qp": "0"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_said_of_a_whole_stream(tools, kind):
    packets = encode(tools, KINDS[kind], pix_fmt="yuv444p" if "4:4:4" in kind else "yuv420p")
    continuity = Continuity()
    assert all(continuity.look(packet) == (True, True) for packet, _ in packets)


@pytest.mark.parametrize("kind", ["camera", "slices", "lossless 4:4:4"])
@pytest.mark.parametrize("lost", [13, 14, 18])
def test_a_lost_reference_picture_is_noticed_in_the_next(tools, kind, lost):
    packets = encode(tools, KINDS[kind], pix_fmt="yuv444p" if "4:4:4" in kind else "yuv420p")
    continuity = Continuity()
    seen = [continuity.look(packet) for index, (packet, _) in enumerate(packets) if index != lost]
    assert [index for index, each in enumerate(seen) if not each.follows] == [lost]


@pytest.mark.parametrize("slice_", [0, 1, 3])
def test_a_lost_slice_is_noticed(tools, slice_):
    packets = [packet for packet, _ in encode(tools, KINDS["slices"])]
    parts = packets[13].split(b"\0\0\1")
    numbers = [number for number, part in enumerate(parts) if part and part[0] & 31 == 1]
    assert len(numbers) == 4
    del parts[numbers[slice_]]
    packets[13] = b"\0\0\1".join(parts)
    continuity = Continuity()
    assert [index for index, packet in enumerate(packets) if not continuity.look(packet).whole] == [13]


@given(st.binary(max_size=200))
def test_noise_is_borne(noise):
    continuity = Continuity(b"\0\0\1\x67" + noise)
    for kind in (0x65, 0x41, 0x67, 0x68):
        continuity.look(b"\0\0\1" + bytes([kind]) + noise)


def test_the_decoder_alone_would_not_have_noticed(tools):
    """The reason for all this: after a loss it gives smeared pictures as if they were whole."""
    packets = [packet for packet, _ in encode(tools, KINDS["camera"])]
    pictures = []
    for kept in (packets, packets[:13] + packets[14:]):
        decoder = av.CodecContext.create("h264", "r")
        decoder.thread_count, decoder.options = 1, {"err_detect": "explode"}
        pictures.append([frame for packet in kept for frame in decoder.decode(av.Packet(packet))])
    whole, smeared = pictures[0][15], pictures[1][14]
    assert not smeared.is_corrupt
    difference = whole.to_ndarray(format="gray").astype(int) - smeared.to_ndarray(format="gray")
    assert np.abs(difference).max() > 20
