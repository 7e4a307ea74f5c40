"""What tells of people beside their faces is left out where the user says so."""

from fractions import Fraction

import av
import numpy as np
import piexif
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.stream import SinkOptions, open_sink, open_source, run

PLACE = "+48.1000+011.5000/"


@pytest.fixture
def film(tools, tmp_path):
    """With sound, a title, place, time, a chapter, and the language of its sound."""
    clip, path = tools.make_clip(tmp_path / "clip.mp4", sound=True), tmp_path / "film.mp4"
    with av.open(str(clip)) as old, av.open(str(path), "w", container_options={"movflags": "use_metadata_tags"}) as new:
        new.metadata.update({"title": "Jane", "location": PLACE, "creation_time": "2024-01-02T03:04:05.000000Z"})
        streams = {each.index: new.add_stream_from_template(each, opaque=True) for each in old.streams}
        streams[1].metadata["language"] = "deu"
        chapter = {"id": 1, "start": 0, "end": 500, "time_base": Fraction(1, 1000), "metadata": {"title": "At Jane's"}}
        new.set_chapters([chapter])
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    return path


def tags_of(path):
    """All tags of a video: of the container, of each stream, of each chapter."""
    with av.open(str(path)) as container:
        tags = [container.metadata, *(stream.metadata for stream in container.streams)]
        tags += [chapter["metadata"] for chapter in container.chapters()]
        return {f"{key}={value}" for each in tags for key, value in each.items()}


def kinds_of(path):
    with av.open(str(path)) as container:
        return sorted(stream.type for stream in container.streams if stream.type in ("video", "audio", "subtitle"))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_video_without_metadata(tools, film, tmp_path, suffix):
    kept, bare = tmp_path / f"kept{suffix}", tmp_path / f"bare{suffix}"
    tools.anonymize(film, kept)
    assert any("title=Jane" in tag for tag in tags_of(kept))
    assert any(PLACE in tag for tag in tags_of(kept))
    assert any("At Jane's" in tag for tag in tags_of(kept))

    tools.anonymize(film, bare, metadata=False)
    assert not [tag for tag in tags_of(bare) if "Jane" in tag or "48.1" in tag or "2024" in tag or "deu" in tag]
    written = bare.read_bytes()
    assert not [text for text in (b"Jane", b"+48.1000", b"2024-01") if text in written]
    assert kinds_of(bare) == ["audio", "video"]
    assert tools.packets_of(bare, "audio") == tools.packets_of(kept, "audio")
    assert [(f.colorspace, f.color_range) for f in tools.frames_of(bare)] == [(1, 1)] * 30


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi"])
def test_a_video_without_sound(tools, film, tmp_path, suffix):
    """WebM doesn't take AAC, which doesn't matter then."""
    out = tmp_path / f"out{suffix}"
    tools.anonymize(film, out, sound=False)
    assert kinds_of(out) == ["video"]
    assert len(tools.frames_of(out)) == 30


def test_subtitles_go_with_the_metadata(tools, tmp_path):
    """Drones write their place into them, line by line."""
    clip, text, source = tools.make_clip(tmp_path / "clip.mkv"), tmp_path / "in.srt", tmp_path / "in.mkv"
    text.write_text("1\n00:00:00,100 --> 00:00:00,500\nlatitude: 48.1 longitude: 11.5\n\n")
    with av.open(str(clip)) as video, av.open(str(text)) as lines, av.open(str(source), "w") as container:
        for opened in (lines, video):
            stream = container.add_stream_from_template(opened.streams[0], opaque=True)
            opened_packets = [packet for packet in opened.demux(0) if packet.size]
            for packet in opened_packets:
                packet.stream = stream
            if opened is lines:
                waiting = opened_packets
            else:
                container.mux(waiting + opened_packets)
    assert b"latitude" in source.read_bytes()
    with open_source(source) as opened, open_sink(tmp_path / "o.mkv", opened, SinkOptions(metadata=False)) as sink:
        assert any("subtitle" in notice and "with the metadata" in notice for notice in sink.notices)
        run(opened, Anonymizer(backend=FakeBackend()), sink)
    assert b"latitude" not in (tmp_path / "o.mkv").read_bytes()
    tools.anonymize(source, tmp_path / "kept.mkv", sound=False)
    assert b"latitude" in (tmp_path / "kept.mkv").read_bytes()


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def notes(orientation):
    return piexif.dump(
        {
            "0th": {
                piexif.ImageIFD.Artist: b"Jane Doe",
                piexif.ImageIFD.Orientation: orientation,
                piexif.ImageIFD.DateTime: b"2024:01:02 03:04:05",
            },
            "Exif": {piexif.ExifIFD.ColorSpace: 65535, piexif.ExifIFD.BodySerialNumber: b"Jane-007"},
            "GPS": {piexif.GPSIFD.GPSLatitude: ((48, 1), (1, 1), (2, 1))},
        }
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_picture_without_metadata(tools, tmp_path, suffix, orientation):
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    options = {"exif": notes(orientation), "icc_profile": PROFILE}
    if suffix == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", "Jane Doe")
        options["pnginfo"] = text
    elif suffix == ".jpg":
        options |= {"comment": b"Jane Doe", "xmp": b"<x>Jane Doe</x>"}
    Image.fromarray(tools.pattern(160, 120, 3)).save(source, **options)
    tools.anonymize(source, tmp_path / f"kept{suffix}")
    assert b"Jane" in (tmp_path / f"kept{suffix}").read_bytes()

    tools.anonymize(source, out, metadata=False)
    assert not [text for text in (b"Jane", b"2024") if text in out.read_bytes()]
    with Image.open(out) as written:
        exif = written.getexif()
        assert not exif.get_ifd(0x8825)
        assert set(exif.get_ifd(0x8769)) <= {0xA001}
        assert exif.get_ifd(0x8769).get(0xA001) == 65535, "these colours would be shown as others"
        assert written.info["icc_profile"] == PROFILE
        if suffix != ".tif":  # those are stored upright
            assert exif.get(0x0112, 1) == orientation
            assert written.size == (160, 120)
        assert 0x013B not in exif
        assert 0x0132 not in exif


def test_a_recording_without_metadata_has_no_date(tools, tmp_path):
    from dartblur.frame import Frame
    from dartblur.stream.sinks.recording import RecordingSink

    anonymizer = Anonymizer(backend=FakeBackend())
    for metadata in (True, False):
        with RecordingSink(tmp_path / f"{metadata}.mkv", metadata=metadata) as sink:
            sink.write(anonymizer(Frame(np.zeros((64, 96, 3), np.uint8), 0)))
    dated = {
        name: any("creation_time" in tag.lower() for tag in tags_of(tmp_path / f"{name}.mkv")) for name in (True, False)
    }
    assert dated == {True: True, False: False}
