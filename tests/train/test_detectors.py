"""What every family of face detectors promises to the trainer, the evaluation and the export."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, grad

from dartblur_train.data.labels import DataError
from dartblur_train.losses.boxes import pairwise_iou
from dartblur_train.losses.yolo import assign_places
from dartblur_train.nets.anchors import to_corners
from dartblur_train.nets.detectors import DETECTORS, build_detector
from dartblur_train.nets.face_detector import FaceDetector, Predictions, Targets
from dartblur_train.nets.pyramidbox import PyramidBox

SIDE = 128
FACE = torch.tensor([[40.0, 36, 80, 88]])


@pytest.fixture(params=sorted(DETECTORS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def detector(name: str) -> FaceDetector:
    torch.manual_seed(0)
    return build_detector(name).eval()


def picture() -> Tensor:
    """``[1, 3, SIDE, SIDE]``: a bright oval, `FACE`, on dark and noisy ground."""
    canvas = np.random.default_rng(0).integers(0, 60, (SIDE, SIDE, 3), np.uint8)
    cv2.ellipse(canvas, (60, 62), (20, 26), 0, 0, 360, (190, 210, 240), -1)
    return torch.from_numpy(canvas).permute(2, 0, 1)[None].float()


def look(detector: FaceDetector, height: int = 320, width: int = 320, count: int = 1) -> Predictions:
    """What the detector says of nothing much, as leaves that gradients flow to."""
    torch.manual_seed(1)
    with torch.no_grad():
        logits, offsets, anchors = detector(torch.rand(1, 3, height, width) * 255)
    repeated = logits.repeat(count, 1).requires_grad_(), offsets.repeat(count, 1, 1).requires_grad_()
    return Predictions(*repeated, anchors)


def judged(detector: FaceDetector, predictions: Predictions, faces: Tensor, ignored: Tensor | None = None) -> Targets:
    return detector.targets(predictions, [faces], None if ignored is None else [ignored])


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 1), (3, 5)])
def test_shapes(detector: FaceDetector, rows: int, columns: int) -> None:
    height, width = rows * detector.multiple, columns * detector.multiple
    assert detector.multiple <= 128
    logits, offsets, anchors = predictions = detector(torch.rand(2, 3, height, width) * 255)
    assert logits.shape == (2, len(anchors))
    assert offsets.shape == detector.decode(predictions).shape == (2, len(anchors), 4)
    assert logits.isfinite().all()
    assert detector.decode(predictions).isfinite().all()
    assert (anchors > 0).all()
    assert (anchors[:, :2] < torch.tensor([width, height])).all()


def test_each_row_looks_at_its_own_image(detector: FaceDetector) -> None:
    images = torch.rand(3, 3, SIDE, SIDE) * 255
    together, alone = detector(images), detector(images[1:2])
    torch.testing.assert_close(together.logits[1:2], alone.logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(detector.decode(together)[1:2], detector.decode(alone), rtol=1e-3, atol=1e-2)


def test_no_offset_is_the_anchor_itself(detector: FaceDetector) -> None:
    predictions = look(detector, 128, 192)
    boxes = detector.decode(predictions._replace(offsets=torch.zeros_like(predictions.offsets)))
    torch.testing.assert_close(boxes, to_corners(predictions.anchors)[None])


def test_every_face_has_a_place(detector: FaceDetector) -> None:
    """Whatever its size and wherever it is."""
    random = np.random.default_rng(0)
    heights = np.repeat([8, 11, 16, 23, 32, 45, 64, 90, 128, 181, 220, 250], 8).astype(float)
    sizes = np.stack([heights / random.uniform(1, 1.5, len(heights)), heights], 1)
    corners = random.uniform(0, 320 - sizes)
    faces = torch.from_numpy(np.concatenate([corners, corners + sizes], 1)).float()
    targets = detector.targets(look(detector, count=len(faces)), list(faces[:, None]))
    assert targets.positive.any(1).all()
    assert ((targets.quality >= 0) & (targets.quality <= 1)).all()
    assert (targets.quality[~targets.positive] == 0).all()
    assert targets.counted[targets.positive].all()
    row, place = targets.positive.nonzero().unbind(1)
    torch.testing.assert_close(targets.boxes[row, place], faces[row])


def test_an_ignored_face_is_not_judged(detector: FaceDetector) -> None:
    predictions = look(detector)
    faces, ignored = torch.tensor([[20.0, 20, 70, 80], [180, 150, 280, 280]]), torch.tensor([False, True])
    targets = judged(detector, predictions, faces, ignored)
    x, y = predictions.anchors[:, 0], predictions.anchors[:, 1]
    inside = (x > 180) & (x < 280) & (y > 150) & (y < 280)
    assert inside.any()
    assert not targets.counted[0, inside].any()
    assert not targets.positive[0, inside].any()
    assert (targets.boxes[targets.positive] == faces[0]).all()
    detector.loss(predictions, targets).total.backward()
    for part in predictions[:2]:
        assert part.grad is not None
        assert part.grad[0, inside].abs().max() == 0
        assert part.grad[0, ~inside].abs().max() > 0


def test_an_image_without_faces_pushes_scores_down(detector: FaceDetector) -> None:
    predictions = look(detector)
    nothing = torch.zeros(0, 4)
    targets = judged(detector, predictions, nothing)
    assert targets.counted.all()
    assert not targets.positive.any()
    losses = detector.loss(predictions, targets)
    assert losses.score > 0
    assert losses.box == 0
    slope = torch.autograd.grad(losses.total, predictions.logits)[0]
    assert (slope >= 0).all()
    assert slope.max() > 0
    only_ignored = judged(detector, predictions, FACE, torch.tensor([True]))
    assert not only_ignored.positive.any()
    assert detector.loss(predictions, only_ignored).total.isfinite()


def test_label_smoothing_asks_for_less_certainty(detector: FaceDetector) -> None:
    predictions = look(detector)
    targets = judged(detector, predictions, FACE)
    plain, smooth = detector.loss(predictions, targets), detector.loss(predictions, targets, 0.2)
    assert plain.box == smooth.box
    certain = predictions._replace(logits=torch.where(targets.positive, 12.0, -12.0))
    sure = targets._replace(quality=targets.positive.float())
    assert plain.score != smooth.score
    assert detector.loss(certain, sure).score < 1e-3 < detector.loss(certain, sure, 0.2).score


def test_every_weight_learns(detector: FaceDetector) -> None:
    """Also in half precision: a weight without gradient would stop processes that train together."""
    _awake(detector)
    weights = [weight for weight in detector.parameters() if weight.requires_grad]
    with torch.autocast("cpu", torch.bfloat16):
        loss = detector.detection_loss(picture(), [FACE], label_smoothing=0.2).total
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, weights))


def test_learns_one_picture(detector: FaceDetector) -> None:
    detector.train()
    optimizer = torch.optim.Adam([p for p in detector.parameters() if p.requires_grad], 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        detector.detection_loss(picture(), [FACE]).total.backward()
        optimizer.step()
    with torch.no_grad():
        predictions = detector(picture())
    best = detector.decode(predictions)[0, predictions.logits[0].argmax()]
    assert pairwise_iou(best[None], FACE).item() > 0.6


def _awake(detector: FaceDetector) -> None:
    """Gives random weights statistics under which activations neither vanish nor explode."""
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    noise = torch.rand(3, 3, SIDE, SIDE) * 255
    with torch.no_grad():
        detector.train()(torch.cat([picture(), noise]).to(next(detector.parameters()).dtype))
    detector.eval()


class Cycle:
    """A step of SGD on one picture, then the loss on another: what g differentiates through."""

    ALPHA = 1e-4

    def __init__(self, detector: FaceDetector, clear: Tensor, faces: Tensor) -> None:
        self.detector, self.clear, self.faces = detector, clear, [faces]
        self.theta = {key: weight.detach() for key, weight in detector.named_parameters() if weight.requires_grad}
        self.fixed = {key: weight.detach() for key, weight in detector.state_dict().items() if key not in self.theta}

    def look(self, weights: dict[str, Tensor], images: Tensor) -> Predictions:
        predictions: Predictions = functional_call(self.detector, (weights, self.fixed), (images,))
        return predictions

    def step(self, judge: Callable[[Predictions], Tensor], images: Tensor) -> dict[str, Tensor]:
        gradient = grad(lambda weights: judge(self.look(weights, images)))(self.theta)
        return {key: weight - self.ALPHA * gradient[key] for key, weight in self.theta.items()}

    def judge(self, predictions: Predictions) -> Tensor:
        return self.detector.judge(predictions, self.faces, label_smoothing=0.2).total

    def __call__(self, images: Tensor) -> Tensor:
        return self.judge(self.look(self.step(self.judge, images), self.clear))

    def frozen(self, images: Tensor) -> Callable[[Tensor], Tensor]:
        """The same function, but with the targets that hold at `images`."""

        def freeze(weights: dict[str, Tensor], seen: Tensor) -> Callable[[Predictions], Tensor]:
            targets = self.detector.targets(self.look(weights, seen), self.faces)
            # Cross-entropy comes in its targets' precision.
            targets = targets._replace(quality=targets.quality.double())
            return lambda predictions: self.detector.loss(predictions, targets, 0.2).total

        with torch.no_grad():
            before = freeze(self.theta, images)
        with torch.no_grad():
            after = freeze(self.step(self.judge, images), self.clear)
        return lambda images: after(self.look(self.step(before, images), self.clear))


def test_second_order_gradient_equals_finite_difference(
    detector: FaceDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a step on ``g(x)``, in double precision, for the targets that hold where the gradient is taken."""
    detector.double()
    torch.manual_seed(2)
    clear = picture().double()
    _awake(detector)
    blurred = (clear + torch.randn_like(clear) * 20).requires_grad_()
    cycle = Cycle(detector, clear, FACE.double())
    frozen = cycle.frozen(blurred.detach())
    (as_trained,) = torch.autograd.grad(cycle(blurred), blurred)
    torch.testing.assert_close(as_trained, torch.autograd.grad(frozen(blurred), blurred)[0], rtol=1e-3, atol=1e-6)

    # Some weights of the losses are constants by decree, but to finite differences nothing is; nor may single
    # precision hide the differences.
    monkeypatch.setattr(torch, "no_grad", contextlib.nullcontext)
    monkeypatch.setattr(Tensor, "detach", lambda self: self)
    monkeypatch.setattr(Tensor, "float", lambda self: self)
    (gradient,) = torch.autograd.grad(frozen(blurred), blurred)
    assert gradient.abs().max() > 0
    for seed in range(3):
        torch.manual_seed(seed)
        direction, step = torch.randn_like(clear), 1e-8
        difference = (frozen(blurred + step * direction) - frozen(blurred - step * direction)) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-3)


def test_a_name_is_refused() -> None:
    with pytest.raises(DataError, match=r"retinaface.*'nope'"):
        build_detector("nope")


def test_weights_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.safetensors is not there"):
        build_detector(name, tmp_path / "absent.safetensors")
    text = tmp_path / "notes.safetensors"
    text.write_text("not weights")
    with pytest.raises(DataError, match="notes"):
        build_detector(name, text)
    other = tmp_path / "other.safetensors"
    save_file(build_detector("retinaface" if name != "retinaface" else "yolo-face").state_dict(), other)
    with pytest.raises(DataError, match="other"):
        build_detector(name, other)


def test_weights_come_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    detector = build_detector(name)
    _awake(detector)
    file = tmp_path / "detector.safetensors"
    save_file(detector.state_dict(), file)
    again = build_detector(name, file).eval()
    with torch.no_grad():
        for said, meant in zip(again(picture()), detector(picture()), strict=True):
            assert torch.equal(said, meant)


def test_pyramidbox_takes_the_strongest_scores() -> None:
    """Max-in-out: three scores for the background at the finest level, three for the face at the others."""
    detector = PyramidBox().eval()
    for module in detector.predict:
        nn.init.zeros_(module.scores.weight)
        module.scores.bias.data = torch.tensor([1.0, 2, 3, 5])
    logits, _, anchors = detector(torch.rand(1, 3, 128, 128) * 255)
    finest = anchors[:, 2] == 16
    assert (logits[0, finest] == 1 - 5).all()
    assert (logits[0, ~finest] == 3 - 5).all()


def test_yolo_face_answers_from_the_cell_and_its_two_neighbours() -> None:
    detector = build_detector("yolo-face").eval()
    predictions = look(detector)
    # Centre 50, 53: in the left and lower half of its cell at stride 8, in the left and upper half at stride 16.
    face = torch.tensor([[45.0, 47, 55, 59]])
    targets = judged(detector, predictions, face)
    anchors = {tuple(place) for place in predictions.anchors[targets.positive[0]].tolist()}
    fine = {(x, y, *size) for x, y in ((52, 52), (44, 52), (52, 60)) for size in ((4, 5), (8, 10), (13, 16))}
    assert anchors == fine | {(x, y, 23, 29) for x, y in ((56, 56), (40, 56), (56, 40))}
    # Offsets of 40 and -40 are the ends of a box's range: up to 1.5 strides from the cell's corner, 4 times the anchor.
    largest = detector.decode(predictions._replace(offsets=torch.full_like(predictions.offsets, 40.0)))
    torch.testing.assert_close(largest[0, 0], torch.tensor([12.0 - 8, 12 - 10, 12 + 8, 12 + 10]))


def test_yolo_face_wants_the_overlap_that_it_has() -> None:
    detector = build_detector("yolo-face").eval()
    predictions = look(detector)
    place = 12  # The first anchor of the fifth cell: 4 by 5 pixels around 36, 4.
    predictions = predictions._replace(offsets=torch.zeros_like(predictions.offsets))
    for face, quality in (((34.0, 1.5, 38.0, 6.5), 1.0), ((34.0, 1.5, 38.0, 11.5), None)):
        targets = judged(detector, predictions, torch.tensor([face]))
        assert targets.positive[0, place]
        if quality is None:
            assert 0.3 < targets.quality[0, place] < 0.5
        else:
            assert targets.quality[0, place].item() == pytest.approx(quality, abs=1e-5)


def test_a_contested_place_leaves_no_face_without() -> None:
    # The first face has the better claims to all places of the second one.
    claims = torch.tensor([[True, True], [True, False]])
    assert assign_places(claims, torch.tensor([[0.9, 0.5], [0.6, 0.0]])).tolist() == [1, 0]
    # Face 1 can make room for face 0 only if face 2 makes room for face 1.
    claims = torch.tensor([[True, False, False], [True, True, False], [False, True, True]])
    overlap = torch.tensor([[0.1, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.9, 0.5]])
    assert assign_places(claims, overlap).tolist() == [0, 1, 2]
    # Two faces and one place.
    assert sorted(assign_places(torch.tensor([[True], [True]]), torch.tensor([[0.5], [0.4]])).tolist()) == [0]
    assert assign_places(torch.tensor([[False, True]]), torch.zeros(1, 2)).tolist() == [-1, 0]


def test_yolo_face_finds_a_place_for_each_of_a_crowd() -> None:
    detector = build_detector("yolo-face").eval()
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    corner = torch.stack([x, y], -1).view(-1, 2) * 8 + 3
    faces = torch.cat([corner, corner + torch.tensor([9.0, 11.0])], 1).repeat(2, 1)
    targets = judged(detector, look(detector), faces)
    found = {tuple(box) for box in targets.boxes[targets.positive].tolist()}
    assert len(found) == len(faces) // 2
    # Each appears twice, and each of the two has a place of its own.
    assert targets.positive.sum() >= len(faces)
