"""What travels with a video brings no picture along."""

from fractions import Fraction
from typing import Any

import av
import numpy as np

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.stream import open_sink, open_source, run
from dartblur.stream.media import private_data


def test_pictures_among_the_tags_of_chapters_are_left_out(tools, tmp_path):
    clip, source, out = tools.make_clip(tmp_path / "clip.mkv"), tmp_path / "in.mkv", tmp_path / "out.mkv"
    tags = {"title": "Arrival", "METADATA_BLOCK_PICTURE": "CLEAR-FACE" * 300}
    with av.open(str(clip)) as video, av.open(str(source), "w") as container:
        stream = container.add_stream_from_template(video.streams.video[0], opaque=True)
        container.set_chapters(
            [{"id": 1, "start": 0, "end": 500, "time_base": Fraction(1, 1000), "metadata": tags}],
        )
        mux_all(container, {video: stream})
    assert b"CLEAR-FACE" in source.read_bytes()
    tools.anonymize(source, out)
    assert b"CLEAR-FACE" not in out.read_bytes()
    with av.open(str(out)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["Arrival"]


def test_subtitles_that_are_pictures_are_left_out(tools, tmp_path):
    clip, source, out = tools.make_clip(tmp_path / "clip.mkv"), tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(clip)) as video, av.open(str(source), "w") as container:
        stream = container.add_stream_from_template(video.streams.video[0], opaque=True)
        bitmaps = container.add_mux_stream("dvd_subtitle")
        mux_all(container, {video: stream})
        packet = av.Packet(b"CLEAR-FACE" * 20)
        packet.pts = packet.dts = 900
        packet.time_base, packet.stream = Fraction(1, 1000), bitmaps
        container.mux(packet)
    assert b"CLEAR-FACE" in source.read_bytes()
    with open_source(source) as opened, open_sink(out, opened) as sink:
        assert sink.notices == ["left out: subtitle stream 1, only sound and subtitles of text are copied"]
        run(opened, Anonymizer(backend=FakeBackend()), sink)
    assert b"CLEAR-FACE" not in out.read_bytes()


def mux_all(container, inputs):
    for opened, stream in inputs.items():
        for packet in opened.demux(0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)


def test_cover_pictures_in_the_head_of_vorbis_are_left_out(tools, tmp_path):
    """A Matroska file keeps the head of the sound as its encoder wrote it, the song's cover among its tags."""
    clip, song = tools.make_clip(tmp_path / "clip.mkv"), tmp_path / "song.mka"
    source, out = tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(song), "w", format="matroska") as container:
        stream: Any = container.add_stream("vorbis", rate=44100, options={"strict": "experimental"})
        stream.codec_context.layout = "stereo"
        for start in range(0, 40 * 1024, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 44100, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(clip)) as video, av.open(str(song)) as sound, av.open(str(source), "w") as container:
        first, _, setup = private_data._unlace(sound.streams.audio[0].codec_context.extradata)
        tag = b"METADATA_BLOCK_PICTURE=" + b"CLEAR-FACE" * 300
        comments = b"\x03vorbis" + bytes(4) + b"\x01\0\0\0" + len(tag).to_bytes(4, "little") + tag + b"\x01"
        inputs = {
            video: container.add_stream_from_template(video.streams.video[0], opaque=True),
            sound: container.add_stream_from_template(sound.streams.audio[0]),
        }
        inputs[sound].codec_context.extradata = private_data._lace(first, comments, setup)
        mux_all(container, inputs)
    assert b"CLEAR-FACE" in source.read_bytes()
    tools.anonymize(source, out)
    assert b"CLEAR-FACE" not in out.read_bytes()
    assert tools.packets_of(out, "audio") == tools.packets_of(source, "audio")
    with av.open(str(out)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 40 * 1024
