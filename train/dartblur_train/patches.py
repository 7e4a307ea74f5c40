"""Applying the generator by patches, as the SDK does, but so that gradients flow.

``g(x, b) = x * (1 - b) + g~(x_blur, b) * b`` (paper, equation 1), where each face is resampled with its
context to a P x P patch, blurred and repainted there, and pasted back inside its box only.
The geometry is that of `dartblur_ops.crop_faces` and `dartblur_ops.composite`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, grid_sample, pad

from .application import Redaction


@dataclass(frozen=True)
class PatchGeometry:
    """How faces are cut out.

    Attributes:
        size: side P of a patch, pixels.
        context: side of the area that a patch shows over the side of the face's box.
    """

    size: int = 64
    context: float = 1.6

    def __post_init__(self) -> None:
        if self.margin < (self.face // 2 | 1) // 2:
            raise ValueError(
                f"context: expected at least 1.5, so that the blur has its surroundings, got {self.context}"
            )

    @property
    def margin(self) -> int:
        """Pixels of context on each side of the face's square."""
        return round(self.size * (1 - 1 / self.context) / 2)

    @property
    def face(self) -> int:
        """Side of the face's square in the patch, pixels."""
        return self.size - 2 * self.margin


def gaussian_kernel(face: int) -> Tensor:
    """One-dimensional kernel: half the face's side, odd, with OpenCV's sigma for that size."""
    size = (face // 2) | 1
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    x = torch.arange(size, dtype=torch.float32) - size // 2
    weights = torch.exp(-x.square() / (2 * sigma**2))
    return weights / weights.sum()


def face_mask(geometry: PatchGeometry, device: torch.device | None = None) -> Tensor:
    """``[1, 1, P, P]``: 1 in the face's square."""
    mask = torch.zeros(1, 1, geometry.size, geometry.size, device=device)
    inside = slice(geometry.margin, geometry.size - geometry.margin)
    mask[:, :, inside, inside] = 1
    return mask


def blur_faces(patches: Tensor, geometry: PatchGeometry) -> Tensor:
    """Patches ``[n, 3, P, P]`` with the face's square Gaussian-blurred and the context left clear."""
    kernel = gaussian_kernel(geometry.face).to(patches)
    reach = len(kernel) // 2
    rows = kernel.view(1, 1, -1, 1).expand(3, 1, -1, 1)
    columns = kernel.view(1, 1, 1, -1).expand(3, 1, 1, -1)
    # Padding with zeros is harmless: from within the square the kernel does not reach over the patch.
    blurred = conv2d(conv2d(patches, rows, padding=(reach, 0), groups=3), columns, padding=(0, reach), groups=3)
    mask = face_mask(geometry, patches.device).to(patches)
    return blurred * mask + patches * (1 - mask)


def crop_grid(boxes: Tensor, height: int, width: int, geometry: PatchGeometry) -> Tensor:
    """Sampling grid ``[n, P, P, 2]`` for `grid_sample` (align_corners=False) that cuts out boxes ``[n, 4]``."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    size = (boxes[:, 2:] - boxes[:, :2]) * geometry.context
    unit = (torch.arange(geometry.size, device=boxes.device, dtype=boxes.dtype) + 0.5) / geometry.size - 0.5
    x = (centre[:, :1] + unit * size[:, :1]) * (2 / width) - 1
    y = (centre[:, 1:] + unit * size[:, 1:]) * (2 / height) - 1
    n, p = boxes.shape[0], geometry.size
    return torch.stack([x[:, None, :].expand(n, p, p), y[:, :, None].expand(n, p, p)], -1)


@dataclass(frozen=True)
class PreparedBatch:
    """What of a redaction does not depend on the generator's weights, made once for several updates.

    Attributes:
        images: clear, ``[N, 3, H, W]`` BGR 0..255.
        patches: blurred, ``[F, 3, P, P]`` 0..1, F the faces of all images.
        slots: ``[F]``, where each patch stands among ``N * M`` places, M the most faces of an image.
        mask: as in `Redaction`.
        paste: sampling grid ``[N, H, W, 2]`` into each image's M patches, one below the other.
        blurred: as in `Redaction`.
        most: M.
    """

    images: Tensor
    patches: Tensor
    slots: Tensor
    mask: Tensor
    paste: Tensor
    blurred: Tensor
    most: int


@torch.no_grad()
def prepare(images: Tensor, boxes: list[Tensor], geometry: PatchGeometry) -> PreparedBatch:
    """Cuts out, blurs, and plans the pasting.

    Args:
        images: ``[N, 3, H, W]`` BGR 0..255.
        boxes: for each image ``[n, 4]`` xyxy pixels.
        geometry: how faces are cut out.
    """
    count, _, height, width = images.shape
    most = max(1, *(len(b) for b in boxes))
    padded = torch.stack([pad(b, (0, 0, 0, most - len(b))) for b in boxes])
    grid = crop_grid(padded.flatten(0, 1), height, width, geometry).view(count, most * geometry.size, geometry.size, 2)
    patches = grid_sample(images / 255, grid, padding_mode="border", align_corners=False)
    patches = patches.view(count, 3, most, geometry.size, geometry.size).transpose(1, 2).flatten(0, 1)
    slots = torch.cat([row * most + torch.arange(len(b), device=images.device) for row, b in enumerate(boxes)])
    patches = blur_faces(patches[slots], geometry)
    plans = [_paste_grid(b, most, height, width, geometry) for b in boxes]
    paste = torch.stack([plan for plan, _ in plans])
    mask = torch.stack([covered for _, covered in plans])
    blurred = images * (1 - mask) + _paste(patches, slots, paste, most) * mask
    return PreparedBatch(images, patches, slots, mask, paste, blurred, most)


def redact(prepared: PreparedBatch, generator: nn.Module, geometry: PatchGeometry) -> Redaction:
    """``g(x, b)`` of a prepared batch."""
    patches, mask = prepared.patches, face_mask(geometry, prepared.patches.device)
    if not len(patches):
        # Not all layers take an empty batch, and the result must still depend on the weights.
        repainted = generator(patches.new_zeros(1, *patches.shape[1:]), mask)[:0]
    else:
        repainted = generator(patches, mask.expand(len(patches), -1, -1, -1))
    painted = _paste(repainted, prepared.slots, prepared.paste, prepared.most)
    images = prepared.images * (1 - prepared.mask) + painted * prepared.mask
    return Redaction(images, prepared.blurred, prepared.mask)


def _paste(patches: Tensor, slots: Tensor, grid: Tensor, most: int) -> Tensor:
    """Patches ``[F, 3, P, P]`` 0..1 sampled into pictures ``[N, 3, H, W]`` 0..255."""
    count, size = len(grid), patches.shape[-1]
    places = patches.new_zeros(count * most, 3, size, size).index_copy(0, slots, patches)
    column = places.view(count, most, 3, size, size).transpose(1, 2).reshape(count, 3, most * size, size)
    return grid_sample(column, grid, padding_mode="border", align_corners=False) * 255


def _paste_grid(boxes: Tensor, most: int, height: int, width: int, geometry: PatchGeometry) -> tuple[Tensor, Tensor]:
    """Where each pixel of a picture comes from in its column of patches ``[H, W, 2]``, and which are covered."""
    size, first, last = geometry.size, geometry.margin, geometry.size - geometry.margin - 1
    grid = torch.zeros(height, width, 2, device=boxes.device)
    covered = torch.zeros(1, height, width, device=boxes.device)
    for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        if x1 <= x0 or y1 <= y0:
            continue
        # Every pixel that the box touches: rounded outward.
        columns = torch.arange(max(0, int(x0)), min(width, -int(-x1 // 1)), device=boxes.device)
        rows = torch.arange(max(0, int(y0)), min(height, -int(-y1 // 1)), device=boxes.device)
        if not len(columns) or not len(rows):
            continue
        u = ((columns + 0.5 - (x0 + x1) / 2) / ((x1 - x0) * geometry.context) + 0.5) * size - 0.5
        v = ((rows + 0.5 - (y0 + y1) / 2) / ((y1 - y0) * geometry.context) + 0.5) * size - 0.5
        u, v = u.clamp(first, last), v.clamp(first, last) + index * size
        region = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        grid[region[0], region[1], 0] = (u + 0.5) * (2 / size) - 1
        grid[region[0], region[1], 1] = ((v + 0.5) * (2 / (most * size)) - 1)[:, None]
        covered[:, region[0], region[1]] = 1
    return grid, covered


@dataclass(frozen=True)
class PatchApplication:
    """Each face with its surroundings goes through the U-Net as a patch of one size.

    Attributes:
        geometry: how faces are cut out.
    """

    geometry: PatchGeometry

    @property
    def metadata(self) -> dict[str, str]:
        """Of `Application`."""
        return {"mode": "patch", "patch_size": str(self.geometry.size), "context": str(self.geometry.context)}

    def prepare(self, images: Tensor, boxes: list[Tensor]) -> PreparedBatch:
        """Of `Application`."""
        return prepare(images, boxes, self.geometry)

    def redact(self, prepared: PreparedBatch, generator: nn.Module) -> Redaction:
        """Of `Application`."""
        return redact(prepared, generator, self.geometry)
