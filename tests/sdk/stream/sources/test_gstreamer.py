"""Pipelines of the system's GStreamer."""

import subprocess
import sys
import time

import numpy as np
import pytest

from dartblur.errors import SourceError
from dartblur.stream.sources.gstreamer import GstSource, csi_pipeline, load_gst, open_gst

TEST = "videotestsrc is-live=true pattern=smpte"


@pytest.fixture(autouse=True)
def gst(request, require_system):
    if "csi" not in request.node.name and "absent" not in request.node.name:
        require_system("gstreamer")
        try:
            load_gst()
        except ImportError as error:
            pytest.skip(str(error))  # a Python of another version than the system's


def frames_of(uri, enough, **options):
    events, frames = [], []
    with open_gst(uri, **options) as source:
        source.observe = events.append
        for frame in source:
            frames.append(frame)
            if enough(frames):
                return frames, events
    return frames, events


@pytest.mark.parametrize("width", [320, 322, 321, 323])  # rows of BGR are padded to four bytes
def test_rows_are_where_they_belong(width):
    frames, _ = frames_of(f"gst:{TEST} ! video/x-raw,width={width},height=240", lambda frames: len(frames) == 2)
    image = frames[0].image
    assert image.shape == (240, width, 3)
    assert image.flags.c_contiguous
    # The first bar of the test picture is white, the second yellow, the last blue; they stand upright.
    assert image[:150, : width // 7 - 3].min() > 243
    yellow, blue = image[:150, width // 7 + 6 : 2 * width // 7 - 6], image[:150, 6 * width // 7 + 6 : width - 6]
    assert np.abs(yellow.reshape(-1, 3).mean(0) - (0, 255, 255)).max() < 12
    assert np.abs(blue.reshape(-1, 3).mean(0) - (255, 0, 0)).max() < 12
    assert np.ptp(image[:150], axis=0).max() < 12


def test_times_are_those_of_the_buffers():
    frames, events = frames_of(
        f"gst:{TEST} ! video/x-raw,width=64,height=48,framerate=20/1", lambda frames: len(frames) == 15
    )
    # A busy machine may miss some buffers, which leaves a step twice as long.
    assert np.median(np.diff([frame.time for frame in frames])) == pytest.approx(0.05, abs=0.01)
    assert frames[-1].time / frames[-1].index > 0.04
    assert frames[0].pts is None
    assert time.monotonic() - frames[-1].captured < 1
    assert events[0].kind == "connected"


def test_the_size_changes_in_mid_stream(tools, tmp_path):
    for name, size in (("0", (64, 48)), ("1", (90, 70))):
        tools.make_clip(
            tmp_path / f"{name}.avi",
            codec="mjpeg",
            pix_fmt="yuvj420p",
            options={},
            size=size,
            pts=[3000 * i for i in range(8)],
        )
    first, second = tmp_path / "0.avi", tmp_path / "1.avi"
    uri = (
        f'gst:filesrc location="{first}" ! avidemux ! jpegdec ! c.sink_0 '
        f'filesrc location="{second}" ! avidemux ! jpegdec ! c.sink_1 concat name=c ! identity sleep-time=30000'
    )
    frames, _ = frames_of(uri, lambda frames: frames[-1].image.shape == (70, 90, 3))
    assert frames[0].image.shape == (48, 64, 3)
    assert np.abs(frames[-1].image.astype(int) - tools.pattern(90, 70, 0)).mean() < 40


def test_an_end_without_reconnecting_is_an_error():
    with pytest.raises(SourceError, match="has ended it"):
        frames_of("gst:videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48", lambda _: False, reconnect=False)


def test_after_an_end_the_pipeline_is_built_again():
    frames, events = frames_of(
        f"gst:{TEST} num-buffers=20 ! video/x-raw,width=64,height=48,framerate=50/1",
        lambda frames: frames[-1].index > 21,  # more than the first pipeline has
    )
    assert [event.kind for event in events if event.kind != "dropped"] == ["connected", "reconnecting", "connected"]
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gst:", "got no element"),
        ("gst:nosuchelement", 'no element "nosuchelement"'),
        ("gst:videotestsrc ! ! x", "not a pipeline of GStreamer"),
        ("gst:videotestsrc nosuchproperty=1", "nosuchproperty"),
        ("gst:filesrc location=/nowhere/x.mp4 ! decodebin", "/nowhere/x.mp4"),
        ("gst:videotestsrc num-buffers=0", "ended without a frame"),
        ("gst:audiotestsrc", "not a pipeline of GStreamer"),
        (
            "gst:rtspsrc location=rtsp://anna:geheim@127.0.0.1:9/x user-pw=geheim ! decodebin",
            "gst:rtspsrc location=rtsp://",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line_without_credentials(uri, message):
    with pytest.raises(SourceError) as caught:
        open_gst(uri)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_an_error_in_mid_stream_is_told_with_the_elements_words():
    with pytest.raises(SourceError, match=r"identity: Failed after iterations"):
        frames_of(
            f"gst:{TEST} ! video/x-raw,width=64,height=48 ! identity name=identity error-after=5",
            lambda _: False,
            reconnect=False,
        )


def test_stop_is_heard_by_a_pipeline_that_gives_nothing():
    source = GstSource(f"{TEST} num-buffers=1 ! video/x-raw,width=64,height=48", "gst:x")
    frames = iter(source)
    next(frames)
    source.stop()
    assert list(frames) == []
    source.close()


def test_csi_pipelines():
    text = csi_pipeline("csi://1?size=1920x1080&fps=60&flip=2")
    assert text == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),format=NV12,width=1920,height=1080,framerate=60/1 ! "
        "nvvidconv flip-method=2 ! video/x-raw,format=BGRx"
    )
    assert "sensor-id=0 ! video/x-raw(memory:NVMM),format=NV12,width=1280,height=720,framerate=30/1" in csi_pipeline(
        "csi://"
    )


@pytest.mark.parametrize(
    "uri", ["csi://x", "csi://0?size=big", "csi://0?zoom=2", "csi://0?fps=-1", "csi://0 ! filesink"]
)
def test_wrong_csi_names_are_refused(uri):
    with pytest.raises(SourceError, match="expected csi://N"):
        csi_pipeline(uri)


def test_absent_bindings_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("dartblur.stream.sources.gstreamer._SYSTEM_PACKAGES", str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "gi"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(SourceError, match=r"needs GStreamer.*apt install python3-gi"):
        open_gst("gst:videotestsrc")


def test_loading_leaves_the_search_path_alone():
    code = (
        "import sys; before = list(sys.path); from dartblur.stream.sources.gstreamer import load_gst; load_gst();"
        "assert sys.path == before; import numpy; print(numpy.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert "/usr/lib/python3/dist-packages" not in done.stdout


def test_exceptions_of_other_libraries_do_not_end_the_process(require_system):
    """TensorRT throws one when it is given what is no engine."""
    require_system("gstreamer")
    pytest.importorskip("tensorrt_rtx")
    program = (
        "from dartblur.stream.sources.gstreamer import load_gst; load_gst(); import tensorrt_rtx as trt; "
        "print(trt.Runtime(trt.Logger()).deserialize_cuda_engine(b'no engine' * 20))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.split()[-1:]) == (0, ["None"]), result.stderr
