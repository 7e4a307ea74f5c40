"""Detectors in evaluation mode, their batch normalisation folded into the convolutions before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .convolution import Convolution
from .face_detector import FaceDetector, Predictions

Detector = TypeVar("Detector", bound=FaceDetector)


def folded(detector: Detector) -> Detector:
    """A copy for deployment, which is in evaluation mode and has no batch normalisation left.

    Raises:
        ValueError: a batch normalisation doesn't follow a convolution.
    """
    copy = deepcopy(detector).eval()
    for layer, name, norm in list(_pairs(copy)):
        if norm is not None:
            _replace(copy, name, fuse_conv_bn_eval(layer, copy.get_submodule(norm)))  # type: ignore[arg-type]
            _replace(copy, norm, nn.Identity())
    _check_none_left(copy)
    return copy


class FoldedDetector:
    """A detector as a function of its weights, made to be differentiated twice at little cost.

    It looks at images as the detector would in evaluation mode, whatever mode it is in. The result and every
    derivative are the same up to rounding, but no pass over the feature maps is spent on batch normalisation.

    Args:
        detector: its weights are used where `__call__` is given none; later changes to them are seen.
    """

    def __init__(self, detector: FaceDetector) -> None:
        self.detector = detector
        self._structure = deepcopy(detector).eval().requires_grad_(False)
        self._norms: dict[str, tuple[str, float]] = {}
        for layer, name, norm in list(_pairs(self._structure)):
            if norm is not None:
                self._norms[name] = (norm, self._structure.get_submodule(norm).eps)  # type: ignore[assignment]
                _replace(self._structure, norm, nn.Identity())
            _replace(self._structure, name, _as_convolution(layer, norm is not None))
        _check_none_left(self._structure)

    def __call__(self, images: Tensor, weights: Mapping[str, Tensor] | None = None) -> Predictions:
        """As `FaceDetector.forward`.

        Args:
            images: ``[N, 3, H, W]`` BGR 0..255.
            weights: parameters and buffers by the detector's names; those left out are its own, without gradient.
        """
        own = {**dict(self.detector.named_parameters()), **dict(self.detector.named_buffers())}
        used = {name: tensor.detach() for name, tensor in own.items()} | dict(weights or {})
        # Depthwise convolutions of large maps are several times faster in this layout.
        images = images.contiguous(memory_format=torch.channels_last)
        predictions: Predictions = functional_call(self._structure, self._folded(used), (images,))
        return predictions

    def _folded(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        folded = dict(weights)
        for convolution, (norm, eps) in self._norms.items():
            gain, shift, mean, variance = (
                folded.pop(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
            )
            folded.pop(f"{norm}.num_batches_tracked", None)
            gain = gain * torch.rsqrt(variance + eps)
            folded[f"{convolution}.weight"] = folded[f"{convolution}.weight"] * gain.view(-1, 1, 1, 1)
            folded[f"{convolution}.bias"] = shift - mean * gain
        return folded


def _pairs(module: nn.Module, path: str = "") -> Iterator[tuple[nn.Conv2d, str, str | None]]:
    """Each convolution, its name, and the name of the batch normalisation that is registered right after it."""
    for (name, child), (follower, after) in pairwise([*module.named_children(), ("", None)]):
        if isinstance(child, nn.Conv2d):
            normed = isinstance(after, nn.BatchNorm2d) and child.bias is None
            yield child, path + name, path + follower if normed else None
        elif child is not None:
            yield from _pairs(child, f"{path}{name}.")


def _check_none_left(module: nn.Module) -> None:
    left = [name for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]
    if left:
        raise ValueError(f"expected each batch normalisation right after a convolution, these are not: {left}")


def _as_convolution(layer: nn.Conv2d, biased: bool) -> Convolution:
    return Convolution(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        layer.groups,
        biased or layer.bias is not None,
        device="meta",
    )


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(root.get_submodule(parent), own, module)
