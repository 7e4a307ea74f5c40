"""Cameras of this machine, as far as that goes without one."""

import gc

import av
import cv2
import numpy as np
import pytest

from dartblur.errors import SourceError
from dartblur.stream import open_source
from dartblur.stream.sources import video_source
from dartblur.stream.sources.live_video import Connection, LiveVideo


@pytest.fixture
def asked(monkeypatch):
    """What a camera is opened with; there is none."""
    connections = []

    def open_none(connection):
        connections.append(connection)
        raise SourceError(f"{connection.name}: {connection.explain(OSError(16, 'Device or resource busy'))}")

    monkeypatch.setattr(video_source, "LiveVideo", open_none)
    return connections


def test_a_mode_may_be_asked_for(asked):
    with pytest.raises(SourceError, match=r"/dev/null: .*busy"):
        video_source.camera("/dev/null?size=1280x720&fps=30&format=mjpeg")
    (connection,) = asked
    assert (connection.url, connection.format) == ("/dev/null", "v4l2")
    assert connection.options == {"video_size": "1280x720", "framerate": "30", "input_format": "mjpeg"}


def test_a_setting_that_no_camera_has_is_named(asked):
    with pytest.raises(SourceError, match="expected settings size, fps, format for a camera, got zoom"):
        video_source.camera("/dev/null?zoom=2")
    assert not asked


@pytest.mark.parametrize(
    ("name", "message"), [("77", "/dev/video77: no such camera"), ("/dev/null", "can't be opened or read as a camera")]
)
def test_what_is_no_camera_is_refused(name, message):
    with pytest.raises(SourceError, match=message):
        video_source.camera(name)


def test_a_file_of_text_is_no_live_video(tmp_path):
    (tmp_path / "a.txt").write_text("hello\n" * 500)
    with pytest.raises(SourceError, match="got text"):
        LiveVideo(Connection(str(tmp_path / "a.txt"), "a"))


def test_decoded_frames_are_freed_at_once(clip):
    """Not when the garbage collector comes by, which would be tens of megabytes later."""
    gc.collect()
    gc.disable()
    before = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
    try:
        with LiveVideo(Connection(str(clip), "clip")) as video:
            assert sum(1 for _ in video) == 30
        assert sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects()) <= before + 2
    finally:
        gc.enable()


def test_a_mode_may_stand_behind_a_number():
    with pytest.raises(SourceError, match="/dev/video77: no such camera"):
        open_source("77?size=1280x720")
    with pytest.raises(SourceError, match="expected settings size, fps, format for a camera, got zoom"):
        open_source("77?zoom=2")


def test_a_pattern_may_begin_with_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("77a.png", np.zeros((8, 8, 3), np.uint8))
    with open_source("77?.png") as source:
        assert [path.name for path in source.files] == ["77a.png"]
