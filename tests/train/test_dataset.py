"""Anonymized copies of data sets, from real files to real files, through worker processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import piexif
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from dartblur.cli.dataset import encode
from dartblur_train.data.cache import read_bgr
from dartblur_train.data.problems import DataError
from dartblur_train.dataset import DataSetArgs, Summary, anonymize_data_set
from dartblur_train.dataset.target import JOURNAL
from dartblur_train.frames import FrameApplication
from dartblur_train.generators import save_generator
from dartblur_train.nets.unet import GENERATORS
from dartblur_train.patches import PatchApplication, PatchGeometry

WIDTH, HEIGHT = 96, 64
BOX = (20, 10, 30, 24)
"""x y w h of the face in each picture, as it is shown."""

SCENE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
SCENE = cv2.resize(cv2.resize(SCENE, (24, 16)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def inside(image: NDArray[np.uint8], box: Sequence[int] = BOX) -> NDArray[np.uint8]:
    x, y, w, h = box
    return image[y : y + h, x : x + w]


def outside(image: NDArray[np.uint8], box: Sequence[int] = BOX) -> NDArray[np.uint8]:
    x, y, w, h = box
    rest = image.copy()
    rest[y : y + h, x : x + w] = 0
    return rest


def photo(file: Path, orientation: int = 1, **options: Any) -> None:
    """The scene as a camera stores it: turned, with notes, a thumbnail that shows the face, and a colour profile."""
    turns = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    picture = Image.fromarray(SCENE[..., ::-1].copy())
    turn = turns[orientation]
    stored = picture if turn is None else picture.transpose(turn)
    small = io.BytesIO()
    stored.save(small, "JPEG", quality=95)
    groups = {
        "0th": {piexif.ImageIFD.Orientation: orientation, piexif.ImageIFD.Make: b"Maker"},
        "Exif": {
            piexif.ExifIFD.PixelXDimension: stored.width,
            piexif.ExifIFD.PixelYDimension: stored.height,
            piexif.ExifIFD.UserComment: b"kept",
        },
        "1st": {piexif.ImageIFD.Compression: 6},
        "thumbnail": small.getvalue(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    stored.save(file, exif=piexif.dump(groups), icc_profile=b"colours" * 20, **options)
    assert file.read_bytes().count(b"\xff\xd8\xff") == 2, "picture and thumbnail"


def wider(root: Path, pictures: dict[str, list[Sequence[float]]], part: str = "train") -> None:
    lines = []
    for name, boxes in pictures.items():
        rows = [" ".join(map(str, box)) + " 0 0 0 0 0 0" for box in boxes] or ["0 0 0 0 0 0 0 0 0 0"]
        lines += [name, str(len(boxes)), *rows]
    (root / "wider_face_split").mkdir(parents=True, exist_ok=True)
    (root / "wider_face_split" / f"wider_face_{part}_bbx_gt.txt").write_text("\n".join(lines) + "\n")


def png(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), SCENE)


def copy(source: Path, target: Path, **changes: Any) -> Summary:
    return anonymize_data_set(DataSetArgs(source, target, **{"method": "block", "workers": 1, **changes}), encode)


def manifest(target: Path) -> dict[str, Any]:
    return json.loads((target / "manifest.json").read_text())  # type: ignore[no-any-return]


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WIDER set with all that may lie in one."""
    root = tmp_path_factory.mktemp("mixed") / "set"
    images = root / "train" / "images"
    for orientation in (1, 3, 6, 8):
        photo(images / "e" / f"{orientation}.jpg", orientation)
    for name in ("plain", "none", "invalid", "stray"):
        png(images / f"{name}.png")
    png(root / "val" / "images" / "v.png")
    png(images / "unlisted.png")
    for name, format in (("hidden.txt", "JPEG"), ("hidden.json", "PNG")):
        Image.fromarray(SCENE).save(root / name, format)
    (images / "cut.jpg").write_bytes((images / "e" / "1.jpg").read_bytes()[:-400])
    (root / "video.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    (root / "notes.yaml").write_text("names: [face]\n")
    (root / "embedded.json").write_text('{"imageData": "/9j/' + "A" * 400 + '"}')
    (root / "link.png").symlink_to(images / "plain.png")
    (images / "linked.png").symlink_to(images / "plain.png")
    wider(
        root,
        {
            **{f"e/{orientation}.jpg": [BOX] for orientation in (1, 3, 6, 8)},
            "plain.png": [BOX, (70, 40, 0, 8)],
            "linked.png": [(60, 40, 10, 10)],
            "none.png": [],
            "cut.jpg": [BOX],
            "absent.jpg": [BOX],
            "stray.png": [BOX, (200, 10, 20, 20)],
            "../../../outside.png": [BOX],
        },
    )
    png(root.parent / "outside.png")
    file = root / "wider_face_split" / "wider_face_train_bbx_gt.txt"
    file.write_text(file.read_text() + "invalid.png\n1\n" + " ".join(map(str, BOX)) + " 0 0 0 1 0 0\n")
    wider(root, {"v.png": [BOX]}, "val")
    return root


@pytest.fixture(scope="module")
def copied(mixed: Path) -> tuple[Path, Summary]:
    target = mixed.parent / "copy"
    return target, copy(mixed, target, workers=2)


def test_faces_are_overwritten_and_nothing_else_of_a_png(copied: tuple[Path, Summary]) -> None:
    target, summary = copied
    images = target / "train" / "images"
    for file in (images / "invalid.png", target / "val" / "images" / "v.png"):
        image = read_bgr(file)
        assert not inside(image).any()
        assert np.array_equal(outside(image), outside(SCENE))
    assert np.array_equal(read_bgr(images / "none.png"), SCENE)
    assert summary.counts["pictures"] == 9
    assert summary.counts["pictures_without_faces"] == 1
    assert summary.counts["turned"] == 3


def test_a_face_is_covered_under_each_name_of_its_file(copied: tuple[Path, Summary]) -> None:
    images = copied[0] / "train" / "images"
    for name in ("plain.png", "linked.png"):
        assert not (images / name).is_symlink()
        image = read_bgr(images / name)
        assert not inside(image).any()
        assert not inside(image, (60, 40, 10, 10)).any()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_photo_is_covered_as_any_viewer_shows_it(copied: tuple[Path, Summary], orientation: int) -> None:
    file = copied[0] / "train" / "images" / "e" / f"{orientation}.jpg"
    with Image.open(file) as opened:
        shown = np.array(ImageOps.exif_transpose(opened))[..., ::-1]
        ignorant = np.array(opened)[..., ::-1]  # a viewer that doesn't know EXIF
        exif = opened.getexif()
        group = exif.get_ifd(ExifTags.IFD.Exif)
        assert opened.info["icc_profile"] == b"colours" * 20
        assert opened.quantization == _tables(80)  # type: ignore[attr-defined]
        assert opened.format == "JPEG"
    for image in (shown, ignorant, read_bgr(file)):
        assert image.shape == SCENE.shape
        assert inside(image)[3:-3, 3:-3].max() < 24, "black"
        assert np.abs(outside(image).astype(int) - outside(SCENE)).mean() < 12
    assert exif[ExifTags.Base.Make] == "Maker"
    assert group[ExifTags.Base.UserComment] == b"kept"
    assert (group[ExifTags.Base.ExifImageWidth], group[ExifTags.Base.ExifImageHeight]) == (WIDTH, HEIGHT)
    assert not exif.get_ifd(ExifTags.IFD.IFD1)
    assert file.read_bytes().count(b"\xff\xd8\xff") == 1, "no second picture in the file"


def _tables(quality: int) -> Any:
    file = io.BytesIO()
    Image.fromarray(SCENE).save(file, "JPEG", quality=quality)
    with Image.open(file) as picture:
        return picture.quantization  # type: ignore[attr-defined]


def test_what_is_not_in_the_copy_is_listed(mixed: Path, copied: tuple[Path, Summary]) -> None:
    target, summary = copied
    listed = manifest(target)
    assert listed["unannotated"] == ["link.png", "train/images/unlisted.png"]
    assert listed["not_copied"] == ["video.mp4"]
    assert sorted(listed["left_out"]) == [
        "../outside.png",
        "embedded.json",
        "hidden.json",
        "hidden.txt",
        "train/images/absent.jpg",
        "train/images/cut.jpg",
        "train/images/stray.png",
    ]
    assert listed["left_out"] == dict(sorted(summary.left_out.items()))
    assert files_in(target) == sorted([*listed["files"], "manifest.json"])
    assert str(mixed.parent) not in (target / "manifest.json").read_text()
    for name in ("notes.yaml", "wider_face_split/wider_face_train_bbx_gt.txt"):
        assert (target / name).read_bytes() == (mixed / name).read_bytes()


def test_coco(tmp_path: Path) -> None:
    root = tmp_path / "set"
    png(root / "train" / "a.png")
    png(root / "train" / "b.png")
    png(root / "train" / "broken.png")
    content = {
        "images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate(("a", "b", "broken"))],
        "categories": [{"id": 7, "name": "face"}],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 7, "bbox": BOX},
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": BOX, "iscrowd": 1},
            {"id": 2, "image_id": 2, "category_id": 7, "bbox": BOX},
            {"id": 3, "image_id": 2, "category_id": 7, "bbox": [1, 2, 3]},
        ],
    }
    file = root / "annotations" / "instances_train.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="bbox of four numbers"):
        copy(root, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()

    summary = copy(root, tmp_path / "copy", on_bad_data="skip")
    for name in ("a", "b"):
        image = read_bgr(tmp_path / "copy" / "train" / f"{name}.png")
        assert not inside(image).any()
        assert np.array_equal(outside(image), outside(SCENE))
    assert list(summary.left_out) == ["train/broken.png"], "one of its faces isn't known"
    assert not (tmp_path / "copy" / "train" / "broken.png").exists()


def test_yolo(tmp_path: Path) -> None:
    root = tmp_path / "set"
    x, y, w, h = BOX
    line = f"0 {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}\n"
    # A box of no area may be what is left of a face's box, so its picture is in doubt too.
    labels = {
        "good": line,
        "empty": "",
        "bad": line + "0 0.5 0.5\n",
        "flat": line + "0 0.5 0.5 0 0.2\n",
        "corrupt": line,
    }
    for name, text in labels.items():
        png(root / "images" / "val" / f"{name}.png")
        label = root / "labels" / "val" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text)
    png(root / "images" / "val" / "unlabelled.png")
    (root / "images" / "val" / "corrupt.png").write_bytes(b"no picture")
    summary = copy(root, tmp_path / "copy", on_bad_data="skip", box_scale=1.2)
    image = read_bgr(tmp_path / "copy" / "images" / "val" / "good.png")
    assert not inside(image, (x - 3, y - 2, w + 6, h + 4)).any()
    assert np.array_equal(image[0], SCENE[0])
    assert sorted(summary.left_out) == ["images/val/bad.png", "images/val/corrupt.png", "images/val/flat.png"]
    assert manifest(tmp_path / "copy")["unannotated"] == ["images/val/unlabelled.png"]
    assert files_in(tmp_path / "copy" / "images") == ["val/empty.png", "val/good.png"]


def test_a_malformed_line_of_a_list_leaves_its_picture_out(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("a.png", "b.png"):
        png(root / "images" / name)
    (root / "label.txt").write_text("# a.png\n1 2 3\n# b.png\n20 10 30 24\n")
    summary = copy(root, tmp_path / "copy", on_bad_data="skip")
    assert list(summary.left_out) == ["images/a.png"]
    assert files_in(tmp_path / "copy" / "images") == ["b.png"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    root = tmp_path / "small"
    names = [f"{number}.png" for number in range(3)]
    for name in names:
        png(root / "train" / "images" / name)
    wider(root, {name: [BOX] for name in names})
    return root


@pytest.mark.parametrize("mode", ["patch", "frame"])
def test_the_learned_blur_in_both_modes(small: Path, tmp_path: Path, mode: str) -> None:
    torch.manual_seed(0)
    file = tmp_path / "generator.safetensors"
    application = FrameApplication() if mode == "frame" else PatchApplication(PatchGeometry())
    save_generator(file, GENERATORS["edge"](), "edge", application, 1)
    other = {"patch": "frame", "frame": "patch"}[mode]
    with pytest.raises(DataError, match=f"trained for mode {mode}, so it can't be used in mode {other}"):
        copy(small, tmp_path / "copy", method="dart", generator=file, mode=other)
    copy(small, tmp_path / "copy", method="dart", generator=file, mode=mode)
    image = read_bgr(tmp_path / "copy" / "train" / "images" / "0.png")
    assert np.array_equal(outside(image), outside(SCENE))
    assert (inside(image) != inside(SCENE)).any(2).mean() > 0.9
    assert manifest(tmp_path / "copy")["settings"]["mode"] == mode


def test_a_second_run_does_only_what_is_missing_or_has_changed(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    images = target / "train" / "images"
    copy(small, target)
    first = manifest(target)
    before = {name: (images / name).stat().st_ino for name in ("0.png", "1.png", "2.png")}
    (images / "1.png").write_bytes(b"damaged")
    wider(small, {"0.png": [BOX], "1.png": [BOX], "2.png": [BOX, (60, 40, 10, 10)]})
    copy(small, target)
    after = {name: (images / name).stat().st_ino for name in before}
    assert [name for name in before if before[name] == after[name]] == ["0.png"]
    assert not inside(read_bgr(images / "2.png"), (60, 40, 10, 10)).any(), "a face that was annotated meanwhile"
    assert manifest(target)["files"]["train/images/1.png"] == first["files"]["train/images/1.png"]

    (small / "train" / "images" / "0.png").write_bytes(b"corrupt now")
    summary = copy(small, target)
    assert list(summary.left_out) == ["train/images/0.png"]
    assert not (images / "0.png").exists(), "what an earlier run wrote doesn't stay"


def test_what_does_not_fit_is_refused(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    copy(small, target)
    kept = (target / "manifest.json").read_bytes()
    for changes, match in (
        ({"quality": 70}, "begun with quality 80, now 70"),
        ({"method": "pixelate"}, "begun with method block, now pixelate"),
        ({"box_scale": 1.5}, "begun with box_scale"),
        ({"box_scale": 0.5}, "at least 1"),
        ({"method": "blur"}, "expected one of"),
        ({"method": "dart"}, "got none"),
        ({"mode": "patch"}, "they are for dart"),
    ):
        with pytest.raises(DataError, match=match):
            copy(small, target, **changes)
    (target / "foreign.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"got foreign\.png"):
        copy(small, target)
    assert (target / "manifest.json").read_bytes() == kept
    for place in (small, small / "inner", tmp_path):
        with pytest.raises(DataError, match="expected a folder apart"):
            copy(small, place)
    full = tmp_path / "full"
    full.mkdir()
    (full / "elsewhere").symlink_to(small)
    with pytest.raises(DataError, match="got elsewhere"):
        copy(small, full)


def _command(*arguments: Any) -> subprocess.Popen[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-m", "dartblur", "dataset", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def _await_first(target: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not list(target.rglob("*.png")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def _await_end(group: int) -> None:
    """Waits until no process of the session is left."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("workers have outlived their parent")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    root = tmp_path / "many"
    names = [f"{number}.png" for number in range(60)]
    large = cv2.resize(SCENE, (960, 640))
    for name in names:
        (root / "train" / "images").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "train" / "images" / name), large)
    wider(root, {name: [tuple(10 * value for value in BOX)] for name in names})
    return root


def test_the_command_goes_on_after_kill_9(many: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    options = (many, target, "--method", "gaussian", "--workers", "1")
    process = _command(*options)
    _await_first(target, process)
    process.kill()
    process.communicate()
    _await_end(process.pid)
    journal = (target / JOURNAL).read_text().splitlines()
    assert 1 <= len(journal) < 60
    assert not (target / "manifest.json").exists()
    done = {entry["name"]: (target / entry["name"]).stat().st_ino for entry in map(json.loads, journal[1:])}
    (target / JOURNAL).write_text("\n".join(journal) + '\n{"name": "cut sh')

    process = _command(*options)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "60 pictures, 60 faces overwritten by gaussian, 1 annotation files" in out
    assert all((target / name).stat().st_ino == number for name, number in done.items())
    assert files_in(target) == sorted([*manifest(target)["files"], "manifest.json"]), "nothing unfinished is left"


def test_ctrl_c_ends_the_workers(many: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    # Tests that run in the background of a shell may have Ctrl-C switched off, and what they start inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = _command(many, target, "--method", "gaussian", "--workers", "2")
    finally:
        signal.signal(signal.SIGINT, before)
    _await_first(target, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines() == ["dartblur: interrupted: run the same command again to go on"]
    assert not out
    _await_end(process.pid)
    assert not list(target.rglob("*.partial"))


def test_the_command_says_what_is_left_out(small: Path, tmp_path: Path) -> None:
    (small / "train" / "images" / "1.png").write_bytes(b"corrupt")
    codes = []
    for policy in ("refuse", "skip"):
        process = _command(small, tmp_path / "copy", "--on-bad-data", policy)
        out, err = process.communicate(timeout=200)
        codes.append(process.returncode)
        assert "left out: train/images/1.png: " in err
        assert "1 files are left out" in err
        assert "2 pictures, 2 faces overwritten by dart" in out
    assert codes == [2, 0]
    listed = manifest(tmp_path / "copy")
    assert listed["settings"]["mode"] == "patch"
    assert len(listed["settings"]["generator_sha256"]) == 64
    image = read_bgr(tmp_path / "copy" / "train" / "images" / "0.png")
    assert np.array_equal(outside(image), outside(SCENE))
    assert (inside(image) != inside(SCENE)).any(2).mean() > 0.9
