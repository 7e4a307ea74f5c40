from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dartblur_train.evaluation.average_precision import average_precision
from dartblur_train.evaluation.detect import detect, suppress
from dartblur_train.evaluation.operational import ScoredBoxes
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
    """A detector in evaluation mode inside a wrapper in training mode keeps its mode and its statistics."""
    torch.manual_seed(0)
    f = RetinaFace().eval()
    before = {name: value.clone() for name, value in f.state_dict().items()}
    detect(ScoredBoxes(f), [np.full((64, 64, 3), 99, np.uint8)])
    assert not any(module.training for module in f.modules())
    assert all(torch.equal(value, before[name]) for name, value in f.state_dict().items())


class OneBox(nn.Module):
    """Says that there is a face from a quarter to a half of the input, whatever it shows."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.shape = images.shape
        return torch.tensor([[3.0, -9.0]]), torch.tensor([[[40.0, 40, 80, 80], [0, 0, 1, 1]]])


def test_boxes_come_back_in_pixels_of_the_image() -> None:
    detector = OneBox()
    boxes, scores = detect(detector, [np.zeros((50, 80, 3), np.uint8)], long_side=160)[0]
    assert detector.shape[-2:] == (128, 160), "sides are padded to multiples of 32"
    assert np.allclose(boxes, [[20, 20, 40, 40]])
    assert scores[0] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-4)
