"""Each CUDA operation on a device beside the same operation on the processor, through PyTorch's arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dartblur_ops as ops
from dartblur_ops import cuda

SIZES = [(48, 64), (61, 83), (720, 1280), (1080, 1920)]
SHAPES = ["rectangle", "ellipse"]


def frames_of(height, width, count=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def boxes_of(height, width, slots=6, count=2, seed=0):
    """Boxes of all sizes, over each other and over the border; the last one of each frame is empty."""
    random = np.random.default_rng(seed)
    corners = random.uniform(-0.2, 0.9, (count, slots, 2)) * (width, height)
    sizes = random.uniform(0.02, 0.6, (count, slots, 2)) * (width, height)
    boxes = np.concatenate([corners, corners + sizes], 2).astype(np.float32)
    boxes[:, -1, 2] = boxes[:, -1, 0]
    return boxes


def upload(array):
    return torch.from_numpy(np.ascontiguousarray(array)).cuda()


def apart(a, b):
    return int(np.abs(a.astype(int) - b.astype(int)).max(initial=0))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("feather", [0, 0.3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_composite(height, width, shape, feather, dtype):
    frames, boxes = frames_of(height, width), boxes_of(height, width)
    patches = np.random.default_rng(1).uniform(-0.1, 1.1, (2, 6, 3, 64, 64)).astype(dtype)
    patches[:, :, 0, 32] = np.nan
    device = upload(frames)
    cuda.composite(device, upload(patches), upload(boxes), 1.6, shape, feather)
    for frame, squares, places in zip(frames, patches, boxes, strict=True):
        ops.composite(frame, squares.astype(np.float32), places, 1.6, shape, feather)
    np.testing.assert_array_equal(device.cpu().numpy(), frames)


def test_composite_by_scores():
    frames, boxes = frames_of(720, 1280), boxes_of(720, 1280, slots=48)
    patches = np.random.default_rng(1).random((2, 48, 3, 64, 64), np.float32)
    scores = np.random.default_rng(2).random((2, 48), np.float32)
    scores[:, 3] = np.nan
    device = upload(frames)
    cuda.composite(device, upload(patches), upload(boxes), 1.6, scores=upload(scores), threshold=0.5, box_scale=1.15)
    for frame, squares, places, rating in zip(frames, patches, boxes, scores, strict=True):
        keep = ~(rating < 0.5)
        centre, half = (places[:, :2] + places[:, 2:]) / 2, (places[:, 2:] - places[:, :2]) / 2 * np.float32(1.15)
        ops.composite(frame, squares[keep], np.concatenate([centre - half, centre + half], 1)[keep], 1.6)
    np.testing.assert_array_equal(device.cpu().numpy(), frames)


def test_composite_of_views_changes_nothing_beside_them():
    """Rows at odd addresses, so that no whole words can be written."""
    whole = frames_of(90, 131, 1)[0]
    device, patches, boxes = upload(whole), torch.rand(3, 3, 32, 32).cuda(), boxes_of(80, 120, 3, 1)[0]
    cuda.composite(device[3:83, 5:125], patches, upload(boxes))
    ops.composite(whole[3:83, 5:125], patches.cpu().numpy(), boxes)
    np.testing.assert_array_equal(device.cpu().numpy(), whole)


@pytest.mark.parametrize(("height", "width"), [*SIZES, (900, 1601)])
@pytest.mark.parametrize("size", [(384, 640), (33, 70)])
def test_letterbox(height, width, size):
    frames, out = frames_of(height, width), torch.full((2, 3, *size), 77.0).cuda()
    _, scale = cuda.letterbox(upload(frames), size, out)
    for frame, planes in zip(frames, out.cpu().numpy(), strict=True):
        expected, expected_scale = ops.letterbox(frame, size)
        np.testing.assert_array_equal(planes, expected)
        assert scale == expected_scale


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("side", "context"), [(64, 1.6), (96, 1.5), (33, 1.0)])
@pytest.mark.parametrize("blur", [False, True])
def test_crop_faces(height, width, side, context, blur):
    frames, boxes = frames_of(height, width), boxes_of(height, width)
    out = torch.full((2, 6, 3, side, side), float("nan")).cuda()
    cuda.crop_faces(upload(frames), upload(boxes), side, context, blur, out=out)
    for frame, places, patches in zip(frames, boxes, out.cpu().numpy(), strict=True):
        expected = ops.crop_faces(frame, places, side, context, blur)
        np.testing.assert_allclose(patches, expected, atol=1e-5 if blur else 0)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    ("name", "arguments", "tolerance"),
    [("gaussian", (), 1), ("pixelate", (8,), 0), ("pixelate", (50,), 0), ("solid", ((1, 22, 255),), 0)],
)
def test_redaction(height, width, name, arguments, tolerance):
    frames, boxes = frames_of(height, width), boxes_of(height, width)
    if tolerance:  # a second blur would enlarge what a first one rounds differently
        boxes = boxes[:, :1].copy()
    device = upload(frames)
    getattr(cuda, name)(device, upload(boxes), *arguments)
    for frame, places in zip(frames, boxes, strict=True):
        getattr(ops, name)(frame, places, *arguments)
    assert apart(device.cpu().numpy(), frames) <= tolerance


def test_boxes_that_are_not_finite_hide_the_whole_frame():
    device = torch.full((37, 53, 3), 100, dtype=torch.uint8).cuda()
    cuda.solid(device, torch.tensor([[1.0, 2.0, float("nan"), 4.0]]).cuda(), (1, 2, 3))
    assert (device == torch.tensor([1, 2, 3], dtype=torch.uint8).cuda()).all()


def test_results_do_not_hang_on_the_order_of_blocks():
    """Many faces over each other, again and again."""
    frames, boxes = frames_of(720, 1280, 1), upload(boxes_of(720, 1280, 40, 1))
    patches, first = torch.rand(1, 40, 3, 64, 64).cuda(), None
    for _ in range(50):
        device = upload(frames)
        cuda.composite(device, patches, boxes, 1.6, "ellipse", 0.5)
        first = device if first is None else first
        assert torch.equal(device, first)


def test_a_stream_of_ones_own():
    """The operation waits for what PyTorch has under way, on whichever stream that is, and runs where it is told to."""
    stream, box = torch.cuda.Stream(), torch.tensor([[0.0, 0, 64, 64]]).cuda()
    device = torch.zeros(64, 64, 3, dtype=torch.uint8).cuda()
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)  # on the current stream, which holds back what fills the frame
    device.fill_(50)
    cuda.solid(device, box, (1, 2, 3), stream=stream.cuda_stream)
    stream.synchronize()
    assert (device == torch.tensor([1, 2, 3], dtype=torch.uint8).cuda()).all()


def test_host_tensors_are_refused():
    with pytest.raises(ops.OpsError, match="boxes: expected an array on a CUDA device, got one in host memory"):
        cuda.solid(torch.zeros(8, 8, 3, dtype=torch.uint8).cuda(), torch.zeros(1, 4))
    with pytest.raises(ops.OpsError, match="frame: expected an array that its owner shares, but it refused"):
        cuda.composite(torch.zeros(8, 8, 3).cuda().requires_grad_(), torch.zeros(1), torch.zeros(1))


def test_a_single_pixel_and_no_slot():
    device = torch.zeros(1, 1, 3, dtype=torch.uint8).cuda()
    cuda.composite(device, torch.ones(1, 3, 1, 1).cuda(), torch.tensor([[0.2, 0.2, 0.4, 0.4]]).cuda())
    assert device.flatten().tolist() == [255] * 3
    cuda.composite(device, torch.ones(0, 3, 1, 1).cuda(), torch.zeros(0, 4).cuda())
