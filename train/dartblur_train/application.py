"""The two ways to apply the generator: to patches, as on a device, or to whole frames, as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Redaction:
    """A batch whose faces are overwritten.

    Attributes:
        images: ``g(x, b)``, ``[N, 3, H, W]`` BGR 0..255; gradients flow to the generator.
        blurred: ``x_blur``, the same with Gaussian blur.
        mask: ``b``, ``[N, 1, H, W]``, 1 on each pixel that a box touches.
    """

    images: Tensor
    blurred: Tensor
    mask: Tensor


class Application(Protocol):
    """``g(x, b) = x * (1 - b) + g~(x_blur, b) * b`` (paper, equation 1), in one of the two ways."""

    @property
    def metadata(self) -> dict[str, str]:
        """What a file of weights says about the way they are applied."""

    def prepare(self, images: Tensor, boxes: list[Tensor]) -> Any:
        """Does what does not depend on the generator's weights, once for several calls of `redact`.

        Args:
            images: ``[N, 3, H, W]`` BGR 0..255.
            boxes: for each image ``[n, 4]`` xyxy pixels.
        """

    def redact(self, prepared: Any, generator: nn.Module) -> Redaction:
        """Repaints the faces of a prepared batch."""
