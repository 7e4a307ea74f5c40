"""Pipelines of the system's GStreamer take redacted pictures; its encoders serve recordings."""

import sys
import time

import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import SinkError
from dartblur.frame import Frame
from dartblur.stream.sinks import gst_push
from dartblur.stream.sinks.gst_sink import GstSink
from dartblur.stream.sinks.recording import RecordingSink
from dartblur.stream.sources import gstreamer

anonymize = Anonymizer(backend=FakeBackend())


def has(*elements):
    try:
        gst = gstreamer.load_gst()
    except ImportError:
        return False
    return all(gst.ElementFactory.find(element) for element in elements)


needs_gst = pytest.mark.skipif(
    not has("x264enc", "h264parse", "matroskamux", "appsrc"),
    reason="needs python3-gi and gstreamer1.0-plugins-good, -bad and -ugly of the system's Python",
)
FREE = [0, 0.033, 0.05, 0.3, 0.31, 1.9, 2.0, 3.7, 9.0, 9.01]
X264 = "videoconvert ! video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=4000"


def write(tools, sink, times=FREE, size=(320, 240)):
    for index, seconds in enumerate(times):
        sink.write(anonymize(Frame(tools.pattern(*size, index), index, seconds, captured=50 + seconds)))


def times_of(frames):
    return [float(frame.pts * frame.time_base) for frame in frames]


@needs_gst
@pytest.mark.parametrize("lead", ["", "appsrc ! "])
@pytest.mark.parametrize("size", [(320, 240), (322, 242)])
def test_a_pipeline_gets_pictures_and_time_stamps(tools, tmp_path, lead, size):
    out = tmp_path / "out.mkv"
    with GstSink(f"gst:{lead}{X264} ! h264parse ! matroskamux ! filesink location={out}") as sink:
        write(tools, sink, size=size)
    frames = tools.frames_of(out)
    assert times_of(frames) == pytest.approx(FREE, abs=0.002)
    for index, frame in enumerate(frames):
        assert abs(frame.to_ndarray(format="bgr24").astype(int) - tools.pattern(*size, index)).mean() < 8


@needs_gst
def test_a_size_of_odd_rows_arrives_unshifted(tools, tmp_path):
    pattern = tmp_path / "%d.png"
    with GstSink(f"gst:videoconvert ! pngenc ! multifilesink location={pattern}") as sink:
        write(tools, sink, [0, 0.1], size=(321, 241))
        sink.write(anonymize(Frame(tools.pattern(100, 200, 0), 2, 0.2)))
    import cv2

    for index in range(2):
        assert (cv2.imread(str(tmp_path / f"{index}.png")) == tools.pattern(321, 241, index)).all()
    assert cv2.imread(str(tmp_path / "2.png")).shape == (241, 321, 3)


@needs_gst
@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ("", "expected gst: and a pipeline"),
        ("appsrc !", "expected gst: and a pipeline"),
        ("nosuchthing ! fakesink", "not a pipeline of GStreamer: .*nosuchthing"),
        ("videoconvert ! ! fakesink", "not a pipeline of GStreamer"),
    ],
)
def test_what_is_not_a_pipeline_is_named(elements, message):
    with pytest.raises(SinkError, match=message):
        GstSink(f"gst:{elements}")


@needs_gst
def test_an_element_that_fails_is_named(tools):
    sink = GstSink("gst:videoconvert ! pngenc ! filesink location=/nowhere/x.png")
    with pytest.raises(SinkError, match=r"filesink\d+: Could not open file"), sink:
        write(tools, sink)


@needs_gst
def test_credentials_in_a_pipeline_are_not_shown(tools):
    sink = GstSink("gst:filesink location=http://u:secret@host/x")
    assert "secret" not in sink.uri
    with pytest.raises(SinkError) as error, sink:
        write(tools, sink)
    assert "secret" not in str(error.value)


@needs_gst
def test_a_pipeline_that_takes_nothing_is_given_up(tools, monkeypatch):
    monkeypatch.setattr(gst_push, "TIMEOUT_S", 0.4)
    monkeypatch.setattr(gst_push, "_END_S", 0.4)
    sink = GstSink("gst:identity sleep-time=60000000 ! fakesink")
    began = time.monotonic()
    with pytest.raises(SinkError, match=r"takes no picture for 0\.4 s"), sink:
        write(tools, sink)
    assert time.monotonic() - began < 5


def test_without_gstreamer_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(SinkError, match=r"apt install .*python3-gi"):
        GstSink("gst:fakesink")


@needs_gst
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_encoder_of_gstreamer_makes_a_recording(tools, tmp_path, suffix):
    with RecordingSink(tmp_path / f"out{suffix}", encoder=f"gst:{X264}") as sink:
        write(tools, sink)
    frames = tools.frames_of(tmp_path / f"out{suffix}")
    assert times_of(frames) == pytest.approx(FREE, abs=0.002)
    assert abs(frames[3].to_ndarray(format="bgr24").astype(int) - tools.pattern(320, 240, 3)).mean() < 8


@needs_gst
def test_an_encoder_of_gstreamer_makes_key_frames_for_segments(tools, tmp_path):
    times = [index / 10 for index in range(35)]
    with RecordingSink(tmp_path / "cam.mp4", encoder=f"gst:{X264} key-int-max=1000", segment=1) as sink:
        write(tools, sink, times)
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [len(tools.frames_of(path)) for path in files] == [10, 10, 10, 5]


@needs_gst
@pytest.mark.parametrize("elements", ["videoconvert ! jpegenc", "nosuchthing", ""])
def test_elements_that_are_no_encoder_are_named(tmp_path, elements):
    with pytest.raises(SinkError, match=rf"encoder: gst:{elements} does not work here \(.*use auto or libx264"):
        RecordingSink(tmp_path / "out.mp4", encoder=f"gst:{elements}")
    assert not list(tmp_path.iterdir())


def test_the_encoder_of_a_jetson_is_absent_here_and_says_so(tmp_path):
    if has("nvv4l2h264enc"):
        pytest.skip("this is a Jetson")
    with pytest.raises(SinkError, match=r"encoder: nvv4l2h264enc does not work here .*use auto or .*libx264"):
        RecordingSink(tmp_path / "out.mp4", encoder="nvv4l2h264enc")
