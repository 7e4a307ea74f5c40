from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dartblur_train.data.cache import ImageCache, read_bgr
from dartblur_train.data.labels import DataError, read_retinaface_labels, read_wider_labels
from dartblur_train.data.mosaic import FaceSamples, SampleSpec, collate


def test_wider_lists(tmp_path: Path) -> None:
    labels = tmp_path / "gt.txt"
    labels.write_text(
        "a/1.jpg\n2\n10 20 30 40 0 0 0 0 0 0 \n1 2 3 4 0 0 0 1 0 0 \n"
        "a/2.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n"
        "a/3.jpg\n1\n5 5 0 9 0 0 0 0 0 0\n"
    )
    records = read_wider_labels(labels, tmp_path)
    assert [record.path.name for record in records] == ["1.jpg", "2.jpg", "3.jpg"]
    assert records[0].boxes.tolist() == [[10, 20, 40, 60], [1, 2, 4, 6]]
    assert records[0].ignored.tolist() == [False, True], "the second is marked invalid"
    assert records[1].boxes.shape == (0, 4)
    assert records[2].ignored.tolist() == [True], "a box of no area can't be found"


def test_retinaface_lists(tmp_path: Path) -> None:
    labels = tmp_path / "label.txt"
    labels.write_text("# p/1.jpg\n10 20 30 40 " + "1 2 0 " * 5 + "0.9\n# p/2.jpg\n3 4 5 6\n")
    first, second = read_retinaface_labels(labels, tmp_path)
    assert first.boxes.tolist() == [[10, 20, 40, 60]]
    assert first.landmarks[0].tolist() == [[1, 2]] * 5
    assert second.landmarks[0].tolist() == [[-1, -1]] * 5


@pytest.mark.parametrize("text", ["# a.jpg\n1 2 3\n", "# a.jpg\nx y z w\n", "1 2 3 4\n"])
def test_malformed_lines_are_named(tmp_path: Path, text: str) -> None:
    labels = tmp_path / "label.txt"
    labels.write_text(text)
    with pytest.raises(DataError, match=r"label.txt:\d: expected 'x y w h"):
        read_retinaface_labels(labels, tmp_path)


def test_malformed_wider_lists_are_named(tmp_path: Path) -> None:
    labels = tmp_path / "gt.txt"
    labels.write_text("a.jpg\nmany\n")
    with pytest.raises(DataError, match=r"gt.txt:1: expected a path"):
        read_wider_labels(labels, tmp_path)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        read_wider_labels(tmp_path / "none.txt", tmp_path)
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"bad.jpg: expected a readable image"):
        read_bgr(tmp_path / "bad.jpg")


def test_samples_keep_their_faces_inside(drawn_faces: Path) -> None:
    wider = drawn_faces / "widerface"
    records = read_wider_labels(wider / "wider_face_split" / "wider_face_train_bbx_gt.txt", wider / "train" / "images")
    samples = iter(FaceSamples([(records, ImageCache(records))], [1.0], SampleSpec(size=128), seed=3))
    drawn = [next(samples) for _ in range(40)]
    for image, boxes, ignored in drawn:
        assert image.shape == (128, 128, 3)
        assert ((boxes >= 0) & (boxes <= 128)).all()
        sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
        assert (sizes[~ignored] >= SampleSpec().smallest).all()
    sizes = np.concatenate([np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) for _, boxes, _ in drawn])
    assert sizes.max() > 4 * sizes[sizes > 7].min(), "faces of many sizes"
    images, faces, valid, ignored = collate(drawn)
    assert images.shape == (40, 3, 128, 128)
    assert faces.shape[:2] == valid.shape == ignored.shape


def test_a_drawn_face_lies_under_its_box(drawn_faces: Path) -> None:
    """After cropping, scaling and flipping the box still holds the bright oval."""
    wider = drawn_faces / "widerface"
    records = read_wider_labels(wider / "wider_face_split" / "wider_face_train_bbx_gt.txt", wider / "train" / "images")
    spec = SampleSpec(size=128, photometric=False, mosaic=0.5)
    samples = iter(FaceSamples([(records, ImageCache(records))], [1.0], spec, seed=0))
    checked = 0
    for _ in range(30):
        image, boxes, ignored = next(samples)
        for x0, y0, x1, y1 in boxes[~ignored]:
            if min(x1 - x0, y1 - y0) < 16 or x0 < 1 or y0 < 1 or x1 > 127 or y1 > 127:
                continue
            middle = image[int((y0 + 2 * y1) / 3), int((x0 + x1) / 2)]
            checked += int(middle[2]) > 150
            assert middle[2] > 120
    assert checked > 10


def test_the_same_seed_gives_the_same_samples(drawn_faces: Path) -> None:
    records = read_retinaface_labels(drawn_faces / "lfw" / "label.txt", drawn_faces / "lfw" / "images")
    streams = [
        iter(FaceSamples([(records, ImageCache(records))], [1.0], SampleSpec(size=64), seed=5)) for _ in range(2)
    ]
    for _ in range(3):
        first, second = (next(stream) for stream in streams)
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
