from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dartblur_train.checkpoints import save_weights_file
from dartblur_train.data.labels import DataError
from dartblur_train.losses.distillation import distillation_loss
from dartblur_train.nets.detectors import build_detector
from dartblur_train.nets.edge_detector import SPECS, DepthwiseBlock, EdgeDetector, EdgeDetectorSpec


def multiply_adds(model: torch.nn.Module, image: torch.Tensor) -> int:
    total = 0

    def count(module: torch.nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(image)
    return total


@pytest.mark.parametrize(
    ("size", "parameters", "operations"),
    [("nano", 100_000, 0.5e9), ("thin", 250_000, 0.6e9), ("small", 400_000, 1e9), ("base", 700_000, 3e9)],
)
def test_each_size_keeps_its_budget(size: str, parameters: int, operations: float) -> None:
    model = EdgeDetector(SPECS[size]).eval()
    assert sum(p.numel() for p in model.parameters()) <= parameters
    assert 2 * multiply_adds(model, torch.zeros(1, 3, 384, 640)) <= operations


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160)])
def test_a_box_for_each_cell(height: int, width: int) -> None:
    model = EdgeDetector().eval()
    predictions = model(torch.rand(2, 3, height, width) * 255)
    boxes = model.decode(predictions)
    cells = sum((height // s) * (width // s) for s in (8, 16, 32))
    assert predictions.logits.shape == (2, cells)
    assert boxes.shape == (2, cells, 4)
    assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_boxes_sit_at_their_cells() -> None:
    """With a head that says nothing, each box is centred on its own cell."""
    model = EdgeDetector().eval()
    torch.nn.init.zeros_(model.predict.weight)
    predictions = model(torch.zeros(1, 3, 64, 96))
    boxes = model.decode(predictions)
    centres = (boxes[0, :, :2] + boxes[0, :, 2:]) / 2
    assert torch.allclose(centres, predictions.anchors[:, :2], atol=1e-3)
    # Row by row: the second cell lies to the right of the first.
    assert predictions.anchors[1].tolist() == [12.0, 4.0, 8.0, 8.0]


def test_a_larger_size_starts_as_the_smaller_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = EdgeDetector(EdgeDetectorSpec()).eval()
    save_weights_file(tmp_path / "plain.safetensors", plain.state_dict(), {})
    image = torch.rand(1, 3, 64, 96) * 255
    for size in ("edge-small", "edge-base"):
        with pytest.raises(DataError, match=r"conv1\.weight' is missing"):
            build_detector(size, tmp_path / "plain.safetensors")
        grown = build_detector(size, tmp_path / "plain.safetensors", grow=True).eval()
        assert torch.allclose(grown(image).logits, plain(image).logits, atol=1e-5)
        assert torch.allclose(grown(image).offsets, plain(image).offsets, atol=1e-5)
    with pytest.raises(DataError, match="is none of the network"):
        build_detector("edge-nano", tmp_path / "plain.safetensors", grow=True)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_learns_the_same_in_half_precision(stride: int) -> None:
    torch.manual_seed(0)
    block = DepthwiseBlock(16, 16, stride).train()
    image = torch.randn(2, 16, 12, 12).to(torch.bfloat16)
    towards = torch.randn(block(image.float()).shape)
    gradients = []
    for half in (False, True):
        block.zero_grad()
        x = image.clone() if half else image.float()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            seen = block(x.requires_grad_())
            assert seen.dtype == x.dtype
            (seen.float() * towards).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in (*block.parameters(), x) if p.grad is not None]).float())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99  # rounding moves a few through the ReLU


def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn() -> None:
    logits = torch.tensor([[3.0, -4.0, 0.5, -6.0]])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 5, 9, 30], [1, 1, 4, 4], [0, 0, 2, 2]]])
    score, box = distillation_loss(logits, boxes, logits.sigmoid(), boxes)
    assert score == 0
    assert box.abs() < 1e-5
    wrong, off = distillation_loss(-logits, boxes + 2, logits.sigmoid(), boxes)
    assert wrong > 0.5
    assert off > 0.1


def test_what_a_teacher_is_not_sure_of_moves_no_box() -> None:
    logits, boxes = torch.zeros(1, 2, requires_grad=True), torch.rand(1, 2, 4, requires_grad=True)
    _, box = distillation_loss(logits, boxes, torch.full((1, 2), 0.01), torch.rand(1, 2, 4))
    assert box == 0
