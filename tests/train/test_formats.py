from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervision
from pycocotools.coco import COCO

from dartblur_train.data.formats import LAYOUTS, read_data_set
from dartblur_train.data.labels import DataError
from dartblur_train.data.problems import Problems

FACES = {"a": [[10.0, 12.0, 30.0, 40.0], [-4.0, 0.0, 9.0, 8.0]], "b": [[2.0, 3.0, 7.0, 9.0]], "c": []}
"""xyxy pixels of pictures of 64 x 48."""


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((48, 64, 3), 90, np.uint8))


def xywh(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def write_wider(root: Path, part: str = "train") -> None:
    text = ""
    for name, boxes in FACES.items():
        write_image(root / part / "images" / f"{name}.jpg")
        rows = [" ".join(map(str, xywh(box))) + " 0 0 0 0 0 0" for box in boxes] or ["0 0 0 0 0 0 0 0 0 0"]
        text += "\n".join([f"{name}.jpg", str(len(boxes)), *rows]) + "\n"
    (root / "wider_face_split").mkdir(exist_ok=True)
    (root / "wider_face_split" / f"wider_face_{part}_bbx_gt.txt").write_text(text)


def write_retinaface(root: Path) -> None:
    text = ""
    for name, boxes in FACES.items():
        write_image(root / "images" / f"{name}.jpg")
        text += "\n".join([f"# {name}.jpg", *(" ".join(map(str, xywh(box))) for box in boxes)]) + "\n"
    (root / "label.txt").write_text(text)


def coco_content() -> dict[str, Any]:
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "face"}]}
    for name, boxes in FACES.items():
        content["images"].append({"id": name, "file_name": f"{name}.jpg", "width": 64, "height": 48})
        for box in boxes:
            number = len(content["annotations"]) + 100
            content["annotations"].append(
                {"id": number, "image_id": name, "category_id": 3, "bbox": xywh(box), "iscrowd": 0, "area": 1}
            )
    return content


def write_coco(root: Path, content: dict[str, Any] | None = None) -> None:
    for name in FACES:
        write_image(root / "train2017" / f"{name}.jpg")
    (root / "annotations").mkdir(exist_ok=True)
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(coco_content() if content is None else content))


def write_yolo(root: Path, names: str | None = "names: [face]\n") -> None:
    for name, boxes in FACES.items():
        write_image(root / "images" / "train" / f"{name}.jpg")
        lines = []
        for x, y, w, h in map(xywh, boxes):
            lines.append(f"0 {(x + w / 2) / 64} {(y + h / 2) / 48} {w / 64} {h / 48}\n")
        (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
        if lines:  # a picture without faces has no file
            (root / "labels" / "train" / f"{name}.txt").write_text("".join(lines))
    if names:
        (root / "data.yaml").write_text(names)


def voc_object(box: list[float], name: str = "face", more: str = "") -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True)
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
    return f"<object><name>{name}</name>{more}<bndbox>{inner}</bndbox></object>"


def write_voc(root: Path) -> None:
    (root / "Annotations").mkdir(parents=True)
    for name, boxes in FACES.items():
        write_image(root / "JPEGImages" / f"{name}.jpg")
        objects = "".join(map(voc_object, boxes))
        text = f"<annotation><filename>{name}.jpg</filename>{objects}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)


WRITERS = {
    "wider": write_wider,
    "retinaface": write_retinaface,
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("named", [False, True])
def test_each_layout_gives_the_same_faces(tmp_path: Path, layout: str, named: bool) -> None:
    WRITERS[layout](tmp_path)
    records = read_data_set(tmp_path, layout if named else "auto")
    assert sorted(record.path.stem for record in records) == ["a", "b", "c"]
    for record in records:
        assert record.path.is_file()
        assert record.boxes.dtype == np.float32
        assert np.allclose(record.boxes, np.reshape(FACES[record.path.stem], (-1, 4)), atol=1e-4)
        assert not record.ignored.any()
        assert record.landmarks.shape == (len(record.boxes), 5, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_absent_part_is_refused(tmp_path: Path, layout: str) -> None:
    WRITERS[layout](tmp_path)
    with pytest.raises(DataError, match=r"expected the part 'val' of a data set, found none. Looked for"):
        read_data_set(tmp_path, layout, part="val")


def test_nothing_known_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_data_set(tmp_path)
    for words in ("wider_face_train_bbx_gt.txt", "label.txt", "_annotations.coco.json", "labels/train/", "Annotations"):
        assert words in str(error.value)
    with pytest.raises(DataError, match="expected a layout out of auto, wider"):
        read_data_set(tmp_path, "kitti")


def test_two_layouts_at_once_are_refused(tmp_path: Path) -> None:
    write_retinaface(tmp_path)
    write_voc(tmp_path)
    with pytest.raises(DataError, match="it could be retinaface or voc: name it"):
        read_data_set(tmp_path)
    assert len(read_data_set(tmp_path, "voc")) == 3


def test_wider_in_retinaface_lists(tmp_path: Path) -> None:
    """As the published DartBlur has it."""
    write_retinaface(tmp_path / "val")
    assert len(read_data_set(tmp_path, part="val")) == 3


def test_other_places_for_the_same_layouts(tmp_path: Path) -> None:
    for name in FACES:
        write_image(tmp_path / "roboflow" / "valid" / f"{name}.jpg")
    (tmp_path / "roboflow" / "valid" / "_annotations.coco.json").write_text(json.dumps(coco_content()))
    assert len(read_data_set(tmp_path / "roboflow", part="val")) == 3

    write_yolo(tmp_path / "flat", None)
    flat = tmp_path / "other"
    flat.mkdir()
    for kind in ("images", "labels"):
        (tmp_path / "flat" / kind / "train").rename(flat / kind)
    assert [len(record.boxes) for record in read_data_set(flat)] == [2, 1, 0]

    write_voc(tmp_path / "voc")
    lists = tmp_path / "voc" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("b\n")
    assert [record.path.stem for record in read_data_set(tmp_path / "voc", part="val")] == ["b"]
    with pytest.raises(DataError, match="expected the part 'train'"):
        read_data_set(tmp_path / "voc")


def test_agrees_with_the_libraries(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    reference = COCO(str(tmp_path / "coco" / "annotations" / "instances_train2017.json"))
    for record in read_data_set(tmp_path / "coco"):
        boxes = [annotation["bbox"] for annotation in reference.imgToAnns[record.path.stem]]
        found = record.boxes.copy()
        found[:, 2:] -= found[:, :2]
        assert np.allclose(found, np.reshape(boxes, (-1, 4)))

    write_yolo(tmp_path / "yolo")
    yolo, write = tmp_path / "yolo", supervision.DetectionDataset.from_yolo
    theirs = write(str(yolo / "images/train"), str(yolo / "labels/train"), str(yolo / "data.yaml"))
    for record in read_data_set(yolo):
        assert np.allclose(record.boxes, theirs.annotations[str(record.path)].xyxy.reshape(-1, 4), atol=1e-4)

    write_voc(tmp_path / "voc")
    voc = tmp_path / "voc"
    theirs = supervision.DetectionDataset.from_pascal_voc(str(voc / "JPEGImages"), str(voc / "Annotations"))
    for record in read_data_set(voc):
        assert np.allclose(record.boxes, theirs.annotations[str(record.path)].xyxy.reshape(-1, 4))


def test_crowds_and_difficult_objects_are_ignored(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][1]["iscrowd"] = 1
    write_coco(tmp_path / "coco", content)
    assert read_data_set(tmp_path / "coco")[0].ignored.tolist() == [False, True]
    write_voc(tmp_path / "voc")
    hard = voc_object([1, 1, 9, 9], more="<difficult>1</difficult>")
    (tmp_path / "voc" / "Annotations" / "c.xml").write_text(f"<annotation>{hard}</annotation>")
    assert read_data_set(tmp_path / "voc")[2].ignored.tolist() == [True]


def test_keypoints_after_yolo_boxes(tmp_path: Path) -> None:
    write_yolo(tmp_path, "names: {0: face}\nkpt_shape: [5, 3]\n")
    file = tmp_path / "labels" / "train" / "b.txt"
    file.write_text("0 0.5 0.5 0.5 0.5 " + "0.5 0.5 2 " * 5 + "\n")
    assert read_data_set(tmp_path)[1].boxes.tolist() == [[16, 12, 48, 36]]


def with_classes(layout: str, root: Path, names: tuple[str, str]) -> None:
    """The data set, the face of picture b of the second class."""
    if layout == "coco":
        content = coco_content()
        content["categories"] = [{"id": 3, "name": names[0]}, {"id": 4, "name": names[1]}]
        content["annotations"][2]["category_id"] = 4
        write_coco(root, content)
    elif layout == "yolo":
        write_yolo(root, f"names: [{names[0]}, {names[1]}]\n")
        file = root / "labels" / "train" / "b.txt"
        file.write_text("1" + file.read_text()[1:])
    else:
        write_voc(root)
        for file in (root / "Annotations").glob("*.xml"):
            name = names[file.stem == "b"]
            file.write_text(file.read_text().replace("<name>face", f"<name>{name}"))


@pytest.mark.parametrize("layout", ["coco", "yolo", "voc"])
def test_which_classes_are_faces(tmp_path: Path, layout: str) -> None:
    def counts(names: tuple[str, str], classes: list[str] | None = None) -> list[int]:
        root = tmp_path / "-".join(names)
        if not root.exists():
            with_classes(layout, root, names)
        records = sorted(read_data_set(root, layout, classes=classes), key=lambda record: record.path)
        return [len(record.boxes) for record in records]

    assert counts(("face", "plate")) == [2, 0, 0]
    assert counts(("plate", "face")) == [0, 1, 0]
    assert counts(("head", "plate"), ["head", "plate"]) == [2, 1, 0]
    with pytest.raises(DataError, match=r"expected one class, or one named 'face', there are: head, plate"):
        counts(("head", "plate"))
    with pytest.raises(DataError, match=r"expected the classes nose, there are: head, plate"):
        counts(("head", "plate"), ["nose"])


def check_both_policies(root: Path, where: str, kind: str, count: int = 1) -> list[int]:
    """Refused by name, skipped and counted; gives how many faces each remaining picture has."""
    with pytest.raises(DataError, match=rf"{where}.*{kind}.*--on-bad-data skip"):
        read_data_set(root)
    problems = Problems("skip")
    records = read_data_set(root, problems=problems)
    assert problems.kinds == {kind: count}
    return [len(record.boxes) for record in sorted(records, key=lambda record: record.path)]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"bbox": [1, 2, 3]}, "malformed annotation"),
        ({"bbox": ["1", 2, 3, 4]}, "malformed annotation"),
        ({"bbox": None}, "malformed annotation"),
        ({"image_id": "z"}, "malformed annotation"),
        ({"image_id": []}, "malformed annotation"),
        ({"category_id": 99}, "malformed annotation"),
        ({"bbox": [1, 2, 0, 4]}, "box of no area"),
        ({"bbox": [1, 2, 3, -4]}, "box of negative size"),
        ({"bbox": [1, float("nan"), 3, 4]}, "box that is not finite"),
        ({"bbox": [1, 10**400, 3, 4]}, "box that is not finite"),
    ],
)
def test_malformed_coco_annotations(tmp_path: Path, change: dict[str, Any], kind: str) -> None:
    content = coco_content()
    content["annotations"][0].update(change)
    write_coco(tmp_path, content)
    assert check_both_policies(tmp_path, r"instances_train2017.json: annotation 100", kind) == [1, 1, 0]


def test_malformed_coco_images(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"].append("nothing")
    write_coco(tmp_path / "1", content)
    assert check_both_policies(tmp_path / "1", "annotation at place 3", "malformed annotation") == [2, 1, 0]
    content = coco_content()
    content["images"][2]["file_name"] = "absent.jpg"
    write_coco(tmp_path / "2", content)
    assert check_both_policies(tmp_path / "2", "image c", "missing image") == [2, 1]
    content = coco_content()
    content["images"].append({"id": "a", "file_name": "a.jpg"})
    write_coco(tmp_path / "3", content)
    assert check_both_policies(tmp_path / "3", "image a", "malformed image") == [2, 1, 0]


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [], "annotations": {}, "categories": []}'])
def test_what_is_no_coco_file_is_refused_anyway(tmp_path: Path, text: str) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations" / "instances_train2017.json").write_text(text)
    with pytest.raises(DataError, match=r"instances_train2017.json: expected a COCO file"):
        read_data_set(tmp_path, problems=Problems("skip"))


def test_several_coco_files_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations" / "instances_train2014.json").write_text("{}")
    with pytest.raises(DataError, match=r"instances_train2014.json, instances_train2017.json"):
        read_data_set(tmp_path)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 0.5 0.5 0.5", "malformed line"),
        ("face 0.5 0.5 0.5 0.5", "malformed line"),
        ("0.5 0.5 0.5 0.5 0.5", "malformed line"),
        ("inf 0.5 0.5 0.5 0.5", "malformed line"),
        ("0 0.5 0.5 0.5 x", "malformed line"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", "malformed line"),
        ("7 0.5 0.5 0.5 0.5", "unknown class"),
        ("0 32 24 10 10", "box not in shares"),
        ("0 0.5 0.5 0 0.5", "box of no area"),
        ("0 0.5 0.5 nan 0.5", "box that is not finite"),
        ("0 0.5 inf 0.5 0.5", "box that is not finite"),
    ],
)
def test_malformed_yolo_lines(tmp_path: Path, line: str, kind: str) -> None:
    write_yolo(tmp_path)
    file = tmp_path / "labels" / "train" / "a.txt"
    file.write_text(f"{line}\n\n{file.read_text()}")
    assert check_both_policies(tmp_path, r"a.txt:1", kind) == [2, 1, 0]


def test_yolo_files_that_do_not_fit(tmp_path: Path) -> None:
    write_yolo(tmp_path / "1")
    (tmp_path / "1" / "labels" / "train" / "z.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert check_both_policies(tmp_path / "1", "z.txt", "missing image") == [2, 1, 0]
    write_yolo(tmp_path / "2")
    (tmp_path / "2" / "images" / "train" / "b.jpg").write_bytes(b"no picture")
    assert check_both_policies(tmp_path / "2", "b.jpg", "unreadable image") == [2, 0]
    write_yolo(tmp_path / "3", "classes: [face]\n")
    with pytest.raises(DataError, match=r"data.yaml: expected the classes under 'names'"):
        read_data_set(tmp_path / "3", problems=Problems("skip"))


@pytest.mark.parametrize(
    ("body", "kind", "left"),
    [
        ("<annotation><object></annotation>", "malformed file", [2, 0]),
        ("", "malformed file", [2, 0]),
        ('<!DOCTYPE a [<!ENTITY e "x">]><annotation>&e;</annotation>', "malformed file", [2, 0]),
        ("<annotation><object><name>face</name></object></annotation>", "malformed object", [2, 0, 0]),
        (f"<annotation>{voc_object([1, 2, 9, 9], name='')}</annotation>", "malformed object", [2, 0, 0]),
        (f"<annotation>{voc_object([1, 2, 2, 9])}</annotation>", "box of no area", [2, 0, 0]),
        (f"<annotation>{voc_object([9, 2, 1, 9])}</annotation>", "box of negative size", [2, 0, 0]),
        (f"<annotation>{voc_object([1, 2, float('inf'), 9])}</annotation>", "box that is not finite", [2, 0, 0]),
    ],
)
def test_malformed_voc_files(tmp_path: Path, body: str, kind: str, left: list[int]) -> None:
    write_voc(tmp_path)
    (tmp_path / "Annotations" / "b.xml").write_text(body)
    assert check_both_policies(tmp_path, r"b.xml", kind) == left


def test_voc_images_that_are_absent(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    assert check_both_policies(tmp_path, "b.xml", "missing image") == [2, 0]
