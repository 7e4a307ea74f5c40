from __future__ import annotations

import numpy as np
import pytest
import torch

import dartblur_ops as ops
from dartblur_train.nets.unet import GENERATORS, EdgeUNet
from dartblur_train.patches import PatchGeometry, crop_grid, prepare, redact

GEOMETRY = PatchGeometry(64, 1.6)
BOXES = np.array([[20.3, 15.7, 61.2, 70.9], [-12, 40, 25, 90], [100, -8, 135, 30]], np.float32)


def picture() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (100, 120, 3), np.uint8)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def test_patches_are_those_of_the_native_operation() -> None:
    """What the generator sees in training is what the SDK shows it."""
    image = picture()
    batch = prepare(as_tensor(image), [torch.from_numpy(BOXES)], GEOMETRY)
    native = ops.crop_faces(image, BOXES, GEOMETRY.size, GEOMETRY.context)
    inside = slice(GEOMETRY.margin, GEOMETRY.size - GEOMETRY.margin)
    assert np.abs(batch.patches.numpy() - native)[:, :, inside, inside].max() < 1e-3


def test_pasting_is_that_of_the_native_operation() -> None:
    image = picture()
    batch = prepare(as_tensor(image), [torch.from_numpy(BOXES)], GEOMETRY)
    native = image.copy()
    ops.composite(native, ops.crop_faces(image, BOXES, GEOMETRY.size, GEOMETRY.context), BOXES, GEOMETRY.context)
    ours = batch.blurred[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - native).max() <= 1.0


def test_pixels_outside_the_boxes_stay_and_gradients_flow_inside() -> None:
    image = as_tensor(picture())
    generator = EdgeUNet((8, 8, 8))
    torch.nn.init.normal_(generator.leave.weight, std=0.1)
    batch = prepare(image, [torch.from_numpy(BOXES)], GEOMETRY)
    result = redact(batch, generator, GEOMETRY)
    outside = (result.mask == 0).expand_as(image)
    assert torch.equal(result.images[outside], image[outside])
    assert not torch.equal(result.images, result.blurred)
    result.images.mean().backward()
    assert generator.leave.weight.grad is not None
    assert generator.leave.weight.grad.abs().max() > 0


def test_every_pixel_a_box_touches_is_covered() -> None:
    batch = prepare(torch.zeros(1, 3, 100, 120), [torch.from_numpy(BOXES)], GEOMETRY)
    expected = np.zeros((100, 120, 3), np.uint8)
    ops.solid(expected, BOXES, (1, 1, 1))
    assert np.array_equal(batch.mask[0, 0].numpy(), expected[..., 0])


def test_the_clear_face_does_not_reach_the_generator() -> None:
    """Two faces that differ in fine detail only give nearly the same input: the detail is gone before g."""
    rows, columns = np.mgrid[:100, :120]
    smooth = np.repeat((rows + columns)[..., None], 3, 2).astype(np.uint8)
    detailed = smooth.copy()
    detailed[20:60, 30:70] += (40 * ((rows + columns) % 2)[20:60, 30:70, None]).astype(np.uint8)
    box = [torch.tensor([[30.0, 20, 70, 60]])]
    middle = slice(24, 40)
    seen = [prepare(as_tensor(image), box, GEOMETRY).patches[..., middle, middle] for image in (smooth, detailed)]
    assert (seen[1] - seen[0]).std() < 2 / 255


def test_batches_with_no_face() -> None:
    batch = prepare(torch.rand(2, 3, 64, 64), [torch.zeros(0, 4), torch.tensor([[5.0, 5, 30, 40]])], GEOMETRY)
    assert batch.patches.shape == (1, 3, 64, 64)
    assert batch.mask[0].sum() == 0
    assert batch.mask[1].sum() > 0


def test_crop_grid_centres_the_face() -> None:
    grid = crop_grid(torch.tensor([[10.0, 20, 50, 60]]), 100, 120, GEOMETRY)
    centre = grid[0, 31:33, 31:33].mean((0, 1))
    assert torch.allclose(centre, torch.tensor([30 / 60 - 1, 40 / 50 - 1]), atol=1e-4)


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_generators_keep_shape_and_range(name: str) -> None:
    generator = GENERATORS[name]()
    painted = generator(torch.rand(2, 3, 64, 64), torch.ones(2, 1, 64, 64))
    assert painted.shape == (2, 3, 64, 64)
    assert painted.min() >= 0
    assert painted.max() <= 1


def test_too_little_context_is_refused() -> None:
    with pytest.raises(ValueError, match="context: expected at least"):
        PatchGeometry(64, 1.2)
