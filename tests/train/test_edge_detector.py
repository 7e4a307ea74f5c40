from __future__ import annotations

import pytest
import torch

from dartblur_train.nets.edge_detector import SPECS, EdgeDetector


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


def test_small_keeps_its_budget() -> None:
    model = EdgeDetector(SPECS["small"]).eval()
    assert sum(p.numel() for p in model.parameters()) <= 600_000
    assert 2 * multiply_adds(model, torch.zeros(1, 3, 384, 640)) <= 0.7e9


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
