"""The generator g~: U-Nets that see the blurred picture and the mask, never a clear face.

Both take ``blurred [n, 3, P, P]`` BGR 0..1 and ``mask [n, 1, P, P]`` and return ``[n, 3, P, P]`` BGR 0..1.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.LeakyReLU(inplace=True),
        nn.MaxPool2d(2),
    )


def _up(inputs: int, outputs: int, middle: int | None = None) -> nn.Sequential:
    middle = middle or 4 * outputs
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 3, padding=1),
        nn.LeakyReLU(inplace=True),
        nn.PixelShuffle(2),
        nn.Conv2d(middle // 4, outputs, 3, padding=1),
    )


class PublishedUNet(nn.Module):
    """The U-Net of the paper: five levels of 32 to 512 channels, 14 M parameters. Sides are multiples of 32."""

    multiple = 32

    def __init__(self) -> None:
        super().__init__()
        widths = (4, 32, 64, 128, 256, 512)
        self.down = nn.ModuleList(_down(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList([_up(512, 256), _up(256, 128), _up(128, 64), _up(128, 96), _up(128, 3, middle=384)])
        self.act = nn.LeakyReLU(inplace=True)

    def forward(self, blurred: Tensor, mask: Tensor) -> Tensor:
        picture = blurred * 2 - 1
        x = torch.cat([picture, mask], 1)
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        x0, x1, x2, x3, x4 = skips
        x = self.act(self.up[0](x4)) + x3
        x = self.act(self.up[1](x)) + x2
        x = torch.cat([self.act(self.up[2](x)), x1], 1)
        x = torch.cat([self.act(self.up[3](x)), x0], 1)
        return (torch.tanh(self.up[4](x) + picture) + 1) / 2


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class EdgeUNet(nn.Module):
    """A small U-Net of three levels that starts at half resolution: 35 M multiply-adds for a 64 x 64 patch.

    It adds to the blurred picture, and adds nothing before it is trained: training starts from Gaussian blur. What it
    adds is smoothed by a fixed 3x3 binomial kernel, which is zero at the highest frequency: without it training finds
    patterns of single pixels, which detectors take for faces and people see as a garish grid.
    """

    multiple = 8
    kernel: Tensor

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 72)) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.enter = nn.PixelUnshuffle(2)
        self.fine = _double(16, fine)
        self.middle = _double(fine, middle)
        self.coarse = _double(middle, coarse)
        self.to_middle = nn.Conv2d(coarse, middle, 1)
        self.join_middle = nn.Sequential(nn.Conv2d(middle, middle, 3, padding=1), nn.ReLU(inplace=True))
        self.to_fine = nn.Conv2d(middle, fine, 1)
        self.join_fine = nn.Sequential(nn.Conv2d(fine, fine, 3, padding=1), nn.ReLU(inplace=True))
        self.leave = nn.Conv2d(fine, 12, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        binomial = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (binomial[:, None] * binomial).expand(3, 1, 3, 3).clone(), persistent=False)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, blurred: Tensor, mask: Tensor) -> Tensor:
        picture = blurred * 2 - 1
        fine = self.fine(self.enter(torch.cat([picture, mask], 1)))
        middle = self.middle(nn.functional.max_pool2d(fine, 2))
        coarse = self.coarse(nn.functional.max_pool2d(middle, 2))
        middle = self.join_middle(middle + interpolate(self.to_middle(coarse), scale_factor=2.0, mode="nearest"))
        fine = self.join_fine(fine + interpolate(self.to_fine(middle), scale_factor=2.0, mode="nearest"))
        added = torch.tanh(self.shuffle(self.leave(fine))) / 2
        return (blurred + conv2d(added, self.kernel, padding=1, groups=3)).clamp(0, 1)


GENERATORS: dict[str, type[PublishedUNet] | type[EdgeUNet]] = {"published": PublishedUNet, "edge": EdgeUNet}
"""Generators by name."""
