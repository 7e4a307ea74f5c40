from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dartblur_ops as ops
from dartblur_train.compositing import composite
from dartblur_train.patches import PatchGeometry, prepare, redact

GEOMETRY = PatchGeometry(32, 1.6)
SHAPES = st.sampled_from(["rectangle", "ellipse"])
CASES = settings(max_examples=60, deadline=None, derandomize=True)


def scene(
    seed: int = 0, slots: int = 4, dtype: torch.dtype = torch.float32, batch: int = 2, height: int = 40, width: int = 50
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames of bytes, patches, boxes that overlap and leave the frame, and scores."""
    random = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=random)
    patches = torch.rand(batch, slots, 3, GEOMETRY.size, GEOMETRY.size, generator=random, dtype=dtype)
    corners = torch.rand(batch, slots, 2, generator=random) * torch.tensor([width, height]) - 8
    sizes = torch.rand(batch, slots, 2, generator=random) * 30 + 0.5
    scores = torch.rand(batch, slots, generator=random)
    return frames, patches, torch.cat([corners, corners + sizes], -1), scores


@CASES
@given(st.integers(0, 2**32), SHAPES, st.sampled_from([0, 0.4]), st.sampled_from([1.0, 1.3]), st.booleans())
def test_bytes_are_those_of_the_native_operation(
    seed: int, shape: str, feather: float, scale: float, half: bool
) -> None:
    frames, patches, boxes, scores = scene(seed)
    patches = patches.half() if half else patches
    before = frames.clone()
    result = composite(
        frames, patches, boxes, scores, context=1.6, threshold=0.5, box_scale=scale, shape=shape, feather=feather
    )
    assert torch.equal(frames, before)
    for image, squares, places, rating, ours in zip(frames, patches, boxes, scores, result, strict=True):
        keep = rating >= 0.5
        low, high = places[keep].numpy()[:, :2], places[keep].numpy()[:, 2:]
        centre, reach = (low + high) / 2, (high - low) / 2 * np.float32(scale)
        grown = np.concatenate([centre - reach, centre + reach], 1) if scale != 1 else places[keep].numpy()
        expected = image.numpy().copy()
        ops.composite(expected, squares[keep].float().numpy(), grown, 1.6, shape, feather)  # type: ignore[arg-type]
        assert np.array_equal(ours.numpy(), expected)


@CASES
@given(st.integers(0, 2**32), SHAPES, st.sampled_from([0, 0.4]), st.booleans())
def test_before_rounding_it_is_the_same(seed: int, shape: str, feather: float, scored: bool) -> None:
    frames, patches, boxes, scores = scene(seed, slots=1)
    settings = {"context": 1.6, "threshold": 0.5, "box_scale": 1.15, "shape": shape, "feather": feather}
    rating = scores if scored else None
    exact = composite(frames.double(), patches.double(), boxes, rating, **settings)  # type: ignore[arg-type]
    rounded = composite(frames, patches, boxes, rating, **settings)  # type: ignore[arg-type]
    # A pixel on the very rim of an ellipse may fall to either side.
    far = (exact - rounded).abs().amax(-1) > 0.501
    assert far.sum() <= (2 if shape == "ellipse" else 0)


def test_gradients_are_exact() -> None:
    """Finite differences in double precision, for frames and patches, shapes and overlaps."""
    frames, patches, boxes, scores = scene(3, slots=3, batch=1, height=7, width=8)
    boxes = boxes / 6
    frames, patches = frames.double().requires_grad_(), patches[..., 8:16, 8:16].double().requires_grad_()
    for shape, feather in [("rectangle", 0.0), ("rectangle", 0.5), ("ellipse", 0.5)]:

        def painted(x: Tensor, p: Tensor, shape: str = shape, feather: float = feather) -> Tensor:
            return composite(x, p, boxes, scores, context=1.6, threshold=0.2, shape=shape, feather=feather)

        assert torch.autograd.gradcheck(painted, (frames, patches), eps=1e-4, atol=1e-4, fast_mode=True)
    painted(frames, patches).sum().backward()  # of the last, whose rim is partly frame
    assert patches.grad is not None
    assert patches.grad.abs().max() > 0


def test_gradients_are_those_of_the_trainers_pasting() -> None:
    """The same boxes through `patches.prepare` and `patches.redact`: value, and gradients to patches and frame."""
    boxes = torch.tensor([[4.3, 5.7, 21.2, 29.9], [-6, 20, 12, 45], [30, -4, 47.5, 16]])
    picture = torch.rand(1, 3, 40, 50) * 255
    patches = torch.rand(3, 3, 32, 32)
    weights = torch.rand(1, 3, 40, 50)

    class Given(torch.nn.Module):
        """A generator that paints the given patches."""

        def __init__(self) -> None:
            super().__init__()
            self.patches = torch.nn.Parameter(patches)

        def forward(self, blurred: Tensor, mask: Tensor) -> Tensor:
            return self.patches

    generator = Given()
    pasted = redact(prepare(picture, [boxes], GEOMETRY), generator, GEOMETRY)
    (pasted.images * weights).sum().backward()

    frames = picture.permute(0, 2, 3, 1).clone().requires_grad_()
    ours = patches[None].clone().requires_grad_()
    result = composite(frames, ours, boxes[None], context=GEOMETRY.context)
    (result * weights.permute(0, 2, 3, 1)).sum().backward()
    assert torch.allclose(result.permute(0, 3, 1, 2), pasted.images, atol=0.02)
    assert generator.patches.grad is not None
    assert ours.grad is not None
    assert frames.grad is not None
    assert torch.allclose(ours.grad[0], generator.patches.grad, atol=0.05, rtol=1e-3)
    assert torch.equal(frames.grad.permute(0, 3, 1, 2), weights * (1 - pasted.mask))


def test_where_the_patch_is_clamped_there_is_no_gradient() -> None:
    frames, patches = torch.zeros(1, 9, 9, 3), torch.full((1, 1, 3, 8, 8), 1.5)
    patches[..., :4] = float("nan")
    patches.requires_grad_()
    result = composite(frames, patches, torch.tensor([[[0.0, 0, 9, 9]]]), context=1.0)
    assert result[:, :, 0].unique().tolist() == [0]
    assert result[:, :, -1].unique().tolist() == [255]
    result.sum().backward()
    assert patches.grad is not None
    assert (patches.grad == 0).all()


@pytest.mark.parametrize("floats", [False, True])
def test_what_is_in_doubt_is_hidden(floats: bool) -> None:
    frames = torch.full((1, 6, 7, 3), 99, dtype=torch.float32 if floats else torch.uint8)
    patches, box = torch.zeros(1, 1, 3, 12, 12), torch.tensor([[[1.0, 1, 4, 4]]])
    unsure = composite(frames, patches, box, torch.tensor([[float("nan")]]), context=1.5, threshold=0.5)
    assert (unsure[0, 1:4, 1:4] == 0).all()
    assert (unsure[0, 4:] == 99).all()
    box[0, 0, 2] = float("nan")
    assert (composite(frames, patches, box, context=1.5) == 0).all()


@pytest.mark.parametrize("name", ["composite", "composite_float"])
@pytest.mark.parametrize("scored", [False, True])
def test_operators_keep_pytorchs_rules(name: str, scored: bool) -> None:
    frames, patches, boxes, scores = scene(1)
    if name == "composite_float":
        frames, patches = frames.float().requires_grad_(), patches.requires_grad_()
    arguments = (frames, patches, boxes, scores if scored else None, 1.6, 0.5, 1.15, "ellipse", 0.3)
    operator = getattr(torch.ops.dartblur, name).default
    checked = torch.library.opcheck(operator, arguments)
    assert set(checked.values()) == {"SUCCESS"}
    assert len(checked) >= 4


def test_it_can_be_exported() -> None:
    class Paste(torch.nn.Module):
        def forward(self, frames: Tensor, patches: Tensor, boxes: Tensor) -> Tensor:
            return composite(frames, patches, boxes, context=1.6)

    frames, patches, boxes, _ = scene(2)
    program = torch.export.export(Paste(), (frames, patches, boxes))
    assert torch.equal(program.module()(frames, patches, boxes), composite(frames, patches, boxes, context=1.6))


FRAMES, PATCHES, BOXES, SCORES = scene()
REFUSED = [
    ((FRAMES[0], PATCHES, BOXES), {}, r"frames: expected uint8 \[N, H, W, 3\], got uint8 \[40, 50, 3\]"),
    ((FRAMES.int(), PATCHES, BOXES), {}, r"frames: expected uint8, float32 or float64 \[N, H, W, 3\], got int32"),
    ((FRAMES, PATCHES[:1], BOXES), {}, r"patches: expected \[2, 4, 3\] \+ \[P, P\], got float32 \[1, 4, 3, 32, 32\]"),
    ((FRAMES.double(), PATCHES, BOXES), {}, r"patches: expected torch.float64 as the frames, got float32"),
    ((FRAMES, PATCHES, BOXES[0]), {}, r"boxes: expected float32 \[2, S, 4\], got float32 \[4, 4\]"),
    ((FRAMES, PATCHES, BOXES, SCORES[0]), {}, r"scores: expected float32 \[2, 4\], got float32 \[4\]"),
    ((FRAMES, PATCHES, BOXES), {"shape": "star"}, r"shape: expected 'rectangle' or 'ellipse', got 'star'"),
    ((FRAMES, PATCHES, BOXES), {"feather": 2}, r"feather: expected a number in 0..1, got 2"),
    ((FRAMES, PATCHES, BOXES), {"box_scale": 0.5}, r"box_scale: expected a number in 1..100, got 0.5"),
    ((FRAMES, PATCHES, BOXES), {"threshold": -1}, r"threshold: expected a number in 0..1, got -1"),
    ((FRAMES, PATCHES, BOXES), {"context": 0.5}, r"context: expected a number in 1..100, got 0.5"),
]


@pytest.mark.parametrize(("tensors", "options", "message"), REFUSED)
def test_errors_name_argument_expected_and_actual(
    tensors: tuple[Tensor, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ops.OpsError, match=message):
        composite(*tensors, **{"context": 1.6, **options})  # type: ignore[arg-type]
