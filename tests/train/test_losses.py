from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dartblur_train.evaluation.average_precision import iou_matrix
from dartblur_train.losses.boxes import complete_iou_loss, pairwise_iou
from dartblur_train.losses.multibox import match_anchors, multibox_loss
from dartblur_train.losses.task_aligned import assign, detection_loss
from dartblur_train.nets.edge_detector import STRIDES, EdgeDetector, cell_centres
from dartblur_train.nets.retinaface import AnchorPredictions, decode, encode, make_anchors

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


def cells(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    levels = [cell_centres(side // s, side // s, s, torch.device("cpu")) for s in STRIDES]
    return torch.cat(levels), torch.cat([torch.full((len(c),), float(s)) for s, c in zip(STRIDES, levels, strict=True)])


def test_every_face_gets_cells_and_ignored_ones_are_not_judged() -> None:
    centres, strides = cells(96)
    faces = torch.tensor([[[8.0, 8, 40, 48], [60, 60, 63, 64], [70, 10, 90, 30]]])
    half = strides[:, None] * 2
    boxes = torch.cat([centres - half, centres + half], 1)[None]
    logits = torch.full((1, len(centres)), -3.0)
    valid = torch.tensor([[True, True, True]])
    ignored = torch.tensor([[False, False, True]])
    target = assign(logits, boxes, centres, strides, faces, valid, ignored)
    answered = set(target.face[target.positive].tolist())
    assert answered == {0, 1}, "a face smaller than a cell needs a cell too"
    in_ignored = ((centres > faces[0, 2, :2]) & (centres < faces[0, 2, 2:])).all(1)
    assert not target.counted[0, in_ignored & ~target.positive[0]].any()
    assert target.counted[0, ~in_ignored].any()
    assert (target.quality[target.positive] <= 1).all()
    assert (target.quality[~target.positive] == 0).all()


def test_an_image_without_faces_is_all_background() -> None:
    centres, strides = cells(64)
    logits = torch.zeros(1, len(centres), requires_grad=True)
    boxes = torch.zeros(1, len(centres), 4)
    none = torch.zeros(1, 1, dtype=torch.bool)
    target = assign(logits, boxes, centres, strides, torch.zeros(1, 1, 4), none, none)
    assert not target.positive.any()
    score, box = detection_loss(logits, boxes, target, torch.zeros(1, 1, 4))
    score.backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all(), "every score is pushed down"
    assert box.item() == 0


def test_the_detector_learns_one_picture() -> None:
    torch.manual_seed(0)
    model = EdgeDetector()
    picture = torch.zeros(1, 3, 96, 96)
    picture[:, :, 20:60, 30:62] = 220
    faces = torch.tensor([[[30.0, 20, 62, 60]]])
    valid = torch.ones(1, 1, dtype=torch.bool)
    centres, strides = cells(96)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        logits, boxes = model(picture)
        target = assign(logits, boxes, centres, strides, faces, valid, ~valid)
        score, box = detection_loss(logits, boxes, target, faces)
        optimizer.zero_grad()
        (score + 2 * box).backward()
        optimizer.step()
    logits, boxes = model(picture)
    best = boxes[0, logits[0].argmax()]
    assert pairwise_iou(best[None], faces[0]).item() > 0.7


def test_anchor_offsets_invert() -> None:
    anchors = make_anchors([(8, 8), (4, 4), (2, 2)], torch.device("cpu"))
    assert len(anchors) == 2 * (64 + 16 + 4)
    boxes = torch.rand(len(anchors), 4) * 20
    boxes[:, 2:] += boxes[:, :2] + 1
    assert torch.allclose(decode(encode(boxes, anchors), anchors), boxes, atol=1e-3)


def test_each_face_keeps_its_best_anchor() -> None:
    anchors = make_anchors([(8, 8), (4, 4), (2, 2)], torch.device("cpu"))
    faces = torch.tensor([[1.0, 1, 4, 4], [20, 20, 50, 52]])  # the first overlaps no anchor by 0.35
    face, positive = match_anchors(anchors, faces)
    assert set(face[positive].tolist()) == {0, 1}


def test_multibox_prefers_right_predictions() -> None:
    anchors = make_anchors([(8, 8), (4, 4), (2, 2)], torch.device("cpu"))
    faces = torch.tensor([[20.0, 20, 50, 52]])
    face, positive = match_anchors(anchors, faces)
    right = encode(faces[face], anchors)
    sure = torch.where(positive, 6.0, -6.0)
    good = AnchorPredictions(right[None], torch.stack([-sure, sure], -1)[None], anchors)
    bad = AnchorPredictions(right[None] + 1, torch.stack([sure, -sure], -1)[None], anchors)
    assert multibox_loss(good, [faces]) < 0.01 < 1 < multibox_loss(bad, [faces])
    # Without a face there is nothing to divide by, and hard negatives still count.
    assert torch.isfinite(multibox_loss(bad, [torch.zeros(0, 4)]))
