from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dartblur_train.data.cache import ImageCache, image_size, read_bgr
from dartblur_train.data.labels import DataError, FaceImage, face_image, read_retinaface_labels, read_wider_labels
from dartblur_train.data.problems import Problems


def write_image(path: Path, width: int = 64, height: int = 48, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(value)
    cv2.imwrite(str(path), random.integers(0, 255, (height, width, 3), np.uint8))
    return path


def test_problems_are_refused_by_name_or_counted() -> None:
    with pytest.raises(DataError, match=r"^a.txt:3: box of no area: expected .*--on-bad-data skip"):
        Problems("refuse").report("a.txt:3", "box of no area: expected w above 0, got 0")
    problems = Problems("skip")
    assert problems.summary() == "no problem in the data"
    for number in range(9):
        problems.report(f"a.txt:{number}", "box of no area: expected w above 0, got 0")
    problems.report("b.jpg", "unreadable image: OpenCV could not decode it")
    assert problems.count == 10
    assert problems.kinds == {"box of no area": 9, "unreadable image": 1}
    summary = problems.summary().splitlines()
    assert summary[0] == "10 problems in the data: 9 x box of no area, 1 x unreadable image"
    assert summary[1] == "  a.txt:0: box of no area: expected w above 0, got 0"
    assert len(summary) == 6
    with pytest.raises(DataError, match="'refuse' or 'skip'"):
        Problems("ignore")  # type: ignore[arg-type]


def test_wider_lists(tmp_path: Path) -> None:
    labels = tmp_path / "gt.txt"
    labels.write_text(
        "a/1.jpg\n2\n10 20 30 40 0 0 0 0 0 0 \n1 2 3 4 0 0 0 1 0 0 \n"
        "a/2.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n"
        "a/3.jpg\n1\n5 5 0 9 0 0 0 0 0 0\n"
    )
    problems = Problems("refuse")
    records = read_wider_labels(labels, tmp_path, problems)
    assert [record.path.name for record in records] == ["1.jpg", "2.jpg", "3.jpg"]
    assert records[0].boxes.tolist() == [[10, 20, 40, 60], [1, 2, 4, 6]]
    assert records[0].ignored.tolist() == [False, True], "the second is marked invalid"
    assert records[1].boxes.shape == (0, 4)
    assert records[2].ignored.tolist() == [True], "as published: never refused"
    assert problems.kinds == {"box of no area": 1}, "but counted"


def test_retinaface_lists(tmp_path: Path) -> None:
    labels = tmp_path / "label.txt"
    labels.write_text("# p/1.jpg\n10 20 30 40 " + "1 2 0 " * 5 + "0.9\n# p/2.jpg\n3 4 5 6\n7 8 0 9\n")
    problems = Problems("refuse")
    first, second = read_retinaface_labels(labels, tmp_path, problems)
    assert first.boxes.tolist() == [[10, 20, 40, 60]]
    assert first.landmarks[0].tolist() == [[1, 2]] * 5
    assert second.landmarks.tolist() == [[[-1, -1]] * 5] * 2
    assert second.ignored.tolist() == [False, True]
    assert problems.kinds == {"box of no area": 1}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("1 2 3", "malformed line"),
        ("x y z w", "malformed line"),
        ("1 2 -3 4", "box of negative size"),
        ("1 nan 3 4", "box that is not finite"),
        ("1 2 inf 4", "box that is not finite"),
        ("1 2 1e300 4", "box that is not finite"),
    ],
)
@pytest.mark.parametrize("reader", [read_retinaface_labels, read_wider_labels])
def test_malformed_faces(tmp_path: Path, reader, line: str, kind: str) -> None:  # type: ignore[no-untyped-def]
    labels = tmp_path / "label.txt"
    if reader is read_wider_labels:
        labels.write_text(f"a.jpg\n2\n{line}\n5 6 7 8\nb.jpg\n1\n1 1 2 2\n")
        number = 3
    else:
        labels.write_text(f"# a.jpg\n{line}\n5 6 7 8\n# b.jpg\n1 1 2 2\n")
        number = 2
    with pytest.raises(DataError, match=rf"label.txt:{number}: {kind}: expected .*, got "):
        reader(labels, tmp_path)
    problems = Problems("skip")
    first, second = reader(labels, tmp_path, problems)
    assert first.boxes.tolist() == [[5, 6, 12, 14]], "the rest of the image stays"
    assert second.boxes.tolist() == [[1, 1, 3, 3]]
    assert problems.kinds == {kind: 1}


def test_landmarks_that_are_cut_short(tmp_path: Path) -> None:
    labels = tmp_path / "label.txt"
    labels.write_text("# a.jpg\n1 2 3 4 5 6 7\n")
    with pytest.raises(DataError, match=r"label.txt:2: malformed line"):
        read_retinaface_labels(labels, tmp_path)


def test_landmarks_that_are_not_finite_are_unknown_or_refused(tmp_path: Path) -> None:
    labels = tmp_path / "label.txt"
    labels.write_text("# a.jpg\n1 2 3 4 " + "nan 2 0 " * 5 + "0.9\n")
    with pytest.raises(DataError, match=r"label.txt:2: landmarks that are not finite"):
        read_retinaface_labels(labels, tmp_path)
    problems = Problems("skip")
    (record,) = read_retinaface_labels(labels, tmp_path, problems)
    assert record.landmarks.tolist() == [[[-1, -1]] * 5], "the face stays"
    assert problems.count == 1


@pytest.mark.parametrize(
    ("text", "line", "kind"),
    [
        ("a.jpg\nmany\n1 2 3 4\n", 2, "malformed count"),
        ("a.jpg\n-1\n", 2, "malformed count"),
        ("a.jpg\n3\n1 2 3 4\n", 2, "wrong count"),
        ("a.jpg\n1\n1 2 3 4\n5 6 7 8\n", 2, "wrong count"),
        ("1\n", 1, "malformed line"),
        ("a.jpg\n", 2, "malformed count"),
    ],
)
def test_malformed_wider_lists_lose_one_image_only(tmp_path: Path, text: str, line: int, kind: str) -> None:
    labels = tmp_path / "gt.txt"
    labels.write_text(f"{text}good.jpg\n1\n1 1 2 2 0 0 0 0 0 0\n")
    with pytest.raises(DataError, match=rf"gt.txt:{line}: {kind}"):
        read_wider_labels(labels, tmp_path)
    problems = Problems("skip")
    assert [record.path.name for record in read_wider_labels(labels, tmp_path, problems)] == ["good.jpg"]
    assert problems.kinds == {kind: 1}


def test_faces_before_the_first_path_are_named(tmp_path: Path) -> None:
    labels = tmp_path / "label.txt"
    labels.write_text("1 2 3 4\n# a.jpg\n")
    with pytest.raises(DataError, match=r"label.txt:1: malformed line: expected '# path' first"):
        read_retinaface_labels(labels, tmp_path)


def test_missing_and_binary_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        read_wider_labels(tmp_path / "none.txt", tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary.txt: expected text in UTF-8"):
        read_wider_labels(tmp_path / "binary.txt", tmp_path, Problems("skip"))


def broken_images(folder: Path) -> list[Path]:
    """One of each kind."""
    jpeg, png = write_image(folder / "cut.jpg"), write_image(folder / "cut.png")
    for path in (jpeg, png):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    text, empty = folder / "text.jpg", folder / "empty.png"
    text.write_bytes(b"not a picture")
    empty.write_bytes(b"")
    return [jpeg, png, text, empty, folder / "absent.jpg"]


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    for path in broken_images(tmp_path):
        with pytest.raises(DataError, match=rf"{path.name}: expected a readable image"):
            read_bgr(path)


def test_a_jpeg_with_a_thumbnail_and_a_tail_is_whole(tmp_path: Path) -> None:
    thumbnail = write_image(tmp_path / "small.jpg", 16, 16).read_bytes()
    path = write_image(tmp_path / "a.jpg")
    whole = path.read_bytes()
    segment = b"\xff\xe2" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path.write_bytes(whole[:2] + segment + whole[2:] + b"\0" * 100)
    assert read_bgr(path).shape == (48, 64, 3)
    path.write_bytes(whole[:2] + segment + whole[2 : len(whole) // 2])
    with pytest.raises(DataError, match="cut short"):
        read_bgr(path)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_is_that_of_the_turned_image(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    height, width = read_bgr(tmp_path / "a.jpg").shape[:2]
    assert image_size(tmp_path / "a.jpg") == (width, height)


@pytest.mark.parametrize("memory", [2**30, 0, 64 * 48 * 3])
def test_images_are_the_same_whether_kept_or_not(tmp_path: Path, memory: int) -> None:
    records = [face_image(write_image(tmp_path / f"{i}.png", value=i), [[1, 2, 9, 9]]) for i in range(4)]
    cache = ImageCache(records, memory=memory)
    assert len(cache) == 4
    assert cache.records == records
    for index, record in enumerate(records):
        assert np.array_equal(cache[index], cv2.imread(str(record.path)))
    drawn = [cache.draw(np.random.default_rng(seed), 0) for seed in range(30)]
    assert {record.path.name for record, _ in drawn} == {"0.png", "1.png", "2.png", "3.png"}
    for record, image in drawn:
        assert np.array_equal(image, cv2.imread(str(record.path)))


@pytest.mark.parametrize("memory", [2**30, 0])
def test_unreadable_images_are_refused_or_left_out(tmp_path: Path, memory: int) -> None:
    good = face_image(write_image(tmp_path / "good.png"), [])
    bad = [face_image(path, []) for path in broken_images(tmp_path)]
    for record in bad[2:]:
        with pytest.raises(DataError, match=rf"{record.path.name}: unreadable image: expected .*--on-bad-data skip"):
            ImageCache([good, record], memory=memory)
    problems = Problems("skip")
    cache = ImageCache([*bad, good], problems, memory=memory)
    assert good in cache.records
    assert problems.kinds["unreadable image"] == len(bad) if memory else 3, "without memory only headers are read"
    for seed in range(20):
        assert cache.draw(np.random.default_rng(seed), 0)[0] is good
    with pytest.raises(DataError, match=r"none that is readable out of 1"):
        ImageCache(bad[2:3], Problems("skip"))


def test_faces_outside_their_picture(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 64, 48)
    inside, partly, outside = [1.0, 2, 9, 9], [-5.0, -5, 70, 60], [64.0, 0, 80, 20]
    record = face_image(path, [inside, partly, outside])
    with pytest.raises(DataError, match=r"a.png: box outside the picture: expected .* 64 x 48, got 64 0 80 20"):
        ImageCache([record])
    problems = Problems("skip")
    (kept,) = ImageCache([record], problems).records
    assert kept.boxes.tolist() == [inside, partly], "partly outside is no problem"
    assert len(kept.ignored) == len(kept.landmarks) == 2
    assert problems.kinds == {"box outside the picture": 1}
    ignored = FaceImage(path, record.boxes, np.ones(3, bool), record.landmarks)
    assert ImageCache([ignored]).records == [ignored], "WIDER FACE is published with such ones"
