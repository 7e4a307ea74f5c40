"""The encoder that is used works, and is the one that was asked for."""

import av
import numpy as np
import pytest

from dartblur.errors import SinkError
from dartblur.stream.sinks import encoders
from dartblur.stream.sinks.encoders import CLOCK, Encoder, choose, notice, open_live


@pytest.fixture(autouse=True)
def forget():
    encoders._working.clear()
    yield
    encoders._working.clear()


@pytest.fixture
def no_hardware(monkeypatch):
    if any(encoders._failure(encoder, (640, 360)) is None for encoder in encoders.ENCODERS if encoder.hardware):
        pytest.skip("this machine has an encoder in hardware")


@pytest.mark.parametrize(("codec", "name"), [(None, "libx264"), ("h264", "libx264"), ("h265", "libx265")])
def test_without_hardware_it_is_the_software(no_hardware, codec, name):
    chosen = choose(codec)
    assert chosen.name == name
    assert notice(chosen) == f"video is encoded in {codec or 'h264'} by {name} (software)"


def test_hardware_comes_first_when_it_works(monkeypatch):
    monkeypatch.setattr(encoders, "_failure", lambda encoder, size: None)
    assert choose("h264").name == "h264_nvenc"
    assert notice(choose("h265")) == "video is encoded in h265 by hevc_nvenc (hardware)"
    monkeypatch.setattr(encoders, "_failure", lambda encoder, size: "too large" if encoder.hardware else None)
    assert choose("h264", size=(10_000, 10_000)).name == "libx264"


def test_a_jetson_uses_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(encoders, "_failure", lambda encoder, size: None)
    monkeypatch.setattr(encoders, "_JETSON_DEVICES", (str(tmp_path),))
    assert choose("h265").name == "nvv4l2h265enc"
    assert choose("h265", ffmpeg_only=True).name == "hevc_nvenc"


def test_one_that_is_named_is_never_replaced(no_hardware):
    with pytest.raises(SinkError, match=r"h264_nvenc does not work here \(.+\): use auto or libx264"):
        choose(None, "h264_nvenc")
    assert choose(None, "libx265").codec == "h265"


@pytest.mark.parametrize(
    ("codec", "name", "message"),
    [
        ("vp9", "auto", "codec: expected one of h264, h265, got 'vp9'"),
        (None, "x264", "encoder: expected auto or one of .*libx264, libx265, got 'x264'"),
        ("h265", "libx264", "expected one for h265, got libx264, which makes h264"),
    ],
)
def test_what_is_unknown_is_named(codec, name, message):
    with pytest.raises(SinkError, match=message):
        choose(codec, name)


def test_a_size_that_none_takes():
    with pytest.raises(SinkError, match=r"none for h265 and 2x2 pixels works here \(.*libx265: "):
        choose("h265", size=(2, 2))


def test_one_that_gives_nothing_does_not_work(monkeypatch):
    class Silent:
        def encode(self, image, pts, *, keyframe):
            return []

        def finish(self):
            return []

        def close(self):
            pass

    monkeypatch.setattr(encoders, "open_live", lambda *args, **options: Silent())
    with pytest.raises(SinkError, match=r"libx264 does not work here \(it gave no picture\)"):
        choose(None, "libx264")


@pytest.mark.parametrize("name", ["libx264", "libx265"])
def test_live_encoding_has_no_delay_and_key_frames_when_asked(tools, name):
    encoder = open_live(choose(None, name), (320, 240), quality=25)
    keys = []
    for index in range(20):
        packets = encoder.encode(tools.pattern(320, 240, index), index * 6000, keyframe=index % 7 == 0)
        assert [packet.pts for packet in packets] == [packet.dts for packet in packets] == [index * 6000]
        assert all(packet.time_base == CLOCK for packet in packets)
        keys += [index for packet in packets if packet.is_keyframe]
    assert keys == [0, 7, 14]
    assert not [packet for packet in encoder.finish() if packet.size]


def test_a_bit_rate_is_kept(tools):
    noise = np.random.default_rng(0)
    encoder = open_live(choose(None, "libx264"), (320, 240), quality=19, bitrate=400_000)
    sizes = []
    for index in range(60):
        picture = noise.integers(0, 256, (240, 320, 3), np.uint8)
        sizes += [packet.size for packet in encoder.encode(picture, index * 3000, keyframe=index == 0)]
    assert sum(sizes[30:]) * 8 < 600_000  # the last second


def test_pixels_for_quick_sync():
    assert encoders.pixel_format("h264_qsv") == "nv12"
    for encoder in encoders.ENCODERS:
        if encoder.gst is None and encoder.name in av.codecs_available:
            formats = [form.name for form in av.Codec(encoder.name, "w").video_formats or []]
            assert not formats or encoders.pixel_format(encoder.name) in formats


@pytest.mark.skipif(not hasattr(av.CodecContext, "supported_options"), reason="needs PyAV 18.1")
def test_options_are_those_that_ffmpeg_has():
    """Those of hardware too, which can't be opened here."""
    for encoder in encoders.ENCODERS:
        if encoder.gst is not None or encoder.name not in av.codecs_available:
            continue
        known = av.CodecContext.create(encoder.name, "w").supported_options
        names = {option.name for option in (*known.generic, *known.private)}
        for live in (True, False):
            for bitrate in (None, 1_000_000):
                options = encoders.options_for(encoder.name, 20, live=live, bitrate=bitrate)
                assert set(options) <= names, encoder.name


def test_bit_rates_grow_with_the_picture():
    assert encoders.live_bitrate(1280, 720, "h264") == 2_764_800
    assert encoders.live_bitrate(1280, 720, "h265") < encoders.live_bitrate(1280, 720, "h264")
    assert encoders.live_bitrate(16, 16, "h264") == 300_000
    assert encoders.quality_bitrate(1280, 720, 17) == 2 * encoders.quality_bitrate(1280, 720, 23)


def test_elements_of_gstreamer_are_taken_as_they_are(monkeypatch):
    monkeypatch.setattr(encoders, "_failure", lambda encoder, size: None)
    assert choose("h265", "gst: x265enc ") == Encoder("gst: x265enc ", "h265", hardware=False, gst="x265enc")
    with pytest.raises(SinkError, match="expected auto or one of h264_nvenc"):
        choose(None, "gst:x264enc", ffmpeg_only=True)


def test_one_that_was_busy_is_tried_again_and_one_that_works_is_not(monkeypatch):
    tried = []

    def busy_at_first(encoder, size, **options):
        tried.append(encoder.name)
        if len(tried) == 1:
            raise SinkError("encoder: out of sessions")
        return opened(encoder, size, **options)

    opened = encoders.open_live
    monkeypatch.setattr(encoders, "open_live", busy_at_first)
    with pytest.raises(SinkError, match="out of sessions"):
        choose(None, "libx264", (64, 64))
    tried = tried[:1]
    assert choose(None, "libx264", (64, 64)) == choose(None, "libx264", (64, 64))
    assert tried == ["libx264", "libx264"]
