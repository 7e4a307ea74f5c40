"""Applying the generator to whole frames, as published: the cost grows with the frame, not with the faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import dartblur_ops

from .application import Redaction

MULTIPLE = 32
"""Of the sides that the generators take; frames are padded by repeating their border."""


@dataclass(frozen=True)
class PreparedFrames:
    """What of a redaction does not depend on the generator's weights.

    Attributes:
        images, blurred, mask: as in `Redaction`.
    """

    images: Tensor
    blurred: Tensor
    mask: Tensor


@dataclass(frozen=True)
class FrameApplication:
    """The frame with its boxes blurred, and their mask, go through the U-Net as a whole."""

    @property
    def metadata(self) -> dict[str, str]:
        """Of `Application`."""
        return {"mode": "frame"}

    @torch.no_grad()
    def prepare(self, images: Tensor, boxes: list[Tensor]) -> PreparedFrames:
        """Blurs the boxes (by the native operation, so in whole grey levels) and draws their mask."""
        blurred, mask = [], []
        for image, faces in zip(images, boxes, strict=True):
            frame = np.ascontiguousarray(image.clamp(0, 255).round().byte().permute(1, 2, 0).cpu().numpy())
            drawn = np.zeros_like(frame)
            corners = faces.float().cpu().numpy()
            dartblur_ops.gaussian(frame, corners)
            dartblur_ops.solid(drawn, corners, (1, 1, 1))
            blurred.append(torch.from_numpy(frame).permute(2, 0, 1))
            mask.append(torch.from_numpy(drawn[..., 0])[None])
        b = torch.stack(mask).to(images)
        x_blur = torch.stack(blurred).to(images) * b + images * (1 - b)
        return PreparedFrames(images, x_blur, b)

    def redact(self, prepared: PreparedFrames, generator: nn.Module) -> Redaction:
        """``g(x, b)`` of a prepared batch."""
        height, width = prepared.images.shape[-2:]
        room = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        blurred = pad(prepared.blurred / 255, room, mode="replicate")
        painted = generator(blurred, pad(prepared.mask, room))[..., :height, :width] * 255
        images = prepared.images * (1 - prepared.mask) + painted * prepared.mask
        return Redaction(images, prepared.blurred, prepared.mask)
