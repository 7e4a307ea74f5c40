"""Numbered pictures of a live stream."""

import cv2
import numpy as np
import pytest
from PIL import Image

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import SinkError
from dartblur.frame import Frame
from dartblur.stream.sinks.live_images import LiveImageSink

anonymize = Anonymizer(backend=FakeBackend())


def write(tools, sink, times, first=0):
    for index, seconds in enumerate(times, first):
        sink.write(anonymize(Frame(tools.pattern(64, 48, index), index, seconds, captured=10 + seconds)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("format", "tolerance"), [("jpg", 4), ("png", 0)])
def test_pictures_are_numbered_as_their_frames(tools, tmp_path, format, tolerance):
    with LiveImageSink(tmp_path / "out", format=format) as sink:
        write(tools, sink, [0, 0.1, 0.2], first=41)
    assert names(tmp_path / "out") == [f"000000{number}.{format}" for number in (41, 42, 43)]
    path = tmp_path / "out" / f"00000042.{format}"
    assert abs(cv2.imread(str(path)).astype(int) - tools.pattern(64, 48, 42)).mean() <= tolerance
    with Image.open(path) as picture:
        assert not picture.getexif()
        assert not set(picture.info) & {"exif", "comment", "icc_profile", "photoshop"}


def test_one_in_so_many_frames(tools, tmp_path):
    with LiveImageSink(tmp_path / "out", every=3) as sink:
        write(tools, sink, [index / 10 for index in range(8)])
    assert names(tmp_path / "out") == ["00000000.jpg", "00000003.jpg", "00000006.jpg"]


def test_at_most_so_many_a_second(tools, tmp_path):
    with LiveImageSink(tmp_path / "out", max_fps=4) as sink:
        write(tools, sink, [index / 15 for index in range(150)])
    assert 39 <= len(names(tmp_path / "out")) <= 41


def test_no_burst_after_a_gap(tools, tmp_path):
    with LiveImageSink(tmp_path / "out", max_fps=2) as sink:
        write(tools, sink, [0, 10, 10.1, 10.2, 10.3, 10.6])
    assert names(tmp_path / "out") == ["00000000.jpg", "00000001.jpg", "00000005.jpg"]


def test_nothing_is_overwritten_unless_told(tools, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "holiday.jpg").write_text("precious")
    LiveImageSink(folder)
    (folder / "00000001.jpg").write_text("old")
    with pytest.raises(SinkError, match=r"00000001.jpg: exists already"):
        LiveImageSink(folder)
    with LiveImageSink(folder, overwrite=True) as sink:
        write(tools, sink, [0, 0.1])
    assert cv2.imread(str(folder / "00000001.jpg")) is not None
    assert (folder / "holiday.jpg").read_text() == "precious"


def test_a_picture_that_appears_meanwhile_is_not_overwritten(tools, tmp_path):
    sink = LiveImageSink(tmp_path / "out")
    (tmp_path / "out" / "00000001.jpg").write_text("precious")
    with pytest.raises(SinkError, match="appeared during the run"), sink:
        write(tools, sink, [0, 0.1])
    assert names(tmp_path / "out") == ["00000000.jpg", "00000001.jpg"]
    assert (tmp_path / "out" / "00000001.jpg").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out", {"every": 0}, "every: expected 1 or more frames, got 0"),
        ("out", {"max_fps": 0}, "max_fps: expected more than 0"),
        ("out", {"max_fps": float("nan")}, "max_fps: expected more than 0"),
        ("out", {"format": "gif"}, "expected one of jpg, png, got 'gif'"),
        ("absent/out", {}, "does not exist: create it first"),
        ("file", {}, "need a folder, got a file"),
    ],
)
def test_bad_options_are_named(tmp_path, name, options, message):
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=message):
        LiveImageSink(tmp_path / name, **options)
    assert names(tmp_path) == ["file"]


def test_a_picture_too_large_for_the_format(tmp_path):
    wide = anonymize(Frame(np.zeros((1, 65501, 3), np.uint8)))
    with pytest.raises(SinkError, match=r"65501x1 can't be written as jpg"), LiveImageSink(tmp_path / "out") as sink:
        sink.write(wide)
    assert names(tmp_path / "out") == []


def test_clear_frames_never_pass(tools, tmp_path):
    with pytest.raises(TypeError, match="RedactedFrame only"), LiveImageSink(tmp_path / "out") as sink:
        sink.write(Frame(tools.pattern(64, 48, 0)))
