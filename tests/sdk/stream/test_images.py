"""Pictures keep their notes and lose every other picture of the face."""

import gc
import io
import os
import subprocess
from contextlib import ExitStack

import numpy as np
import piexif
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import SinkError, SourceError
from dartblur.stream import Sink, open_sink, open_source, protection_for, run
from dartblur.stream.media import picture as picture_files
from dartblur.stream.media.orientation import from_display_matrix, to_stored, to_upright

MARK = b"\xff\xd8CLEAR-FACE-PREVIEW" * 40
"""Bytes that stand for an embedded clear picture."""


def picture(tools, mode="RGB", size=(160, 120)):
    return Image.fromarray(tools.pattern(*size, 3)[:, :, ::-1].copy()).convert(mode)


def opened(path):
    with Image.open(path) as image:
        image.load()
        return image


def exif(orientation=1, thumbnail=None):
    return piexif.dump(
        {
            "0th": {
                piexif.ImageIFD.Make: b"Camera",
                piexif.ImageIFD.Orientation: orientation,
                piexif.ImageIFD.DateTime: b"2024:01:02 03:04:05",
            },
            "Exif": {piexif.ExifIFD.FNumber: (28, 10), piexif.ExifIFD.MakerNote: MARK},
            "GPS": {piexif.GPSIFD.GPSLatitude: ((1, 1), (2, 1), (3, 1))},
            "1st": {piexif.ImageIFD.Compression: 6} if thumbnail else {},
            "thumbnail": thumbnail,
        }
    )


def thumbnail(image):
    data = io.BytesIO()
    image.resize((40, 30)).save(data, "JPEG")
    return data.getvalue()


def box_of(image):
    return np.asarray(image.convert("RGB"))[54:106, 70:122]


def test_jpeg_keeps_notes_and_loses_previews(tools, tmp_path):
    clear = picture(tools)
    profile = b"profile" * 50
    plain = io.BytesIO()
    clear.save(
        plain,
        "JPEG",
        quality=90,
        subsampling=2,
        exif=exif(thumbnail=thumbnail(clear)),
        icc_profile=profile,
        dpi=(72, 72),
    )
    # Photoshop (APP13), XMP (APP1), multi-picture (APP2) and a comment, each with a preview in it.
    segments = b"".join(
        bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body
        for marker, body in [
            (0xED, b"Photoshop 3.0\0" + MARK),
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + MARK),
            (0xE2, b"MPX\0" + MARK),
            (0xFE, MARK),
        ]
    )
    source, out = tmp_path / "in.jpg", tmp_path / "out.jpg"
    source.write_bytes(plain.getvalue()[:2] + segments + plain.getvalue()[2:] + MARK)
    assert MARK in source.read_bytes()

    assert tools.anonymize(source, out).faces == 1
    written = opened(out)
    tags = piexif.load(str(out))
    assert tags["0th"][piexif.ImageIFD.Make] == b"Camera"
    assert tags["Exif"][piexif.ExifIFD.FNumber] == (14, 5)
    assert tags["GPS"][piexif.GPSIFD.GPSLatitude] == ((1, 1), (2, 1), (3, 1))
    assert tags["thumbnail"] is None
    assert not tags["1st"]
    assert b"CLEAR-FACE" not in out.read_bytes()
    assert out.read_bytes().count(b"\xff\xd8\xff") == 1
    assert written.info["icc_profile"] == profile
    assert written.info["dpi"] == (72, 72)
    assert box_of(written).mean() < 6
    assert np.abs(np.asarray(written, int)[:, :60] - np.asarray(clear, int)[:, :60]).mean() < 3
    assert list(tmp_path.iterdir()) == [source, out] or len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_seen_upright_and_stay_as_they_were(tools, tmp_path, orientation):
    upright = picture(tools)
    stored = to_stored(np.asarray(upright), orientation)
    source, out = tmp_path / "in.jpg", tmp_path / "out.jpg"
    Image.fromarray(np.ascontiguousarray(stored)).save(source, "JPEG", quality=95, exif=exif(orientation))
    seen = []

    def finder(image):
        seen.append(image.copy())
        return tools.FACE

    tools.anonymize(source, out, finder)
    assert np.abs(seen[0][:, :, ::-1].astype(int) - np.asarray(upright, int)).mean() < 3
    written = opened(out)
    assert written.getexif()[0x0112] == orientation
    assert written.size == stored.shape[1::-1]
    assert box_of(Image.fromarray(to_upright(np.asarray(written), orientation))).mean() < 6


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tiff"])
def test_other_formats(tools, tmp_path, suffix):
    clear, source, out = picture(tools), tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    clear.save(source, lossless=True) if suffix == ".webp" else clear.save(source)
    tools.anonymize(source, out)
    written = opened(out)
    assert written.format == opened(source).format
    assert not box_of(written).any()
    assert (np.asarray(written)[:, :64] == np.asarray(clear)[:, :64]).all()


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_transparency_is_kept_but_where_a_face_was(tools, tmp_path, suffix):
    clear, source, out = picture(tools), tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    alpha = np.tile(np.arange(160, dtype=np.uint8), (120, 1))
    clear.putalpha(Image.fromarray(alpha))
    clear.save(source, lossless=True, exact=True) if suffix == ".webp" else clear.save(source)
    tools.anonymize(source, out)
    written = opened(out)
    assert written.mode == "RGBA"
    face = (slice(48, 112), slice(64, 128))
    kept = np.asarray(written)[:, :, 3].copy()
    assert (kept[face] == 255).all(), "the outline of a face can stand in the alpha channel too"
    kept[face] = alpha[face]
    assert (kept == alpha).all()
    assert not box_of(written).any()
    # What is transparent is covered too: the pixels are still there for who takes the alpha away.
    assert (np.asarray(written)[:, :64, :3] == np.asarray(clear)[:, :64, :3]).all()


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", ".jpg"), ("L", ".png"), ("LA", ".png"), ("P", ".png"), ("CMYK", ".jpg"), ("1", ".png")]
)
def test_other_modes(tools, tmp_path, mode, suffix):
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    picture(tools, mode).save(source)
    tools.anonymize(source, out)
    written = opened(out)
    assert written.mode == {"P": "RGB", "CMYK": "RGB", "1": "L"}.get(mode, mode)
    assert box_of(written).mean() < 6


def test_png_text_is_not_copied(tools, tmp_path):
    source, out = tmp_path / "in.png", tmp_path / "out.png"
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", MARK.decode("latin-1"))
    picture(tools).save(source, pnginfo=text, exif=exif(thumbnail=thumbnail(picture(tools))))
    tools.anonymize(source, out)
    assert b"CLEAR-FACE" not in out.read_bytes()
    assert opened(out).getexif()[0x010F] == "Camera"
    assert not opened(out).getexif().get_ifd(0x0001)


def test_tiff_keeps_notes_and_is_written_upright(tools, tmp_path):
    source = tmp_path / "in.tif"
    notes = Image.Exif()
    notes[0x010F], notes[0x0112] = "Camera", 6
    picture(tools).save(source, tiffinfo=notes)
    tools.anonymize(source, tmp_path / "out.tif")
    written = opened(tmp_path / "out.tif")
    assert written.getexif()[0x010F] == "Camera"
    assert written.size == (120, 160)
    assert not np.asarray(written)[54:106, 70:114].any()


def test_tiff_keeps_groups_of_fields(tools, tmp_path):
    source = tmp_path / "in.tif"
    notes = Image.Exif()
    notes.load(exif(6))
    picture(tools).save(source, tiffinfo=notes)
    assert opened(source).getexif().get_ifd(0x8769)
    tools.anonymize(source, tmp_path / "out.tif")
    written = opened(tmp_path / "out.tif").getexif()
    assert written.get_ifd(0x8769) == {0x829D: 2.8}
    assert written.get_ifd(0x8825) == {2: (1.0, 2.0, 3.0)}
    assert b"CLEAR-FACE" not in (tmp_path / "out.tif").read_bytes()


def test_damaged_notes_skip_one_picture_and_end_no_run(tools, tmp_path):
    """A resolution that is text: Pillow stumbles over it with an error of its own making."""
    root = tmp_path / "in"
    root.mkdir()
    picture(tools).save(root / "good.jpg")
    whole = piexif.dump({"0th": {piexif.ImageIFD.XResolution: (72, 1)}})
    damaged = whole.replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")
    picture(tools).save(root / "odd.jpg", exif=damaged)
    summary = tools.anonymize(root, tmp_path / "out")
    assert summary.frames == 1
    assert [skipped.name for skipped in summary.skipped] == [str(root / "odd.jpg")]


def test_sixteen_bits_are_refused_by_name(tools, tmp_path):
    grey, colour = tmp_path / "grey.png", tmp_path / "colour.png"
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(grey)
    import cv2

    cv2.imwrite(str(colour), np.zeros((20, 20, 3), np.uint16))
    for path in (grey, colour):
        with pytest.raises(SourceError, match="8 bits a channel, got 16"):
            tools.anonymize(path, tmp_path / "out.png")


def test_several_pictures_in_a_file_are_refused(tools, tmp_path):
    path = tmp_path / "in.tif"
    picture(tools).save(path, save_all=True, append_images=[picture(tools)])
    with pytest.raises(SourceError, match="expected one picture, got 2"):
        tools.anonymize(path, tmp_path / "out.tif")


@pytest.fixture
def folder(tools, tmp_path):
    root = tmp_path / "in"
    (root / "deep" / "deeper").mkdir(parents=True)
    picture(tools).save(root / "a.jpg")
    picture(tools).save(root / "deep" / "b.png")
    picture(tools).save(root / "deep" / "deeper" / "c.webp")
    (root / "notes.txt").write_text("no picture")
    return root


def test_a_folder_is_mirrored(tools, folder, tmp_path):
    summary = tools.anonymize(folder, tmp_path / "out")
    assert summary.frames == 3
    out = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert out == ["a.jpg", "deep/b.png", "deep/deeper/c.webp"]
    assert all(box_of(opened(tmp_path / "out" / name)).mean() < 6 for name in out)


def test_a_pattern_takes_what_matches(tools, folder, tmp_path):
    assert tools.anonymize(f"{folder}/**/*.[pw]*", tmp_path / "out").frames == 2
    assert (tmp_path / "out" / "deep" / "b.png").exists()
    with pytest.raises(SourceError, match="expected pictures"):
        tools.anonymize(f"{folder}/*.tiff", tmp_path / "out2")


def test_a_corrupt_picture_is_listed_and_never_copied(tools, folder, tmp_path):
    data = (folder / "a.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "garbage.bmp").write_bytes(b"garbage" * 100)
    summary = tools.anonymize(folder, tmp_path / "out")
    assert summary.frames == 3
    assert sorted(skipped.name.rsplit("/", 1)[1] for skipped in summary.skipped) == [
        "cut.jpg",
        "empty.png",
        "garbage.bmp",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "deep"]


def test_a_single_corrupt_picture_is_an_error(tools, folder, tmp_path):
    data = (folder / "a.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"cut\.jpg: can't be read as a picture"):
        tools.anonymize(folder / "cut.jpg", tmp_path / "out.jpg")
    assert not (tmp_path / "out.jpg").exists()


def test_the_output_folder_lies_outside(tools, folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    for inside in (folder, folder / "out", tmp_path / "link", tmp_path / "link" / "out"):
        with pytest.raises(SinkError, match="lies in the source folder"):
            tools.anonymize(folder, inside)


def test_existing_outputs_are_refused_before_anything_is_written(tools, folder, tmp_path):
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "b.png").write_bytes(b"old")
    with pytest.raises(SinkError, match=r"b\.png: exists already"):
        tools.anonymize(folder, out)
    assert not (out / "a.jpg").exists()
    tools.anonymize(folder, out, overwrite=True)
    assert box_of(opened(out / "deep" / "b.png")).mean() < 6


def test_a_link_to_a_source_picture_is_not_written_over(tools, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    os.link(folder / "deep" / "b.png", out / "a.jpg")
    with pytest.raises(SinkError, match="never written over"):
        tools.anonymize(folder, out, overwrite=True)


def test_formats_do_not_change(tools, folder, tmp_path):
    with pytest.raises(SinkError, match="keeps its format"):
        tools.anonymize(folder / "a.jpg", tmp_path / "out.png")


def test_display_matrices():
    one = 1 << 16
    assert from_display_matrix(None) == 1
    assert from_display_matrix((one, 0, 0, 0, one, 0, 0, 0, 1 << 30)) == 1
    assert from_display_matrix((0, one, 0, -one, 0, 0, 0, 0, 1 << 30)) == 6
    assert from_display_matrix((-one, 0, 0, 0, -one, 0, 0, 0, 1 << 30)) == 3
    assert from_display_matrix((0, -one, 0, one, 0, 0, 0, 0, 1 << 30)) == 8
    assert from_display_matrix((46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)) == 1
    # Not quite a quarter, and scaled: the nearest one, or the detector would see faces that lie.
    assert from_display_matrix((-1144, 65526, 0, -65526, -1144, 0, 0, 0, 1 << 30)) == 6
    assert from_display_matrix((0, -one // 2, 0, one // 2, 0, 0, 0, 0, 1 << 30)) == 8
    assert from_display_matrix((0, 0, 0, 0, 0, 0, 0, 0, 0)) == 1
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert all((to_stored(to_upright(image, each), each) == image).all() for each in range(1, 9))


def test_a_file_that_is_something_else_is_named(tools, tmp_path):
    picture(tools).save(tmp_path / "in.png", format="GIF")
    with pytest.raises(SourceError, match=r"expected BMP, JPEG, PNG, TIFF, WEBP, got something else"):
        tools.anonymize(tmp_path / "in.png", tmp_path / "out.png")


def test_what_pillow_refuses_to_write_is_an_error_of_the_sink(tools, tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise RuntimeError("Error setting from dictionary")

    picture(tools).save(tmp_path / "in.png")
    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(SinkError, match=r"out\.png: can't be written: Error setting"):
        tools.anonymize(tmp_path / "in.png", tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_listed_is_named(tools, folder, tmp_path):
    (folder / "deep").chmod(0)
    with open_source(folder) as source:
        assert any("deep" in notice and "can't be listed" in notice for notice in source.notices)
    (folder / "deep").chmod(0o700)


class Broken(FakeBackend):
    """Anonymizes nothing."""

    def detect(self, image, threshold):
        raise RuntimeError("broke")


def anonymize_all(source, targets, on_fault="solid", backend=None):
    with ExitStack() as stack:
        opened = stack.enter_context(open_source(source))
        sinks = [stack.enter_context(open_sink(target, opened)) for target in targets]
        protection = protection_for(opened.info).with_options(on_fault=on_fault)
        summary = run(opened, Anonymizer(backend=backend or FakeBackend()), sinks, protection=protection)
    return opened, summary


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".jpg"])
def test_nothing_of_a_picture_leaves_that_could_not_be_anonymized(tools, tmp_path, suffix):
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    clear = picture(tools, "RGB" if suffix == ".jpg" else "RGBA")
    if suffix != ".jpg":
        clear.putalpha(clear.getchannel("G"))  # the picture can be seen in its transparency
    clear.save(source, exif=exif(6, thumbnail(clear.convert("RGB"))))
    _, summary = anonymize_all(source, [target], backend=Broken())
    assert sum(summary.faults.values()) == 1
    written = opened(target)
    assert written.size == (clear.height, clear.width), "as it is seen"
    pixels = np.array(written.convert("RGBA"))
    assert np.ptp(pixels.reshape(-1, 4), 0).max() == 0
    assert pixels[0, 0, 3] == 255
    for note in (b"Camera", b"2024:01:02", b"CLEAR-FACE"):
        assert note not in target.read_bytes()


def test_several_outputs_of_the_same_pictures(folder, tmp_path):
    anonymize_all(folder, [tmp_path / "one", tmp_path / "two"])
    one, two = (sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*.*")) for n in ("one", "two"))
    assert one == two
    assert len(one) > 1
    for path in one:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()


class Nowhere(Sink):
    def _write(self, frame):
        pass

    def commit(self):
        pass

    def discard(self):
        pass


def test_notes_of_pictures_do_not_pile_up_where_none_are_written(folder):
    with open_source(folder) as source, Nowhere("nowhere") as sink:
        assert run(source, Anonymizer(backend=FakeBackend()), sink).frames > 1
        gc.collect()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, picture_files.Keep)]


def test_pictures_that_are_left_out_do_not_shift_the_others(tools, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(4):
        notes = piexif.dump({"0th": {piexif.ImageIFD.Make: b"Camera %d" % number}})
        picture(tools, size=(64, 48)).save(source / f"{number}.jpg", exif=notes)
    count = iter(range(4))

    def second_breaks(image):
        if next(count) == 1:
            raise RuntimeError("broke")
        return []

    anonymize_all(source, [tmp_path / "out"], on_fault="drop", backend=FakeBackend(second_breaks))
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == ["0.jpg", "2.jpg", "3.jpg"]
    for path in written:
        assert opened(path).getexif()[ExifTags.Base.Make] == f"Camera {path.stem}"


def test_a_frame_that_was_read_before_the_output_was_opened_is_named(folder, tmp_path):
    with open_source(folder) as source:
        redacted = Anonymizer(backend=FakeBackend())(next(iter(source)))
        with pytest.raises(SinkError, match="read after it was opened"), open_sink(tmp_path / "out", source) as sink:
            sink.write(redacted)


def losses_of(tools, tmp_path, name, **options):
    pictures = options.pop("pictures", None) or picture(tools, options.pop("mode", "RGB"))
    pictures.save(tmp_path / name, **options)
    return dict(tools.anonymize(tmp_path / name, tmp_path / f"out-{name}").losses)


def test_what_a_picture_loses_is_told(tools, tmp_path):
    assert losses_of(tools, tmp_path, "a.jpg") == {}
    assert losses_of(tools, tmp_path, "l.png", mode="L") == {}
    assert losses_of(tools, tmp_path, "c.jpg", mode="CMYK") == {"inks for printing (CMYK) became RGB": 1}
    assert losses_of(tools, tmp_path, "p.png", mode="P") == {"palette of colours became RGB": 1}
    several = {"format": "MPO", "save_all": True, "append_images": [picture(tools), picture(tools)]}
    assert losses_of(tools, tmp_path, "m.jpg", **several) == {"2 further pictures of the file left out": 1}


def test_videos_among_pictures_are_named(tools, folder):
    for name in ("a.mp4", "b.MOV", "c.mkv", "d.webm", "e.heic"):
        (folder / name).write_bytes(b"something")
    with open_source(folder) as source:
        assert source.notices == [
            "left out, and not anonymized: 4 videos (a.mp4, b.MOV, c.mkv, ...): anonymize videos one by one",
            "left out, and not anonymized: 1 picture (e.heic) of other formats than .jpg, .jpeg, .png, .webp, .bmp, "
            ".tif, .tiff: convert these",
            "left out: 1 file (notes.txt) that is no picture",
        ]


def test_a_folder_of_videos_alone_says_how_to_do_them(tmp_path):
    root = tmp_path / "my films"
    root.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (root / name).write_bytes(b"something")
    with pytest.raises(SourceError, match=r"got 2 videos \(a\.mp4, b\.mp4\)") as error:
        open_source(root)
    loop = str(error.value).partition("one by one: ")[2].replace("dartblur run", "echo")
    done = subprocess.run(["sh", "-c", loop], capture_output=True, text=True, check=True)
    assert done.stdout == f"{root}/a.mp4 OUT/a.mp4\n{root}/b.mp4 OUT/b.mp4\n"


@pytest.mark.parametrize("name", ["o.mp4", "o.jpg", "o.gif"])
def test_several_pictures_are_not_put_into_a_folder_with_the_name_of_a_file(tools, folder, tmp_path, name):
    with pytest.raises(SinkError, match=r"several pictures need a folder, got the name of a (video|picture)"):
        tools.anonymize(folder, tmp_path / name)
    assert not (tmp_path / name).exists()
    assert tools.anonymize(folder, f"{tmp_path / name}/").frames == 3
    assert (tmp_path / name / "a.jpg").exists()


def test_a_slash_means_a_folder(tools, folder, tmp_path):
    tools.anonymize(folder / "a.jpg", f"{tmp_path}/new/")
    assert box_of(opened(tmp_path / "new" / "a.jpg")).mean() < 6
    with pytest.raises(SinkError, match="exists already"):
        tools.anonymize(folder / "a.jpg", f"{tmp_path}/new/")
    with pytest.raises(SinkError, match="does not exist: create it first"):
        tools.anonymize(folder / "a.jpg", f"{tmp_path}/no/new/")
    with pytest.raises(SinkError, match="expected a folder, got a file"):
        tools.anonymize(folder / "a.jpg", f"{folder}/notes.txt/")


def test_a_format_of_pictures_that_is_not_read_is_named(tmp_path):
    (tmp_path / "in.avif").write_bytes(b"\0\0\0\x10ftypavif\0\0\0\0")
    with pytest.raises(SourceError, match=r"this format of pictures isn't read: expected \.jpg, .*: convert it first"):
        open_source(tmp_path / "in.avif")


def test_what_killed_runs_have_left_of_pictures_goes(tools, folder, tmp_path):
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    left = [out / ".a.jpg.01234567.partial", out / "deep" / ".b.png.89abcdef.partial"]
    others = [out / ".b.png.01234567.partial.txt", out / ".somebody.jpg.01234567.partial"]
    for path in left + others:
        path.write_bytes(b"half a picture")
    tools.anonymize(folder, out)
    assert not [path for path in left if path.exists()]
    assert all(path.exists() for path in others)
