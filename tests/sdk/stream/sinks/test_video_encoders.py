"""The codec and the encoder of video files can be chosen."""

import av
import pytest

from dartblur.errors import SinkError
from dartblur.stream import open_source
from dartblur.stream.sinks import encoders
from dartblur.stream.sinks.video_sink import VideoSink


@pytest.fixture
def convert(tools, tmp_path):
    from dartblur.anonymizer import Anonymizer
    from dartblur.backends.fake import FakeBackend

    anonymize = Anonymizer(backend=FakeBackend())

    def to(name, source, **options):
        with open_source(source) as opened, VideoSink(tmp_path / name, opened, **options) as sink:
            for frame in opened:
                sink.write(anonymize(frame))
        return sink, tmp_path / name

    return to


def codec_of(path):
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        return context.name, context.codec_tag


@pytest.mark.parametrize(("name", "tag"), [("out.mp4", "hvc1"), ("out.mov", "hvc1"), ("out.mkv", None)])
def test_h265(tools, clip, convert, name, tag):
    sink, out = convert(name, clip, codec="h265", encoder="libx265")
    assert codec_of(out)[0] == "hevc"
    assert tag is None or codec_of(out)[1] == tag
    before, after = ([float(frame.pts * frame.time_base) for frame in tools.frames_of(path)] for path in (clip, out))
    assert [time - after[0] for time in after] == pytest.approx([time - before[0] for time in before], abs=0.002)
    assert tools.packets_of(out, "audio")
    assert "video is encoded in h265 by libx265 (software)" in sink.notices


def test_the_encoder_says_the_codec(clip, convert):
    _, out = convert("out.mp4", clip, encoder="libx265")
    assert codec_of(out)[0] == "hevc"


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_odd_sizes(tools, tmp_path, convert, codec):
    source = tools.make_clip(
        tmp_path / "in.mkv", size=(161, 121), codec="libvpx-vp9", pts=range(0, 15000, 3000), options={}
    )
    _, out = convert("out.mp4", source, codec=codec)
    assert [(frame.width, frame.height) for frame in tools.frames_of(out)] == [(161, 121)] * 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.webm", {"codec": "h264"}, "takes libvpx-vp9 only: use .mp4 or .mkv"),
        ("out.webm", {"encoder": "libx264"}, "takes libvpx-vp9 only"),
        ("out.avi", {"codec": "h265"}, "H.265 does not go with this format: use h264"),
        ("out.mp4", {"encoder": "libx264", "codec": "h265"}, "expected one for h265"),
        ("out.mp4", {"encoder": "gst:x264enc"}, "expected auto or one of"),
    ],
)
def test_what_does_not_go_is_named(clip, tmp_path, convert, name, options, message):
    with pytest.raises(SinkError, match=message):
        convert(name, clip, **options)
    assert not (tmp_path / name).exists()


def test_interlaced_video_goes_to_h264_only(tools, tmp_path, convert):
    options = {"preset": "ultrafast", "x264-params": "tff=1"}
    source = tools.make_clip(tmp_path / "in.mp4", options=options, pts=range(0, 30000, 3000))
    with pytest.raises(SinkError, match=r"H\.265 does not go with interlaced video"):
        convert("out.mp4", source, codec="h265")


def test_hardware_is_not_used_for_what_it_can_not_do(tools, clip, tmp_path, convert, monkeypatch):
    monkeypatch.setattr(encoders, "_failure", lambda encoder, size: None)
    odd = tools.make_clip(
        tmp_path / "in.mkv", size=(161, 121), codec="libvpx-vp9", pts=range(0, 15000, 3000), options={}
    )
    convert("auto.mp4", odd)
    convert("lossless.mp4", clip, quality=0)
    assert codec_of(tmp_path / "auto.mp4")[0] == codec_of(tmp_path / "lossless.mp4")[0] == "h264"
    with pytest.raises(SinkError, match="h264_nvenc takes no 161x121: use auto"):
        convert("out.mp4", odd, encoder="h264_nvenc")
