"""Files behave as a camera."""

import sys
import threading
import time
from datetime import datetime

import cv2
import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import SinkError, SourceError
from dartblur.frame import Frame
from dartblur.stream import SinkOptions, Source, SourceInfo, SourceOptions, open_sink, open_source, run
from dartblur.stream.sources.realtime import Paced


def test_frames_come_at_their_times(tools, tmp_path):
    pts = [0, 9000, 18000, 54000]  # 0, 0.1, 0.2, 0.6 s
    path = tools.make_clip(tmp_path / "in.mp4", pts=pts)
    with Paced(open_source(path)) as source:
        assert source.info.live
        assert source.files == [path]
        began = time.monotonic()
        frames = list(source)
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.6])
    for frame in frames:
        assert frame.time <= frame.captured - began <= frame.time + 0.3
        assert frame.pts is None


def test_in_a_loop_time_and_index_go_on(tools, tmp_path):
    path = tools.make_clip(tmp_path / "in.mp4", pts=[0, 4500, 9000])
    with Paced(open_source(path), again=lambda: open_source(path)) as source:
        assert source.info.frames is None
        frames = []
        for frame in source:
            frames.append(frame)
            if len(frames) == 8:
                source.stop()
    assert [frame.index for frame in frames] == list(range(8))
    assert np.diff([frame.time for frame in frames]) == pytest.approx([0.05] * 7)
    assert np.array_equal(frames[0].image, frames[3].image)


def test_pictures_are_shown_for_a_while_and_keep_their_names(tmp_path):
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((6, 8, 3), ord(name), np.uint8))

    def again():
        return open_source(tmp_path)

    with Paced(again(), again=again, picture_s=0.1) as source:
        seen = []
        for frame in source:
            seen.append((round(frame.time, 3), source.name_of(frame.index)[-5], chr(frame.image[0, 0, 0])))
            if len(seen) == 5:
                break
    assert seen == [(0, "a", "a"), (0.1, "b", "b"), (0.2, "c", "c"), (0.3, "a", "a"), (0.4, "b", "b")]


def test_stop_is_heard_while_it_waits(tools, tmp_path):
    path = tools.make_clip(tmp_path / "in.mp4", pts=[0, 90000 * 60])
    source = Paced(open_source(path))
    timer = threading.Timer(0.3, source.stop)
    timer.start()
    began = time.monotonic()
    assert len(list(source)) == 1
    assert time.monotonic() - began < 1.5
    timer.join()
    source.close()


def test_a_slow_reader_is_not_chased(tools, tmp_path):
    path = tools.make_clip(tmp_path / "in.mp4", pts=[9000 * index for index in range(6)])
    with Paced(open_source(path)) as source:
        frames = iter(source)
        next(frames)
        time.sleep(1.5)
        next(frames)
        began = time.monotonic()
        assert len(list(frames)) == 4
        assert time.monotonic() - began > 0.25


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_picture_needs_a_time(tools, tmp_path, seconds):
    with (
        open_source(tools.make_clip(tmp_path / "in.mp4", pts=[0])) as inner,
        pytest.raises(SourceError, match="above 0"),
    ):
        Paced(inner, picture_s=seconds)


def outputs(options, source, sink):
    with open_source(source, SourceOptions(realtime=True)) as opened, open_sink(sink, opened, options) as out:
        return run(opened, Anonymizer(backend=FakeBackend()), out)


@pytest.mark.parametrize("linked", [False, True])
def test_a_video_is_never_written_over(tools, tmp_path, linked):
    path = target = tools.make_clip(tmp_path / "in.mp4", pts=[0, 4500, 9000])
    if linked:
        target = tmp_path / "link.mp4"
        target.symlink_to(path)
    before = path.read_bytes()
    with pytest.raises(SinkError, match="is the source itself"):
        outputs(SinkOptions(overwrite=True), path, target)
    assert path.read_bytes() == before
    assert target.is_symlink() == linked


@pytest.mark.parametrize("segment", [None, 1.0])
def test_a_video_is_never_written_over_by_the_name_of_a_segment(tools, tmp_path, segment):
    year = datetime.now().year
    path = tools.make_clip(tmp_path / f"in-{year}.mp4", pts=[0, 4500, 9000])
    before = path.read_bytes()
    outputs(SinkOptions(overwrite=True, segment=segment), path, tmp_path / "in-%Y.mp4")
    assert path.read_bytes() == before
    assert len(tools.frames_of(tmp_path / f"in-{year}-2.mp4")) == 3


def test_a_folder_is_never_written_over(tools, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    cv2.imwrite(str(folder / "00000000.png"), tools.pattern(64, 48, 0))
    before = (folder / "00000000.png").read_bytes()
    (tmp_path / "link").symlink_to(folder)
    for target in (folder, tmp_path / "link"):
        with pytest.raises(SinkError, match=r"00000000\.png: is the source itself"):
            outputs(SinkOptions(overwrite=True, pictures="png"), folder, target)
    outputs(SinkOptions(overwrite=True, pictures="jpg"), folder, folder)
    assert (folder / "00000000.png").read_bytes() == before
    assert (folder / "00000000.jpg").exists()


class Flash(Source):
    """A film of one frame that takes no time."""

    def __init__(self):
        super().__init__()
        self.info = SourceInfo("flash", 8, 6, 1)

    def __iter__(self):
        yield Frame(np.zeros((6, 8, 3), np.uint8))


def test_names_can_be_asked_for_while_rounds_begin():
    source = Paced(Flash(), again=Flash, picture_s=1e-6)

    def play():
        for _ in source:
            pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    player = threading.Thread(target=play)
    player.start()
    try:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert source.name_of(0) == "flash"
    finally:
        sys.setswitchinterval(interval)
        source.close()
        player.join()
