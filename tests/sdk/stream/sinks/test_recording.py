"""Recordings play, whatever happens."""

import itertools
import os
import re
import signal
import subprocess
import sys
import textwrap
from datetime import datetime, timedelta

import av
import cv2
import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import SinkError
from dartblur.frame import Frame
from dartblur.stream.media.integrity import missing_bytes
from dartblur.stream.sinks import recording
from dartblur.stream.sinks.recording import RecordingSink
from dartblur.stream.sinks.recording_names import RecordingNames

anonymize = Anonymizer(backend=FakeBackend())


def redacted(tools, index, seconds, size=(320, 240), captured=None):
    image = tools.pattern(*size, index)
    return anonymize(Frame(image, index, seconds, captured=100 + seconds if captured is None else captured))


def write_all(sink, frames):
    for frame in frames:
        sink.write(frame)


def record(tools, path, times, size=(320, 240), **options):
    with RecordingSink(path, **options) as sink:
        for index, seconds in enumerate(times):
            sink.write(redacted(tools, index, seconds, size))
    return sink


def times_of(frames):
    return [float(frame.pts * frame.time_base) for frame in frames]


FREE = [0, 0.033, 0.05, 0.3, 0.301, 1.9, 2.0, 3.7, 9.0, 9.01]


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv"])
def test_time_stamps_are_the_frames_own(tools, tmp_path, suffix):
    record(tools, tmp_path / f"out{suffix}", FREE)
    frames = tools.frames_of(tmp_path / f"out{suffix}")
    assert times_of(frames) == pytest.approx(FREE, abs=0.001)
    for index, frame in enumerate(frames):
        expected = tools.pattern(320, 240, index).astype(int)
        assert abs(frame.to_ndarray(format="bgr24") - expected).mean() < 4
    assert missing_bytes(tmp_path / f"out{suffix}") == 0


def test_h265_when_asked_for(tools, tmp_path):
    sink = record(tools, tmp_path / "out.mp4", FREE, codec="h265", encoder="libx265")
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.codec_tag) == ("hevc", "hvc1")
    assert times_of(tools.frames_of(tmp_path / "out.mp4")) == pytest.approx(FREE, abs=0.001)
    assert sink.notices == ["video is encoded in h265 by libx265 (software)"]


def test_the_file_has_its_name_at_once(tools, tmp_path):
    with RecordingSink(tmp_path / "out.mp4") as sink:
        assert not list(tmp_path.iterdir())
        sink.write(redacted(tools, 0, 0.0))
        assert list(tmp_path.iterdir()) == [tmp_path / "out.mp4"]


def test_fragments_are_of_a_second(tools, tmp_path):
    with RecordingSink(tmp_path / "out.mp4") as sink:
        for index in range(90):
            sink.write(redacted(tools, index, index / 15))
            if index > 30:
                with av.open(str(tmp_path / "out.mp4")) as container:
                    there = sum(1 for packet in container.demux(video=0) if packet.size)
                assert index - there <= 20


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_what_was_recorded_before_a_kill_plays(tools, tmp_path, suffix):
    program = textwrap.dedent(
        """
        import sys, time, numpy as np
        from pathlib import Path
        from dartblur.anonymizer import Anonymizer
        from dartblur.backends.fake import FakeBackend
        from dartblur.frame import Frame
        from dartblur.stream.sinks.recording import RecordingSink

        anonymize = Anonymizer(backend=FakeBackend())
        noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
        with RecordingSink(Path(sys.argv[1])) as sink:
            for index in range(100000):
                sink.write(anonymize(Frame(np.roll(noise, index, 1), index, index / 15)))
                print(index, flush=True)
                time.sleep(0.005)
        """
    )
    out = tmp_path / f"out{suffix}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", program, str(out)], stdout=subprocess.PIPE, env=environment)
    with child:
        for line in child.stdout:
            if int(line) == 100:
                break
        child.send_signal(signal.SIGKILL)
        written = [int(line) for line in child.stdout.read().split()]
    assert child.returncode == -signal.SIGKILL
    with av.open(str(out)) as container:
        stamps = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.size]
    last = max([100, *written])
    assert last - 17 <= len(stamps) <= last + 1
    times = times_of(tools.frames_of(out))
    assert len(times) >= last - 17
    assert times == pytest.approx([index / 15 for index in range(len(times))], abs=0.001)


@pytest.mark.parametrize("size", [(321, 241), (161, 240), (33, 17), (1, 1)])
def test_odd_sizes_get_a_border(tools, tmp_path, size):
    record(tools, tmp_path / "out.mp4", [0, 0.1], size)
    frame = tools.frames_of(tmp_path / "out.mp4")[0]
    assert (frame.width, frame.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    there = frame.to_ndarray(format="gray")[: size[1], : size[0]].astype(int)
    assert abs(there - cv2.cvtColor(tools.pattern(*size, 0), cv2.COLOR_BGR2GRAY)).mean() < 6


def test_another_size_is_put_into_the_first(tools, tmp_path):
    with RecordingSink(tmp_path / "out.mp4") as sink:
        sink.write(redacted(tools, 0, 0.0))
        sink.write(redacted(tools, 0, 0.1, (640, 240)))
        sink.write(redacted(tools, 0, 0.2, (60, 120)))
        sink.write(redacted(tools, 0, 0.3))
    frames = [frame.to_ndarray(format="bgr24").astype(int) for frame in tools.frames_of(tmp_path / "out.mp4")]
    assert [frame.shape for frame in frames] == [(240, 320, 3)] * 4
    assert frames[1][:55].max() < 12
    assert frames[1][185:].max() < 12
    assert frames[1][60:180].mean() > 60
    assert frames[2][:, :95].max() < 12
    assert frames[2][:, 105:215].mean() > 60
    assert abs(frames[3] - tools.pattern(320, 240, 0)).mean() < 4


def test_a_broken_clock_goes_by_that_of_the_machine(tools, tmp_path):
    stamps = [0, 0.5, 0.2, 0.7, float("nan"), 0.8, 5e8, 5e8 + 0.5]
    with RecordingSink(tmp_path / "out.mp4") as sink:
        for index, stamp in enumerate(stamps):
            sink.write(redacted(tools, index, stamp, captured=10 + index / 4))
    times = times_of(tools.frames_of(tmp_path / "out.mp4"))
    assert times == pytest.approx([0, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0, 2.5], abs=0.001)


def test_segments_begin_with_a_key_frame(tools, tmp_path):
    record(tools, tmp_path / "cam.mp4", [index / 10 for index in range(45)], segment=1)
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert all(re.fullmatch(r"cam-\d{8}T\d{6}(-\d+)?\.mp4", path.name) for path in files)
    lengths = []
    for path in files:
        frames = tools.frames_of(path)
        assert frames[0].key_frame
        assert times_of(frames) == pytest.approx([index / 10 for index in range(len(frames))], abs=0.001)
        lengths.append(len(frames))
    assert lengths == [10, 10, 10, 10, 5]


def test_names_of_segments(tmp_path):
    start = datetime(2026, 11, 21, 14)
    clock = itertools.count()

    def now():
        return start + timedelta(seconds=30 * next(clock))

    names = RecordingNames(tmp_path / "cam.mp4", segments=True, overwrite=False, now=now)
    assert names.next() == tmp_path / "cam-20261121T140000.mp4"
    (tmp_path / "cam-20261121T140030.mp4").touch()
    assert names.next() == tmp_path / "cam-20261121T140030-2.mp4"

    pattern = tmp_path / "%Y-%m-%d" / "cam-%H%M.mp4"
    clock = itertools.count()
    names = RecordingNames(pattern, segments=True, overwrite=True, now=now)
    first = names.next()
    assert first == tmp_path / "2026-11-21" / "cam-1400.mp4"
    first.touch()
    assert names.next() == tmp_path / "2026-11-21" / "cam-1400-2.mp4", "the segment before is never overwritten"
    assert names.next().name == "cam-1401.mp4"


def test_a_percent_sign_in_a_name_is_kept(tmp_path):
    names = RecordingNames(tmp_path / "100%.mp4", segments=True, overwrite=False, now=lambda: datetime(2026, 11, 21))
    assert names.next().name == "100%-20261121T000000.mp4"
    assert RecordingNames(tmp_path / "100%.mp4", segments=False, overwrite=False).next().name == "100%.mp4"


def test_a_folder_that_can_not_be_made_is_named(tmp_path):
    (tmp_path / "2026").touch()
    pattern = tmp_path / "%Y" / "cam.mp4"
    names = RecordingNames(pattern, segments=True, overwrite=False, now=lambda: datetime(2026, 1, 1))
    with pytest.raises(SinkError, match="2026: can't be made: File exists"):
        names.next()


def test_nothing_is_overwritten_unless_told(tools, tmp_path):
    out = tmp_path / "out.mp4"
    out.write_text("precious")
    with pytest.raises(SinkError, match="exists already"):
        RecordingSink(out)
    assert out.read_text() == "precious"
    record(tools, out, FREE, overwrite=True)
    assert len(tools.frames_of(out)) == len(FREE)


def test_a_file_that_appears_meanwhile_is_not_overwritten(tools, tmp_path):
    out = tmp_path / "out.mp4"
    sink = RecordingSink(out)
    out.write_text("precious")
    with pytest.raises(SinkError, match="File exists"), sink:
        sink.write(redacted(tools, 0, 0.0))
    assert out.read_text() == "precious"


def test_an_error_elsewhere_leaves_what_is_recorded(tools, tmp_path):
    with pytest.raises(TypeError), RecordingSink(tmp_path / "out.mp4") as sink:
        write_all(sink, [*(redacted(tools, index, seconds) for index, seconds in enumerate(FREE)), "no frame"])
    assert len(tools.frames_of(tmp_path / "out.mp4")) == len(FREE)
    assert missing_bytes(tmp_path / "out.mp4") == 0


def test_no_frame_no_file(tmp_path):
    with pytest.raises(SinkError, match="no frame came"), RecordingSink(tmp_path / "out.mp4"):
        pass
    assert not list(tmp_path.iterdir())


def test_clear_frames_never_pass(tools, tmp_path):
    sink = RecordingSink(tmp_path / "out.mp4")
    with pytest.raises(TypeError, match="RedactedFrame only"):
        sink.write(Frame(tools.pattern(320, 240, 0)))
    sink.discard()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.webm", {}, "expected a recording ending in .mp4"),
        ("out", {}, "no suffix"),
        ("absent/out.mp4", {}, "does not exist: create it first"),
        ("absent/%H.mp4", {"segment": 60}, "does not exist: create it first"),
        ("out.mp4", {"segment": 0.5}, "1 second or more"),
        ("out.mp4", {"segment": float("nan")}, "1 second or more"),
        ("out.mp4", {"quality": 52}, r"0 \(lossless\) to 51"),
        ("out.mp4", {"encoder": "x264"}, "expected auto or one of"),
    ],
)
def test_bad_options_are_named(tmp_path, name, options, message):
    with pytest.raises(SinkError, match=message):
        RecordingSink(tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode:
        pytest.skip("can't mount a small file system here: needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_named_and_the_recording_plays(tools, small_disk, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    out = small_disk / f"out{suffix}"
    frames = (anonymize(Frame(np.roll(noise, 5 * index, 0), index, index / 15)) for index in range(300))
    with pytest.raises(SinkError, match="the disk is full: free some space"), RecordingSink(out, quality=10) as sink:
        write_all(sink, frames)
    assert len(tools.frames_of(out)) >= 5
    assert missing_bytes(out) == 0


def test_a_limit_on_file_sizes_is_an_error_too(tools, tmp_path):
    program = textwrap.dedent(
        """
        import resource, sys, numpy as np
        from pathlib import Path
        from dartblur.anonymizer import Anonymizer
        from dartblur.backends.fake import FakeBackend
        from dartblur.errors import SinkError
        from dartblur.frame import Frame
        from dartblur.stream.sinks.recording import RecordingSink

        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        anonymize = Anonymizer(backend=FakeBackend())
        noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
        try:
            with RecordingSink(Path(sys.argv[1]), quality=30) as sink:
                for index in range(300):
                    sink.write(anonymize(Frame(np.roll(noise, 5 * index, 0), index, index / 15)))
        except SinkError as error:
            print(error)
        """
    )
    out = tmp_path / "out.mp4"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program, str(out)], capture_output=True, text=True, env=environment)
    assert "out.mp4: can't be written: File too large" in done.stdout, done.stderr
    assert len(tools.frames_of(out)) >= 5
    assert missing_bytes(out) == 0


def test_a_recording_never_replaces_its_own_segments(tmp_path):
    clock = [datetime(2026, 10, 25, 2, 59)]
    names = RecordingNames(tmp_path / "cam-%H%M.mp4", segments=True, overwrite=True, now=lambda: clock[0])

    def record(content):
        name = names.next()
        name.write_text(content)
        clock[0] += timedelta(seconds=10)
        return name.name

    minute = [record(f"first {index}") for index in range(6)]
    assert minute == ["cam-0259.mp4", *(f"cam-0259-{number}.mp4" for number in range(2, 7))]
    assert record("next") == "cam-0300.mp4"
    clock[0] = datetime(2026, 10, 25, 2, 59)  # the hour that comes twice
    assert [record("again") for _ in range(2)] == ["cam-0259-7.mp4", "cam-0259-8.mp4"]
    assert (tmp_path / "cam-0259.mp4").read_text() == "first 0"
    clock[0] = datetime(2026, 10, 25, 3, 1)
    assert record("on") == "cam-0301.mp4"
    clock[0] = datetime(2026, 10, 26, 2, 59)  # a day later its names are free
    assert [record("later") for _ in range(3)] == minute[:3]


class Broken:
    """An encoder that can't give what it held back."""

    def __init__(self, video):
        self.video = video

    def __getattr__(self, name):
        return getattr(self.video, name)

    def finish(self):
        raise SinkError("encoder: broke")


def test_an_encoder_that_fails_at_the_end_leaves_a_finished_file(tools, tmp_path):
    sink = RecordingSink(tmp_path / "out.mp4")
    write_all(sink, [redacted(tools, index, seconds) for index, seconds in enumerate(FREE)])
    sink._video = Broken(sink._video)
    with pytest.raises(SinkError, match="encoder: broke"), sink:
        pass
    assert sink._file._disk.closed
    assert len(tools.frames_of(tmp_path / "out.mp4")) == len(FREE)
    assert missing_bytes(tmp_path / "out.mp4") == 0


def test_a_muxer_that_can_not_be_opened_leaves_no_open_file(tools, tmp_path, monkeypatch):
    disks = []
    made = recording._Disk.__init__

    def watch(disk, *args):
        disks.append(disk)
        made(disk, *args)

    def refuse(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording._Disk, "__init__", watch)
    sink = RecordingSink(tmp_path / "out.mp4")
    monkeypatch.setattr(recording.av, "open", refuse)
    with pytest.raises(SinkError, match="the disk is full"), sink:
        sink.write(redacted(tools, 0, 0.0))
    assert [disk.closed for disk in disks] == [True]
