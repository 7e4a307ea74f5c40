"""Encoded pictures as RTP, and what a decoder is told of them."""

import base64
import re
from itertools import pairwise

import numpy as np
import pytest

from dartblur.stream.sinks import encoders
from dartblur.stream.sinks.rtp import RtpPackets, describe

TICKS = [0, 3000, 4000, 40_000, 400_000]


@pytest.fixture(params=["h264", "h265"])
def stream(request):
    encoder = encoders.open_live(encoders.choose(request.param), (320, 240), quality=25)
    noise = np.random.default_rng(0)
    pictures = [noise.integers(0, 256, (240, 320, 3), np.uint8) for _ in TICKS]
    packets = [
        packet
        for picture, pts in zip(pictures, TICKS, strict=True)
        for packet in encoder.encode(picture, 90_000 + pts, keyframe=pts == 0)
    ]
    return request.param, packets


def test_pictures_are_cut_and_stamped(stream):
    codec, packets = stream
    cut = RtpPackets(codec, packets[0])
    stamps, numbers = [], []
    for packet in packets:
        size = packet.size
        parts = [part for part in cut(packet) if not 200 <= part[1] <= 204]
        assert all(len(part) <= 1400 and part[0] == 0x80 and part[1] & 127 == 96 for part in parts)
        assert sum(len(part) for part in parts) > 0.95 * size
        assert [part[1] >> 7 for part in parts] == [0] * (len(parts) - 1) + [1], "the last one ends the picture"
        stamps += list({int.from_bytes(part[4:8], "big") for part in parts})
        numbers += [int.from_bytes(part[2:4], "big") for part in parts]
    assert [(stamp - stamps[0]) % 2**32 for stamp in stamps] == TICKS
    cut.close()
    assert {(later - earlier) % 2**16 for earlier, later in pairwise(numbers)} == {1}


def test_what_a_decoder_has_to_know(stream):
    codec, packets = stream
    lines = describe(codec, packets[0]).split("\r\n")
    assert "m=video 0 RTP/AVP 96" in lines
    assert f"a=rtpmap:96 {codec.upper()}/90000" in lines
    (settings,) = [line for line in lines if line.startswith("a=fmtp:96 ")]
    sets = dict(re.findall(r"sprop-([\w-]+)=([^;]+)", settings))
    if codec == "h264":
        assert [base64.b64decode(text)[0] & 31 for text in sets["parameter-sets"].split(",")] == [7, 8]
        assert re.search(r"packetization-mode=1.*profile-level-id=[0-9a-f]{6}$", settings)
    else:
        assert {name: base64.b64decode(text)[0] >> 1 for name, text in sets.items()} == {
            "vps": 32,
            "sps": 33,
            "pps": 34,
        }
    for text in ",".join(sets.values()).split(","):
        assert base64.b64decode(text) in bytes(packets[0])
