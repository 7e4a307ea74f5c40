"""Pasting patches back over their boxes as PyTorch operators, the very operation that runs on a device.

Two operators of the namespace ``dartblur``, both functional (they leave their inputs as they are), for the CPU and
CUDA, known to ``torch.compile`` and ``torch.export``:

* ``dartblur::composite`` takes and gives bytes. It calls `dartblur_ops.composite` or, on the current stream,
  `dartblur_ops.cuda.composite`. Bytes carry no gradient.
* ``dartblur::composite_float`` is the same before rounding, for floating point frames. Gradients flow to the patches,
  and to the frames' pixels as far as they stay. Boxes and scores get none.

`composite` picks the one that fits the frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import dartblur_ops as ops


def composite(
    frames: Tensor,
    patches: Tensor,
    boxes: Tensor,
    scores: Tensor | None = None,
    *,
    context: float,
    threshold: float = 0.0,
    box_scale: float = 1.0,
    shape: str = "rectangle",
    feather: float = 0.0,
) -> Tensor:
    """Frames with the face square of each patch pasted over its box.

    Args:
        frames: ``[N, H, W, 3]`` BGR 0..255, uint8, float32 or float64.
        patches: ``[N, S, 3, P, P]`` BGR, float32 or, for bytes, half; clamped to 0..1, NaN counts as 0. For floating
            point frames of the frames' type.
        boxes: float32 ``[N, S, 4]`` xyxy pixels; one that isn't finite covers its whole frame.
        scores: float32 ``[N, S]``; slots below `threshold` are passed over. None: all count.
        context: side of the area that a patch shows over the side of the face's box.
        threshold: see `scores`.
        box_scale: how much boxes are grown about their centres first.
        shape, feather: as for `dartblur_ops.composite`.

    Returns:
        New frames, of the shape and type of `frames`.
    """
    operator = torch.ops.dartblur.composite if frames.dtype == torch.uint8 else torch.ops.dartblur.composite_float
    result: Tensor = operator(frames, patches, boxes, scores, context, threshold, box_scale, shape, feather)
    return result


_ARGUMENTS = (
    "(Tensor frames, Tensor patches, Tensor boxes, Tensor? scores, float context, float threshold, float box_scale, "
    "str shape, float feather) -> Tensor"
)
torch.library.define("dartblur::composite", _ARGUMENTS)
torch.library.define("dartblur::composite_float", _ARGUMENTS)
torch.library.define(
    "dartblur::composite_float_backward",
    _ARGUMENTS.replace("(Tensor", "(Tensor gradient, Tensor", 1)[:-6] + "(Tensor, Tensor)",
)


@dataclass(frozen=True)
class _Options:
    """The operators' arguments that are no tensors."""

    context: float
    threshold: float
    box_scale: float
    shape: Any
    feather: float

    def __post_init__(self) -> None:
        limits = {"threshold": (0, 1), "box_scale": (1, 100), "feather": (0, 1)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ops.OpsError(f"{name}: expected a number in {low}..{high}, got {getattr(self, name)}")
        if self.shape not in ("rectangle", "ellipse"):
            raise ops.OpsError(f"shape: expected 'rectangle' or 'ellipse', got {self.shape!r}")


@torch.library.impl("dartblur::composite", "CPU")
def _composite_cpu(frames: Tensor, patches: Tensor, boxes: Tensor, scores: Tensor | None, *options: Any) -> Tensor:
    option = _Options(*options)
    _check(frames, patches, boxes, scores)
    result = frames.clone(memory_format=torch.contiguous_format)
    placed, counts = _placed(frames, boxes, scores, option)
    for image, squares, places, keep in zip(result, patches, placed, counts, strict=True):
        squares, places = _floats(squares[keep]), _floats(places[keep])
        ops.composite(image.numpy(), squares, places, option.context, option.shape, option.feather)
    return result


@torch.library.impl("dartblur::composite", "CUDA")
def _composite_cuda(frames: Tensor, patches: Tensor, boxes: Tensor, scores: Tensor | None, *options: Any) -> Tensor:
    from dartblur_ops import cuda

    option = _Options(*options)
    _check(frames, patches, boxes, scores)
    result = frames.clone(memory_format=torch.contiguous_format)
    # Outside of this context, the current stream could be another device's.
    with torch.cuda.device(frames.device):
        cuda.composite(
            result,
            patches.detach().contiguous(),
            boxes.detach().contiguous(),
            option.context,
            option.shape,
            option.feather,
            scores=None if scores is None else scores.detach().contiguous(),
            threshold=option.threshold,
            box_scale=option.box_scale,
            stream=torch.cuda.current_stream().cuda_stream,
        )
    return result


@torch.library.impl("dartblur::composite_float", "CompositeExplicitAutograd")
def _composite_float(frames: Tensor, patches: Tensor, boxes: Tensor, scores: Tensor | None, *options: Any) -> Tensor:
    _check_float(frames, patches, boxes, scores)
    layers = _Layers(frames, patches.shape[-1], boxes, scores, _Options(*options))
    squares = layers.inner(patches).nan_to_num(0, posinf=1, neginf=0).clamp(0, 1) * 255
    result = frames.permute(0, 3, 1, 2).contiguous()
    for slot in range(boxes.shape[1]):
        down, across, share = layers[slot]
        painted = down @ squares[:, slot] @ across.mT
        # Not a weighted sum, so that a value that isn't finite does not shine through opaque paint.
        result = torch.where(share < 1, result + share * (painted - result), painted)
    return result.permute(0, 2, 3, 1).contiguous()


@torch.library.impl("dartblur::composite_float_backward", "CompositeExplicitAutograd")
def _composite_float_backward(
    gradient: Tensor, frames: Tensor, patches: Tensor, boxes: Tensor, scores: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    layers = _Layers(frames, patches.shape[-1], boxes, scores, _Options(*options))
    of_frames = gradient.permute(0, 3, 1, 2)
    of_patches = torch.zeros_like(patches, memory_format=torch.contiguous_format)
    for slot in reversed(range(boxes.shape[1])):
        down, across, share = layers[slot]
        layers.inner(of_patches)[:, slot] = down.mT @ (of_frames * share) @ across
        of_frames = of_frames * (1 - share)
    # Beyond 0..1 the patch is clamped, so that nothing hangs on its value.
    of_patches *= 255 * ((patches >= 0) & (patches <= 1))
    return of_frames.permute(0, 2, 3, 1).contiguous(), of_patches


def _like_frames(frames: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(frames, memory_format=torch.contiguous_format)


def _like_both(gradient: Tensor, frames: Tensor, patches: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _like_frames(frames), torch.empty_like(patches, memory_format=torch.contiguous_format)


torch.library.register_fake("dartblur::composite", _like_frames)
torch.library.register_fake("dartblur::composite_float", _like_frames)
torch.library.register_fake("dartblur::composite_float_backward", _like_both)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    frames, patches, boxes, scores, *ctx.options = inputs
    ctx.save_for_backward(frames, patches, boxes, scores)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    backward = torch.ops.dartblur.composite_float_backward
    of_frames, of_patches = backward(gradient, *ctx.saved_tensors, *ctx.options)
    return of_frames, of_patches, None, None, None, None, None, None, None


torch.library.register_autograd("dartblur::composite_float", _gradients, setup_context=_keep)


class _Layers:
    """For each slot, how its face square reaches the pixels of its frame.

    ``[slot]`` gives ``down [N, 1, H, F]`` and ``across [N, 1, W, F]``, whose products with a face square of side F are
    its bilinear samples, and the square's share of each pixel ``[N, 1, H, W]``, 0 where the slot doesn't cover.
    """

    def __init__(self, frames: Tensor, side: int, boxes: Tensor, scores: Tensor | None, option: _Options) -> None:
        self.option, self.side, self.margin = option, side, ops.patch_margin(side, option.context)
        self.face = side - 2 * self.margin
        placed, counts = _placed(frames, boxes, scores, option)
        # An empty box has no area to lie in, wherever it is put.
        self.counts = counts & (placed[..., :2] < placed[..., 2:]).all(-1)
        self.boxes, self.lengths = placed.to(frames.dtype), frames.shape[1:3]

    def __getitem__(self, slot: int) -> tuple[Tensor, Tensor, Tensor]:
        x0, y0, x1, y1 = self.boxes[:, slot].T
        down, inside_y, dy = self._axis(y0, y1, self.lengths[0])
        across, inside_x, dx = self._axis(x0, x1, self.lengths[1])
        covered = inside_y[:, :, None] & inside_x[:, None, :] & self.counts[:, slot, None, None]
        share = self._opacity(dx[:, None, :], dy[:, :, None])
        return down[:, None], across[:, None], torch.where(covered, share, torch.zeros_like(share))[:, None]

    def inner(self, patches: Tensor) -> Tensor:
        """The face squares of patches, as a view."""
        return patches[..., self.margin : self.side - self.margin, self.margin : self.side - self.margin]

    def _axis(self, low: Tensor, high: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Weights ``[N, length, F]``, which pixels are covered, and how far they are from the box's centre."""
        low, high = low[:, None], torch.where(high > low, high, low + 1)[:, None]
        index = torch.arange(length, device=low.device, dtype=low.dtype)
        inside = (index >= low.floor()) & (index < high.ceil())
        centre, half = (low + high) * 0.5, (high - low) * 0.5
        offset = (index + 0.5 - centre) / half
        reach = half * self.option.context
        place = (index + 0.5 - (centre - reach)) / (reach * 2) * self.side - 0.5 - self.margin
        place = place.clamp(0, self.face - 1)
        samples = torch.arange(self.face, device=low.device, dtype=low.dtype)
        return (1 - (place[..., None] - samples).abs()).clamp(min=0), inside, offset

    def _opacity(self, dx: Tensor, dy: Tensor) -> Tensor:
        square = dx.square() + dy.square()
        share = torch.ones_like(square)
        ellipse = self.option.shape == "ellipse"
        if self.option.feather > 0:
            depth = 1 - (square.sqrt() if ellipse else torch.maximum(dx.abs(), dy.abs()))
            share = (depth / self.option.feather).clamp(0, 1)
        return torch.where(square <= 1, share, torch.zeros_like(share)) if ellipse else share


def _placed(frames: Tensor, boxes: Tensor, scores: Tensor | None, option: _Options) -> tuple[Tensor, Tensor]:
    """Boxes ``[N, S, 4]`` as they are covered, and which slots count ``[N, S]``: the rules of the CUDA operation."""
    finite = boxes.isfinite().all(-1, keepdim=True)
    whole = boxes.new_tensor([0, 0, frames.shape[2], frames.shape[1]])
    bounded = boxes.nan_to_num().clamp(-_FAR, _FAR)
    grown = bounded
    if option.box_scale != 1:
        centre, half = (bounded[..., :2] + bounded[..., 2:]) * 0.5, (bounded[..., 2:] - bounded[..., :2]) * 0.5
        half = half * option.box_scale
        grown = torch.cat([centre - half, centre + half], -1).clamp(-_FAR, _FAR)
    counts = torch.ones_like(finite[..., 0]) if scores is None else ~(scores < option.threshold)
    return torch.where(finite, grown, whole), counts


_FAR = 2.0**20
"""Beyond every frame, as in `dartblur_ops`."""


def _floats(values: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return values.detach().float().contiguous().numpy()


def _check(frames: Tensor, patches: Tensor, boxes: Tensor, scores: Tensor | None) -> None:
    """Refuses tensors that do not belong together; what a pixel operation refuses is left to it."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ops.OpsError(f"frames: expected uint8 [N, H, W, 3], got {_describe(frames)}")
    _check_slots(frames, patches, boxes, scores)


def _check_float(frames: Tensor, patches: Tensor, boxes: Tensor, scores: Tensor | None) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype not in (torch.float32, torch.float64):
        raise ops.OpsError(f"frames: expected uint8, float32 or float64 [N, H, W, 3], got {_describe(frames)}")
    if patches.dtype != frames.dtype:
        raise ops.OpsError(f"patches: expected {frames.dtype} as the frames, got {_describe(patches)}")
    _check_slots(frames, patches, boxes, scores)


def _check_slots(frames: Tensor, patches: Tensor, boxes: Tensor, scores: Tensor | None) -> None:
    if boxes.ndim != 3 or boxes.shape[0] != frames.shape[0] or boxes.shape[2] != 4 or boxes.dtype != torch.float32:
        raise ops.OpsError(f"boxes: expected float32 [{frames.shape[0]}, S, 4], got {_describe(boxes)}")
    lead = list(boxes.shape[:2])
    if list(patches.shape[:-2]) != [*lead, 3] or patches.shape[-1] != patches.shape[-2]:
        raise ops.OpsError(f"patches: expected {[*lead, 3]} + [P, P], got {_describe(patches)}")
    if scores is not None and (list(scores.shape) != lead or scores.dtype != torch.float32):
        raise ops.OpsError(f"scores: expected float32 {lead}, got {_describe(scores)}")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
