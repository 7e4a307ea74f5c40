from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dartblur_train.evaluation.average_precision import iou_matrix
from dartblur_train.losses.boxes import complete_iou_loss, pairwise_iou
from dartblur_train.losses.multibox import hard_negatives, match_anchors, multibox_loss, multibox_targets
from dartblur_train.losses.task_aligned import task_aligned_loss, task_aligned_targets
from dartblur_train.nets.anchors import decode, encode, make_anchors, to_corners
from dartblur_train.nets.edge_detector import STRIDES
from dartblur_train.nets.face_detector import Predictions
from dartblur_train.nets.retinaface import ANCHOR_SIZES

coordinates = st.floats(-50, 50, width=32)
box_lists = hnp.arrays(np.float32, st.tuples(st.integers(0, 6), st.just(4)), elements=coordinates)


@settings(max_examples=60, deadline=None)
@given(box_lists, box_lists)
def test_iou_agrees_with_numpy_and_stays_in_range(a: np.ndarray, b: np.ndarray) -> None:
    ours = pairwise_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert np.allclose(ours, iou_matrix(a, b), atol=1e-5)
    assert ((ours >= 0) & (ours <= 1 + 1e-5)).all()


def test_complete_iou_is_zero_for_equal_boxes_and_grows_with_distance() -> None:
    box = torch.tensor([[10.0, 10, 30, 50]])
    shifted = [complete_iou_loss(box + shift, box).item() for shift in (0.0, 5.0, 40.0, 80.0)]
    assert abs(shifted[0]) < 1e-5
    assert shifted == sorted(shifted)


def cells(side: int) -> torch.Tensor:
    shapes = [(side // s, side // s) for s in STRIDES]
    return make_anchors(shapes, STRIDES, [[s] for s in STRIDES], torch.device("cpu"))


def test_every_face_gets_cells_and_ignored_ones_are_not_judged() -> None:
    places = cells(96)
    faces = torch.tensor([[8.0, 8, 40, 48], [60, 60, 63, 64], [70, 10, 90, 30]])
    boxes = to_corners(places * torch.tensor([1, 1, 4, 4]))[None]
    logits = torch.full((1, len(places)), -3.0)
    ignored = torch.tensor([False, False, True])
    target = task_aligned_targets(logits, boxes, places, [faces], [ignored])
    answered = {tuple(box) for box in target.boxes[target.positive].tolist()}
    assert answered == {tuple(box) for box in faces[:2].tolist()}, "a face smaller than a cell needs a cell too"
    in_ignored = ((places[:, :2] > faces[2, :2]) & (places[:, :2] < faces[2, 2:])).all(1)
    assert not target.counted[0, in_ignored & ~target.positive[0]].any()
    assert target.counted[0, ~in_ignored].any()
    assert (target.quality[target.positive] <= 1).all()
    assert (target.quality[~target.positive] == 0).all()


def test_an_image_without_faces_is_all_background() -> None:
    places = cells(64)
    logits = torch.zeros(1, len(places), requires_grad=True)
    boxes = torch.zeros(1, len(places), 4)
    target = task_aligned_targets(logits.detach(), boxes, places, [torch.zeros(0, 4)])
    assert not target.positive.any()
    score, box = task_aligned_loss(logits, boxes, target)
    score.backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all(), "every score is pushed down"
    assert box.item() == 0


def test_a_negative_weighs_its_score() -> None:
    places = cells(64)
    logits = torch.full((1, len(places)), -8.0)
    logits[0, 0], logits[0, 1] = 0.0, -1.0
    logits.requires_grad_()
    boxes = torch.zeros(1, len(places), 4)
    nothing = task_aligned_targets(logits.detach(), boxes, places, [torch.zeros(0, 4)])
    task_aligned_loss(logits, boxes, nothing)[0].backward()
    score = logits.detach().sigmoid()[0, :2]
    assert logits.grad is not None
    # The gradient of the cross-entropy is the score itself.
    assert torch.allclose(logits.grad[0, :2], 0.75 * score * score)


def anchors_of_64() -> torch.Tensor:
    return make_anchors([(8, 8), (4, 4), (2, 2)], STRIDES, ANCHOR_SIZES, torch.device("cpu"))


def test_anchor_offsets_invert() -> None:
    anchors = anchors_of_64()
    assert len(anchors) == 2 * (64 + 16 + 4)
    boxes = torch.rand(len(anchors), 4) * 20
    boxes[:, 2:] += boxes[:, :2] + 1
    assert torch.allclose(decode(encode(boxes, anchors), anchors), boxes, atol=1e-3)


def test_each_face_keeps_its_best_anchor() -> None:
    anchors = anchors_of_64()
    faces = torch.tensor([[1.0, 1, 4, 4], [20, 20, 50, 52]])  # the first overlaps no anchor by 0.35
    face, positive = match_anchors(anchors, faces)
    assert set(face[positive].tolist()) == {0, 1}


def test_multibox_prefers_right_predictions() -> None:
    anchors = anchors_of_64()
    faces = torch.tensor([[20.0, 20, 50, 52]])
    face, positive = match_anchors(anchors, faces)
    right = encode(faces[face], anchors)
    sure = torch.where(positive, 12.0, -12.0)
    good = Predictions(sure[None], right[None], anchors)
    bad = Predictions(-sure[None], right[None] + 1, anchors)
    target = multibox_targets(anchors, [faces])
    assert multibox_loss(good, target).total < 0.01 < 1 < multibox_loss(bad, target).total
    # Without a face there is nothing to divide by, and hard negatives still count.
    assert torch.isfinite(multibox_loss(bad, multibox_targets(anchors, [torch.zeros(0, 4)])).total)


def test_one_logit_is_the_cross_entropy_of_two_classes() -> None:
    """RetinaFace's softmax over background and face with label smoothing, as a sigmoid."""
    torch.manual_seed(0)
    anchors = anchors_of_64()
    target = multibox_targets(anchors, [torch.tensor([[20.0, 20, 50, 52]])])
    classes = torch.randn(1, len(anchors), 2)
    logits = classes[..., 1] - classes[..., 0]
    loss = multibox_loss(Predictions(logits, torch.zeros(1, len(anchors), 4), anchors), target, 0.2)
    chosen = target.positive | hard_negatives(logits, target.positive, target.counted)
    expected = torch.nn.functional.cross_entropy(
        classes[chosen], target.positive[chosen].long(), reduction="sum", label_smoothing=0.2
    )
    assert loss.score.item() == pytest.approx(expected.item() / target.positive.sum().item(), rel=1e-5)
