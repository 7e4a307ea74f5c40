from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import nn

from dartblur_train.data.labels import DataError, FaceImage
from dartblur_train.evaluation.average_precision import average_precision
from dartblur_train.evaluation.detect import detect, suppress
from dartblur_train.evaluation.fidelity import fidelity, operational_fidelity
from dartblur_train.evaluation.wider_protocol import read_difficulty
from dartblur_train.methods import build_method, plain
from dartblur_train.nets.edge_detector import EdgeDetector
from dartblur_train.nets.face_detector import Predictions
from dartblur_train.nets.retinaface import RetinaFace

FACE = np.array([[10, 10, 40, 40]], np.float32)
SMALL = np.array([[60, 60, 70, 70]], np.float32)
NONE = np.zeros((0, 4), np.float32)


def ap(detections: list, faces: list, smallest: float = 0.0) -> float:
    return average_precision(
        [(np.array(b, np.float32).reshape(-1, 4), np.array(s, np.float32)) for b, s in detections],
        [(f, np.zeros(len(f), bool)) for f in faces],
        smallest=smallest,
    ).average_precision


def test_perfect_and_empty() -> None:
    assert ap([(FACE, [0.9])], [FACE]) == 1
    assert ap([(NONE, [])], [FACE]) == 0


def test_a_false_alarm_counts_only_above_the_face() -> None:
    far = np.array([[200, 200, 240, 240]], np.float32)
    both = np.concatenate([FACE, far])
    assert ap([(both, [0.9, 0.5])], [FACE]) == 1
    assert ap([(both, [0.5, 0.9])], [FACE]) == pytest.approx(0.5)


def test_a_face_is_found_once() -> None:
    twice = np.concatenate([FACE, FACE + 1])
    assert ap([(twice, [0.9, 0.8])], [FACE]) == 1
    curve = average_precision([(twice, np.array([0.9, 0.8], np.float32))], [(FACE, np.zeros(1, bool))])
    assert curve.precision.tolist() == [1.0, 0.5]


def test_small_faces_are_neither_missed_nor_false() -> None:
    faces = np.concatenate([FACE, SMALL])
    assert ap([(FACE, [0.9])], [faces], smallest=20) == 1, "the small one isn't missed"
    assert ap([(faces, [0.5, 0.9])], [faces], smallest=20) == 1, "finding it is no false alarm"
    assert ap([(faces, [0.5, 0.9])], [FACE], smallest=20) == 1, "nor is a small detection that matches nothing"


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="expected as many images"):
        average_precision([], [(FACE, np.zeros(1, bool))])


def test_suppression_keeps_the_best_of_each_cluster() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40]])
    assert suppress(boxes, torch.tensor([0.5, 0.9, 0.3]), 0.45).tolist() == [1, 2]
    assert suppress(torch.zeros(0, 4), torch.zeros(0), 0.45).tolist() == []


def test_measuring_leaves_a_fixed_network_fixed() -> None:
    """A detector keeps its mode, part by part, and its statistics."""
    torch.manual_seed(0)
    f = RetinaFace().eval()
    before = {name: value.clone() for name, value in f.state_dict().items()}
    f.head_in_training = nn.BatchNorm2d(3).train()  # type: ignore[assignment]
    detect(f, [np.full((64, 64, 3), 99, np.uint8)])
    assert f.head_in_training.training
    del f.head_in_training
    assert not any(module.training for module in f.modules())
    assert all(torch.equal(value, before[name]) for name, value in f.state_dict().items())


class OneBox(EdgeDetector):
    """Says that there is a face from a quarter to a half of the input, whatever it shows."""

    def forward(self, images: torch.Tensor) -> Predictions:
        self.shape = images.shape
        return Predictions(torch.tensor([[3.0, -9.0]]), torch.tensor([[[40.0, 40, 80, 80], [0, 0, 1, 1]]]), NONE_YET)

    def decode(self, predictions: Predictions) -> torch.Tensor:
        return predictions.offsets


NONE_YET = torch.zeros(2, 4)


def test_boxes_come_back_in_pixels_of_the_image() -> None:
    detector = OneBox()
    boxes, scores = detect(detector, [np.zeros((50, 80, 3), np.uint8)], long_side=160)[0]
    assert detector.shape[-2:] == (128, 160), "sides are padded to multiples of 32"
    assert np.allclose(boxes, [[20, 20, 40, 40]])
    assert scores[0] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-4)


class BrightSpot(OneBox):
    """Finds the first face iff it is bright there."""

    def forward(self, images: torch.Tensor) -> Predictions:
        bright = images[:, :, 15:35, 15:35].mean() > 128
        logit = torch.tensor([[3.0 if bright else -9.0, -9.0]])
        return Predictions(logit, torch.tensor([[[10.0, 10, 40, 40], [0, 0, 1, 1]]]), NONE_YET)


def test_operational_fidelity_is_one_where_f_sees_the_same(tmp_path: Path) -> None:
    picture = np.full((64, 64, 3), 200, np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    record = FaceImage(tmp_path / "a.png", FACE, np.zeros(1, bool), np.full((1, 5, 2), -1, np.float32))
    methods = {"gaussian": plain("gaussian"), "block": plain("block")}
    assert operational_fidelity([record], methods, BrightSpot()) == {"gaussian": 1.0, "block": 0.0}


def test_truth_is_what_f_is_sure_of() -> None:
    f_x = [(np.concatenate([FACE, SMALL]), np.array([0.9, 0.3], np.float32))]
    assert fidelity([(FACE, np.array([0.8], np.float32))], f_x, 0.5).average_precision == 1
    assert fidelity([(FACE, np.array([0.8], np.float32))], f_x, 0.2).average_precision == pytest.approx(0.5)


def cells(*parts: np.ndarray) -> np.ndarray:
    """A column of Matlab cells."""
    column = np.empty((len(parts), 1), object)
    for row, part in enumerate(parts):
        column[row, 0] = part
    return column


def test_difficulty_lists_say_which_faces_count(tmp_path: Path) -> None:
    names = cells(cells(np.array(["a"]), np.array(["b"])), cells(np.array(["c"])))
    numbers = cells(cells(np.array([[2]]), np.zeros((0, 1), int)), cells(np.array([[1], [2]])))
    savemat(tmp_path / "wider_easy_val.mat", {"file_list": names, "gt_list": numbers})

    def record(name: str, count: int) -> FaceImage:
        marks = np.full((count, 5, 2), -1, np.float32)
        return FaceImage(Path(f"{name}.jpg"), np.zeros((count, 4), np.float32), np.zeros(count, bool), marks)

    records = [record("a", 3), record("b", 1), record("c", 2), record("not listed", 1)]
    easy = read_difficulty(tmp_path, "easy", records)
    assert [r.ignored.tolist() for r in easy] == [[True, False, True], [True], [False, False], [True]]
    with pytest.raises(DataError, match="expected faces 1 to 1, the list names 2"):
        read_difficulty(tmp_path, "easy", [record("a", 1)])
    with pytest.raises(DataError, match="expected a list of WIDER FACE's evaluation tools"):
        read_difficulty(tmp_path, "hard", records)


def test_pixelation_has_as_many_blocks_as_its_name_says() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    box = np.array([[6, 6, 54, 54]], np.float32)
    for name, blocks in (("pixelate", 8), ("pixelate-2", 2), ("pixelate-12", 12)):
        face = build_method(name)(picture, box)[6:54, 6:54]
        assert len(np.unique(face.reshape(-1, 3), axis=0)) == blocks * blocks
    for wrong in ("pixelate-0", "pixelate-", "pixelate-two", "pixelate-99999"):
        with pytest.raises(DataError, match="method: expected one of"):
            build_method(wrong)
