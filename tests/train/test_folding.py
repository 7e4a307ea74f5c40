"""Convolutions that are differentiated twice, and detectors whose batch normalisation is folded away."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from dartblur_train.nets.convolution import Convolution
from dartblur_train.nets.detectors import DETECTORS, build_detector
from dartblur_train.nets.face_detector import FaceDetector
from dartblur_train.nets.folding import FoldedDetector


@pytest.mark.parametrize(
    "layer",
    [
        Convolution(4, 6, 3, 1, 1),
        Convolution(4, 4, 3, 2, 1, groups=4, bias=False),
        Convolution(4, 8, 3, 1, 2, dilation=2, groups=2),
        Convolution(4, 2, 1),
    ],
    ids=["dense", "depthwise", "dilated groups", "pointwise"],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_both_derivatives_equal_finite_differences(layer: Convolution, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = layer.double()
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weights = dict(layer.named_parameters())

    def convolve(images: Tensor, *values: Tensor) -> Tensor:
        out: Tensor = functional_call(layer, dict(zip(weights, values, strict=True)), (images,))
        return out

    assert gradcheck(convolve, (x, *weights.values()))
    assert gradgradcheck(convolve, (x, *weights.values()))
    plain = nn.functional.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    torch.testing.assert_close(layer(x), plain)


def trained(family: str) -> FaceDetector:
    """With statistics and gains as training leaves them, not those of the start."""
    torch.manual_seed(3)
    detector = build_detector(family).double().eval()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return detector


@pytest.mark.parametrize("family", sorted(DETECTORS))
def test_folded_detector_is_the_same_function_of_images_and_weights(family: str) -> None:
    detector = trained(family)
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 255
    weights = {name: weight for name, weight in detector.named_parameters() if weight.requires_grad}

    def derivatives(score: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(score, [*weights.values()], allow_unused=True)
        return [torch.zeros(1) if gradient is None else gradient for gradient in found]

    expected = detector(x)
    folded = FoldedDetector(detector)
    seen = folded(x, weights)
    for ours, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(expected.offsets)
    for ours, theirs in zip(
        derivatives((seen.offsets * direction).sum() + seen.logits.square().sum()),
        derivatives((expected.offsets * direction).sum() + expected.logits.square().sum()),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_folded_detector_follows_its_detector_and_never_its_mode() -> None:
    detector = trained("retinaface")
    folded = FoldedDetector(detector)
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 255
    before = folded(x).logits
    assert not before.requires_grad
    statistics = {name: buffer.clone() for name, buffer in detector.named_buffers()}
    detector.train()
    torch.testing.assert_close(folded(x).logits, before)
    for name, buffer in detector.named_buffers():
        assert torch.equal(buffer, statistics[name])
    detector.eval()
    with torch.no_grad():
        for weight in detector.parameters():
            weight.mul_(1.1)
    torch.testing.assert_close(folded(x).logits, detector(x).logits)


def test_batch_normalisation_that_no_convolution_leads_to_is_refused() -> None:
    detector = trained("retinaface")
    detector.extra = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match=r"extra\.1"):
        FoldedDetector(detector)
