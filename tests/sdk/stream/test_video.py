"""A video keeps everything but its faces."""

import io
import shutil
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import SinkError, SourceError
from dartblur.stream import Sink, open_sink, open_source, run
from dartblur.stream.lanes import StoppedError

QUARTER = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)  # to be turned clockwise by 90 degrees
FREE = [0, 3000, 4000, 9000, 9500, 20000, 21000, 36000, 36100, 50000]
needs_matrix = pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_matrix"), reason="this PyAV can't write a rotation"
)


def planes(frame):
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].astype(int)
        for plane in frame.planes
    ]


def assert_same_outside(before, after, box, factor=2):
    """Brightness and colours outside of the box (xyxy) are those of the source, without a shift."""
    for plane, (old, new) in enumerate(zip(planes(before), planes(after), strict=True)):
        x0, y0, x1, y1 = (int(value) // (1 if plane == 0 else factor) for value in box)
        outside = np.ones(old.shape, bool)
        outside[max(0, y0 - 8) : y1 + 8, max(0, x0 - 8) : x1 + 8] = False
        difference = (new - old)[outside]
        assert abs(difference.mean()) < 0.5, f"plane {plane} is shifted by {difference.mean()}"
        assert abs(difference).mean() < 1.6, f"plane {plane} differs by {abs(difference).mean()}"


def is_black(frame, box):
    x0, y0, x1, y1 = (int(value) for value in box)
    return frame.to_ndarray(format="bgr24")[y0 + 6 : y1 - 6, x0 + 6 : x1 - 6].mean() < 6


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_everything_is_kept(clip, tools, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    summary = tools.anonymize(clip, out)
    assert (summary.frames, summary.faces, summary.frames_with_faces) == (30, 30, 30)

    before, after = tools.frames_of(clip), tools.frames_of(out)
    assert len(after) == 30
    first = after[0]
    assert (first.color_primaries, first.color_trc, first.colorspace, first.color_range) == (1, 1, 1, 1)
    for old, new in zip(before, after, strict=True):
        assert_same_outside(old, new, tools.FACE[0])
        assert is_black(new, tools.FACE[0])
    with av.open(str(out)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(15, 16)
        assert container.metadata.get("title", container.metadata.get("TITLE")) == "A walk"
        assert container.streams.video[0].codec_context.name == "h264"

    sound, copied = tools.packets_of(clip, "audio"), tools.packets_of(out, "audio")
    assert [data for data, _ in copied] == [data for data, _ in sound]
    offset = float(before[0].pts * before[0].time_base) - sound[0][1]
    assert float(after[0].pts * after[0].time_base) - copied[0][1] == pytest.approx(offset, abs=0.002)
    assert list(tmp_path.iterdir()) == [out]


def test_time_stamps_are_kept_to_the_tick(tools, tmp_path):
    source, out = tools.make_clip(tmp_path / "in.mp4", pts=FREE), tmp_path / "out.mp4"
    tools.anonymize(source, out)
    assert [frame.pts for frame in tools.frames_of(out)] == FREE


def test_time_stamps_in_matroska_are_kept_to_the_millisecond(tools, tmp_path):
    source, out = tools.make_clip(tmp_path / "in.mp4", pts=FREE), tmp_path / "out.mkv"
    tools.anonymize(source, out)
    assert [frame.pts for frame in tools.frames_of(out)] == [round(pts / 90) for pts in FREE]


def test_a_late_start_is_kept(tools, tmp_path):
    pts = [90000 + 3000 * i for i in range(10)]
    source, out = tools.make_clip(tmp_path / "in.mkv", pts=pts, sound=True), tmp_path / "out.mkv"
    tools.anonymize(source, out)
    assert [frame.pts for frame in tools.frames_of(out)] == [frame.pts for frame in tools.frames_of(source)]
    assert tools.packets_of(out, "audio") == tools.packets_of(source, "audio")


def test_the_arbitrary_clock_of_mpegts_is_taken_off(tools, tmp_path):
    source, out = tools.make_clip(tmp_path / "in.ts", sound=True), tmp_path / "out.mp4"
    tools.anonymize(source, out)
    before, after = tools.frames_of(source), tools.frames_of(out)
    sound, copied = tools.packets_of(source, "audio"), tools.packets_of(out, "audio")
    assert len(after) == len(before)
    assert float(after[0].pts * after[0].time_base) < 0.1
    offset = float(before[0].pts * before[0].time_base) - sound[0][1]
    assert float(after[0].pts * after[0].time_base) - copied[0][1] == pytest.approx(offset, abs=0.002)


def test_avi_has_a_fixed_rate(tools, tmp_path):
    steady, free = tools.make_clip(tmp_path / "in.mp4"), tools.make_clip(tmp_path / "free.mp4", pts=FREE)
    tools.anonymize(steady, tmp_path / "out.avi")
    assert len(tools.frames_of(tmp_path / "out.avi")) == 30
    with pytest.raises(SinkError, match=r"fixed frame rate.*\.mkv"):
        tools.anonymize(free, tmp_path / "free.avi")
    assert not (tmp_path / "free.avi").exists()


@needs_matrix
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_detector_sees_upright_and_the_file_stays_turned(tools, tmp_path, suffix):
    source, out = tools.make_clip(tmp_path / "in.mp4", matrix=QUARTER), tmp_path / f"out{suffix}"
    seen = []

    def finder(image):
        seen.append(image.shape)
        return tools.FACE

    tools.anonymize(source, out, finder)
    assert set(seen) == {(320, 240, 3)}
    before, after = tools.frames_of(source), tools.frames_of(out)
    assert (after[0].width, after[0].height, after[0].rotation) == (320, 240, before[0].rotation)
    # Clockwise: upright (x, y) was stored at (y, 240 - x).
    stored = (48, 240 - 128, 112, 240 - 64)
    for old, new in zip(before, after, strict=True):
        assert is_black(new, stored)
        assert_same_outside(old, new, stored)


@needs_matrix
def test_avi_gets_the_upright_picture(tools, tmp_path):
    source = tools.make_clip(tmp_path / "in.mp4", matrix=QUARTER, aspect=Fraction(15, 16))
    tools.anonymize(source, tmp_path / "out.avi")
    frame = tools.frames_of(tmp_path / "out.avi")[0]
    assert (frame.width, frame.height) == (240, 320)
    assert is_black(frame, tools.FACE[0])


@pytest.mark.parametrize(
    "colours", [(1, 1, 1, 1), (1, 1, 1, 2), (6, 6, 6, 1), (5, 6, 5, 2), (2, 2, 2, 1), (9, 16, 9, 1)]
)
def test_colours_do_not_shift(tools, tmp_path, colours):
    source, out = tools.make_clip(tmp_path / "in.mp4", colours=colours, pts=range(0, 15000, 3000)), tmp_path / "out.mp4"
    tools.anonymize(source, out)
    for old, new in zip(tools.frames_of(source), tools.frames_of(out), strict=True):
        assert_same_outside(old, new, tools.FACE[0])
        tags = (new.color_primaries, new.color_trc, new.colorspace, new.color_range)
        assert tags == (old.color_primaries, old.color_trc, old.colorspace, old.color_range)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_ten_bits_come_out_as_eight(tools, tmp_path, codec):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else None
    source = tools.make_clip(
        tmp_path / "in.mp4",
        codec=codec,
        pix_fmt="yuv420p10le",
        colours=(9, 16, 9, 1),
        pts=range(0, 15000, 3000),
        options=options,
    )
    out = tmp_path / "out.mp4"
    tools.anonymize(source, out)
    old, new = tools.frames_of(source)[2], tools.frames_of(out)[2]
    assert new.format.name == "yuv420p"
    assert (new.color_primaries, new.color_trc, new.colorspace) == (9, 16, 9)
    assert_same_outside(old.reformat(format="yuv420p"), new, tools.FACE[0])


@pytest.mark.parametrize(("size", "codec"), [((321, 241), "libvpx-vp9"), ((161, 242), "mpeg4")])
def test_odd_sizes_are_kept(tools, tmp_path, size, codec):
    source = tools.make_clip(
        tmp_path / "in.mkv", size=size, codec=codec, pts=range(0, 15000, 3000), options={}, time_base=Fraction(1, 3000)
    )
    for suffix in (".mp4", ".webm"):
        out = tmp_path / f"out{suffix}"
        tools.anonymize(source, out)
        assert [(frame.width, frame.height) for frame in tools.frames_of(out)] == [size] * 5


def test_interlaced_stays_interlaced(tools, tmp_path):
    options = {"preset": "ultrafast", "x264-params": "tff=1"}
    source = tools.make_clip(tmp_path / "in.mp4", options=options, pts=range(0, 30000, 3000))
    assert tools.frames_of(source)[0].interlaced_frame
    tools.anonymize(source, tmp_path / "out.mp4")
    assert all(frame.interlaced_frame for frame in tools.frames_of(tmp_path / "out.mp4"))


def test_other_videos_are_left_out_and_named(tools, tmp_path):
    source = tools.make_clip(tmp_path / "in.mkv", more_videos=1, sound=True)
    with open_source(source) as opened:
        assert any("would show clear faces" in notice for notice in opened.notices)
    tools.anonymize(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert container.streams.video[0].width == 320


def test_subtitles_are_copied(tools, tmp_path):
    clip, source = tools.make_clip(tmp_path / "clip.mkv"), tmp_path / "in.mkv"
    subtitles = tmp_path / "in.srt"
    subtitles.write_text("1\n00:00:00,100 --> 00:00:00,500\nHello\n\n")
    with av.open(str(clip)) as video, av.open(str(subtitles)) as text, av.open(str(source), "w") as container:
        streams = {
            id(each): container.add_stream_from_template(each, opaque=True)
            for each in (video.streams.video[0], text.streams.subtitles[0])
        }
        for opened in (text, video):
            for packet in opened.demux():
                if packet.size:
                    packet.stream = streams[id(packet.stream)]
                    container.mux(packet)
    tools.anonymize(source, tmp_path / "out.mkv")
    assert tools.packets_of(tmp_path / "out.mkv", "subtitle") == tools.packets_of(source, "subtitle")


def test_sound_that_the_container_refuses_is_named(tools, tmp_path, clip):
    with pytest.raises(SinkError, match=r"\.webm doesn't take.*aac.*use \.mkv"):
        tools.anonymize(clip, tmp_path / "out.webm")
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_is_named(tools, tmp_path, clip):
    with pytest.raises(SinkError, match=r"\.mp4.*got '\.xyz'"):
        tools.anonymize(clip, tmp_path / "out.xyz")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "is empty"), (b"no media " * 1000, "neither"), (b"\0" * 5000, "neither")],
)
def test_what_is_not_media_is_refused(tools, tmp_path, content, message):
    source = tmp_path / "in.mp4"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        tools.anonymize(source, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_sound_alone_is_refused(tools, tmp_path):
    path = tmp_path / "in.mka"
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match="without a video stream"):
        tools.anonymize(path, tmp_path / "out.mkv")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_cut_file_is_refused_unless_told(tools, tmp_path, suffix):
    # The index first, as recorders for the web write it; otherwise a cut MP4 can't be opened at all.
    flags = {"movflags": "faststart"} if suffix == ".mp4" else {}
    data = tools.make_clip(tmp_path / f"whole{suffix}", container_options=flags).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(SourceError, match=r"cut short.*--keep-going"):
        tools.anonymize(cut, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    summary = tools.anonymize(cut, tmp_path / "out.mp4", keep_going=True)
    assert 5 <= summary.frames < 30
    assert len(tools.frames_of(tmp_path / "out.mp4")) == summary.frames


def test_damaged_packets_are_left_out_and_counted(tools, tmp_path):
    clip, source = (
        tools.make_clip(tmp_path / "clip.mkv", codec="mjpeg", pix_fmt="yuvj420p", options={}),
        tmp_path / "in.mkv",
    )
    with av.open(str(clip)) as video, av.open(str(source), "w") as container:
        stream = container.add_stream_from_template(video.streams.video[0], opaque=True)
        for number, packet in enumerate(video.demux(video=0)):
            if packet.size:
                if number in (5, 6):
                    broken = av.Packet(b"\x00" * 40)
                    broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                    packet = broken
                packet.stream = stream
                container.mux(packet)
    summary = tools.anonymize(source, tmp_path / "out.mp4")
    assert summary.damaged == 2
    assert summary.frames == len(tools.frames_of(tmp_path / "out.mp4")) == 28


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize(("suffix", "harm"), [(".ts", "lost"), (".mp4", "flipped")])
def test_after_damage_nothing_smeared_leaves_and_the_next_key_frame_does(tools, tmp_path, codec, suffix, harm):
    options = {"preset": "ultrafast", "g": "15", "bf": "2", "x265-params": "keyint=15:log-level=none"}
    clip = tools.make_clip(tmp_path / f"clip{suffix}", codec=codec, options=options, pts=range(0, 60 * 3000, 3000))
    with open_source(str(clip)) as source:
        whole = {frame.pts: frame.image.copy() for frame in source}
    harmed, lost = tmp_path / f"harmed{suffix}", []
    with av.open(str(clip)) as video, av.open(str(harmed), "w") as container:
        stream = container.add_stream_from_template(video.streams.video[0], opaque=True)
        for number, packet in enumerate(video.demux(video=0)):
            if number == 19 and packet.size:
                lost.append(packet.pts)
                if harm == "lost":
                    continue
                data = bytes(packet)  # behind its length and kind
                broken = av.Packet(data[:6] + bytes(value ^ 0x55 for value in data[6:]))
                broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                packet = broken
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    with open_source(str(harmed)) as source:
        left = {frame.pts: frame.image.copy() for frame in source}
        assert source.damaged
    shift = min(whole) - min(left)
    assert all(np.array_equal(image, whole[stamp + shift]) for stamp, image in left.items())
    assert lost[0] - shift not in left
    assert {stamp + shift for stamp in left} >= set(sorted(whole)[30:])
    assert {stamp + shift for stamp in left} >= set(sorted(whole)[:15])


@pytest.mark.parametrize("uri", ["77", "v4l2:///dev/video77"])
def test_an_absent_camera_is_named(uri):
    with pytest.raises(SourceError, match="/dev/video77: no such camera"):
        open_source(uri)


def test_a_camera_that_is_a_file_is_refused(clip):
    with pytest.raises(SourceError, match="expected a camera device"):
        open_source(f"v4l2://{clip}")


def test_cover_pictures_and_attachments_are_left_out(tools, tmp_path):
    clip, source = tools.make_clip(tmp_path / "clip.mkv"), tmp_path / "in.mkv"
    data = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(data, "JPEG")
    with av.open(str(clip)) as video, av.open(str(source), "w") as container:
        stream = container.add_stream_from_template(video.streams.video[0], opaque=True)
        container.add_attachment("cover.jpg", "image/jpeg", data.getvalue())
        container.metadata["METADATA_BLOCK_PICTURE"] = "A" * 5000
        for packet in video.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    with open_source(source) as opened:
        assert any("cover picture" in notice for notice in opened.notices)
    tools.anonymize(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert not [key for key in container.metadata if "PICTURE" in key]


@pytest.mark.parametrize("content", ["hello\n" * 500, "ffconcat version 1.0\nfile clip.mp4\n"])
def test_text_that_ffmpeg_would_take_is_refused(tools, clip, tmp_path, content):
    (tmp_path / "in.txt").write_text(content)
    (tmp_path / "clip.mp4").symlink_to(clip)
    with pytest.raises(SourceError, match="expected a video or picture"):
        tools.anonymize(tmp_path / "in.txt", tmp_path / "out.mp4")


def test_a_stream_without_a_clock_gets_one(tools, tmp_path):
    source, out = tools.make_clip(tmp_path / "in.h264"), tmp_path / "out.mp4"
    tools.anonymize(source, out)
    times = [float(frame.pts * frame.time_base) for frame in tools.frames_of(out)]
    assert len(times) == 30
    assert times == sorted(set(times))


@pytest.mark.parametrize("sink", ["out.jpg", "out.txt", "ftp://host/out.mp4"])
def test_a_video_goes_to_a_video_file_or_a_device(tools, clip, tmp_path, sink):
    with pytest.raises(SinkError, match="expected a"):
        tools.anonymize(clip, sink if "://" in sink else tmp_path / sink)


def test_segments_are_for_live_sources(tools, clip, tmp_path):
    with pytest.raises(SinkError, match="segments are for live sources"):
        tools.anonymize(clip, tmp_path / "out.mp4", segment=1.0)


def test_an_unknown_scheme_is_named():
    with pytest.raises(SourceError, match="another scheme"):
        open_source("ftp://host/file.mp4")


def test_a_video_that_is_stopped_early_is_not_there(tools, clip, tmp_path):
    viewer = Viewer(after=5)
    with (
        pytest.raises(SinkError, match=r"out\.mp4: .*clip\.mp4 was stopped before its end, .*: nothing was written"),
        open_source(clip) as source,
        open_sink(tmp_path / "out.mp4", source) as sink,
        viewer,
    ):
        run(source, Anonymizer(backend=FakeBackend()), [sink, viewer])
    assert not list(tmp_path.iterdir())


def test_looking_at_a_part_of_a_video_is_no_error(clip):
    with open_source(clip) as source, Viewer(after=5) as viewer:
        assert run(source, Anonymizer(backend=FakeBackend()), viewer).frames < 30


class Viewer(Sink):
    """Somebody looks at so many pictures, and then closes the window."""

    def __init__(self, after):
        super().__init__("display://0")
        self.left = after

    def _write(self, frame):
        time.sleep(0.02)
        self.left -= 1
        if self.left == 0:
            self.on_end()

    def commit(self):
        pass

    def discard(self):
        pass


def test_no_unfinished_file_stays_though_its_writer_hangs(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("dartblur.stream.base._PATIENCE_S", 0.1)
    released, abort = threading.Event(), threading.Event()
    source = open_source(clip)
    sink = open_sink(tmp_path / "out.mp4", source)
    from_bgr = sink._from_bgr

    def hang(image):
        abort.set()
        released.wait()
        return from_bgr(image)

    sink._from_bgr = hang
    with pytest.raises(StoppedError), source, sink:
        run(source, Anonymizer(backend=FakeBackend()), sink, abort=abort)
    assert not list(tmp_path.iterdir())
    released.set()
    with sink._writing:
        sink.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [("a:b.mp4", "out.mp4"), ("in.mp4", "10:30:12.mp4"), ("a:b.mp4", "c:d.mkv")])
def test_a_colon_in_a_name_is_no_protocol(tools, clip, tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, names[0])
    tools.anonymize(*names)
    assert len(tools.frames_of(tmp_path / names[1])) == 30
    assert len(tools.packets_of(tmp_path / names[1], "audio")) == len(tools.packets_of(clip, "audio"))


def test_an_avi_keeps_its_time(tools, clip, tmp_path):
    """The sound of MP4 begins before 0, with what the coder needs to swing in; AVI knows no time before 0."""
    with av.open(str(clip)) as container:
        assert next(packet for packet in container.demux(audio=0)).pts < 0
    tools.anonymize(clip, tmp_path / "out.avi")
    with av.open(str(tmp_path / "out.avi")) as container:
        assert [packet.dts for packet in container.demux(video=0) if packet.dts is not None] == list(range(30))
        assert container.duration == pytest.approx(1_000_000, abs=25_000)
    sound = tools.packets_of(tmp_path / "out.avi", "audio")
    assert sound[0][1] == 0
    assert [data for data, _ in sound] == [data for data, time in tools.packets_of(clip, "audio") if time >= 0]


def notices_of(path, out):
    with open_source(path) as source, open_sink(out, source) as sink:
        for frame in source:
            sink.write(Anonymizer(backend=FakeBackend())(frame))
        return [*source.notices, *sink.notices]


@pytest.mark.parametrize(
    ("pixels", "codec", "size", "told"),
    [
        ("yuv420p", "ffv1", (64, 48), []),
        ("gray", "ffv1", (64, 48), []),
        ("yuv420p10le", "ffv1", (64, 48), ["10 bits a colour become 8"]),
        ("yuv422p", "ffv1", (64, 48), ["colours in 4:2:2 become 4:2:0"]),
        ("yuv444p12le", "ffv1", (64, 48), ["12 bits a colour become 8", "colours in 4:4:4 become 4:2:0"]),
        ("bgra", "ffv1", (64, 48), ["transparency", "colours in 4:4:4 become 4:2:0"]),
        ("yuv420p", "ffv1", (65, 48), ["65x48 is an odd size: colours are stored whole (4:4:4)"]),
    ],
)
def test_what_a_video_loses_is_told(tools, tmp_path, pixels, codec, size, told):
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(tools.pattern(*size, index), format="bgr24").reformat(format=pixels)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    notices = notices_of(source, tmp_path / "out.mkv")
    assert len(notices) == len(told)
    assert all(part in notice for part, notice in zip(told, notices, strict=True))


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_video_without_its_index_has_nothing_to_give(tools, clip, tmp_path, keep_going):
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"its index \(moov\) is missing: nothing can be taken from it") as error:
        tools.anonymize(tmp_path / "cut.mp4", tmp_path / "out.mp4", keep_going=keep_going)
    assert "--keep-going" not in str(error.value)


@pytest.mark.parametrize("named", ["frames", "frames.d/"])
def test_a_slash_means_a_folder_for_frames_too(tools, clip, tmp_path, named):
    (tmp_path / "frames").mkdir()
    left = tmp_path / "frames" / ".00000003.jpg.01234567.partial"
    left.touch()
    tools.anonymize(clip, f"{tmp_path}/{named}")
    assert len(list((tmp_path / named).glob("*.jpg"))) == 30
    assert left.exists() == (named != "frames")
