"""The PyTorch operators of `dartblur_train.compositing` on a device."""

from __future__ import annotations

import pytest
import torch

from dartblur_train.compositing import composite


def scene(dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 120, 161, 3), dtype=torch.uint8, generator=random)
    patches = torch.rand(2, 5, 3, 64, 64, generator=random).to(dtype)
    corners = torch.rand(2, 5, 2, generator=random) * 120 - 10
    boxes = torch.cat([corners, corners + torch.rand(2, 5, 2, generator=random) * 80], -1)
    return frames, patches, boxes, torch.rand(2, 5, generator=random)


OPTIONS = {"context": 1.6, "threshold": 0.3, "box_scale": 1.15}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", ["rectangle", "ellipse"])
def test_bytes_are_those_of_the_processor(dtype, shape):
    tensors = scene(dtype)
    here = composite(*tensors, **OPTIONS, shape=shape, feather=0.2)
    there = composite(*(tensor.cuda() for tensor in tensors), **OPTIONS, shape=shape, feather=0.2)
    assert torch.equal(there.cpu(), here)


def test_the_current_stream_is_used():
    tensors = [tensor.cuda() for tensor in scene()]
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        result = composite(*tensors, **OPTIONS)
        copied = result.cpu()
    assert torch.equal(copied, composite(*scene(), **OPTIONS))


def test_gradients_are_those_of_the_processor():
    grads = []
    for device in ("cpu", "cuda"):
        frames, patches, boxes, scores = (tensor.to(device) for tensor in scene())
        frames, patches = frames.double().requires_grad_(), patches.double().requires_grad_()
        composite(frames, patches, boxes, scores, **OPTIONS, shape="ellipse", feather=0.4).square().sum().backward()
        grads.append([frames.grad.cpu(), patches.grad.cpu()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["composite", "composite_float"])
def test_operators_keep_pytorchs_rules(name):
    frames, patches, boxes, scores = (tensor.cuda() for tensor in scene())
    if name == "composite_float":
        frames, patches = frames.float().requires_grad_(), patches.requires_grad_()
    operator = getattr(torch.ops.dartblur, name).default
    checked = torch.library.opcheck(operator, (frames, patches, boxes, scores, 1.6, 0.3, 1.15, "ellipse", 0.2))
    assert set(checked.values()) == {"SUCCESS"}
