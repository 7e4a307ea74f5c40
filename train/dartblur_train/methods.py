"""The ways to hide faces that are compared and that data sets can be anonymized with."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import dartblur_ops

from .application import Application
from .data.labels import DataError
from .generators import load_generator
from .nets.unet import EdgeUNet, PublishedUNet

Method = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.uint8]]
"""Picture ``[H, W, 3]`` uint8 BGR and boxes ``[n, 4]`` xyxy pixels to a new picture whose boxes are overwritten."""

PLAIN = {"block": dartblur_ops.solid, "gaussian": dartblur_ops.gaussian, "pixelate": dartblur_ops.pixelate}
"""Baselines by their names in the paper: black; blur with a kernel of half the box; 8 by 8 mean colours.

``pixelate-3`` is 3 by 3 of them, and so on: the paper states no count.
"""

METHODS = ("dart", *PLAIN)

_COARSE = re.compile(r"pixelate-([1-9]\d{0,3})")


def is_plain(name: str) -> bool:
    """Whether it is a baseline's name."""
    return name in PLAIN or _COARSE.fullmatch(name) is not None


def plain(name: str) -> Method:
    """A baseline, through the native operation that the SDK uses too."""
    coarse = _COARSE.fullmatch(name)
    operation = partial(dartblur_ops.pixelate, blocks=int(coarse[1])) if coarse else PLAIN[name]

    def redact(image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.uint8]:
        result: NDArray[np.uint8] = image.copy()
        operation(result, boxes)
        return result

    return redact


def learned(generator: EdgeUNet | PublishedUNet, application: Application) -> Method:
    """The learned blur as the trainer applies it."""

    @torch.no_grad()
    def redact(image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.uint8]:
        if not len(boxes):
            untouched: NDArray[np.uint8] = image.copy()
            return untouched
        device = next(generator.parameters()).device
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float().to(device)
        prepared = application.prepare(x, [torch.from_numpy(boxes).to(device)])
        result = application.redact(prepared, generator).images[0].clamp(0, 255).round().byte()
        pixels: NDArray[np.uint8] = result.permute(1, 2, 0).cpu().numpy()
        return pixels

    return redact


def build_method(name: str, generator: Path | None = None, device: torch.device | None = None) -> Method:
    """A method by name.

    Args:
        name: in `METHODS`, or ``pixelate-N``.
        generator: weights for ``dart``: ``.safetensors`` or a bundle's folder.
        device: where ``dart`` runs; None: the CPU.

    Raises:
        DataError: the name is unknown, or ``dart`` has no generator.
    """
    if is_plain(name):
        return plain(name)
    if name != "dart":
        raise DataError(f"method: expected one of {', '.join(METHODS)}, got {name!r}")
    if generator is None:
        raise DataError("method: dart needs the weights of a generator: .safetensors of a training run, or a bundle")
    network, application, _ = load_generator(generator)
    return learned(network.to(device or torch.device("cpu")), application)
