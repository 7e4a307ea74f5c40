"""Convolution whose second derivative costs what its first costs.

A convolution, its gradient to the input and its gradient to the weights are three views of one trilinear form
``T(x, w, g) = <conv(x, w), g>``, and so the derivative of each is made of the other two. PyTorch's own formula for the
second derivative instead goes through a depthwise convolution channel by channel, and through others with feature maps
as large as the input in the place of weights; in the cycle objective that took most of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import conv2d

Settings = tuple[Any, Any, Any, int]
"""Stride, padding, dilation and groups, as `torch.nn.Conv2d` keeps them."""


class _Forward(Function):
    """``conv(x, w)``, and a bias if there is one."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
        return conv2d(x, w, bias, *settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, Settings], output: Tensor) -> None:
        x, w, _, ctx.settings = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        to_x, to_w, to_bias, _ = ctx.needs_input_grad
        return (
            _to_input(g, w, x.shape, ctx.settings) if to_x else None,
            _to_weight(x, g, w.shape, ctx.settings) if to_w else None,
            g.sum((0, 2, 3)) if to_bias else None,
            None,
        )


class _ToInput(Function):
    """The gradient of ``<conv(x, w), g>`` to x."""

    @staticmethod
    def forward(g: Tensor, w: Tensor, shape: torch.Size, settings: Settings) -> Tensor:
        # Only the shape and the layout of x are looked at; the result has that layout.
        channels_last = g.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        x = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=layout)
        return _gradients(g, x, w, settings, (True, False))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, torch.Size, Settings], output: Tensor) -> None:
        g, w, _, ctx.settings = inputs
        ctx.save_for_backward(g, w)

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor | None, ...]:
        g, w = ctx.saved_tensors
        to_g, to_w = ctx.needs_input_grad[:2]
        return (
            _convolve(x, w, None, ctx.settings) if to_g else None,
            _to_weight(x, g, w.shape, ctx.settings) if to_w else None,
            None,
            None,
        )


class _ToWeight(Function):
    """The gradient of ``<conv(x, w), g>`` to w."""

    @staticmethod
    def forward(x: Tensor, g: Tensor, shape: torch.Size, settings: Settings) -> Tensor:
        return _gradients(g, x, x.new_empty(shape), settings, (False, True))[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, torch.Size, Settings], output: Tensor) -> None:
        x, g, _, ctx.settings = inputs
        ctx.save_for_backward(x, g)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor | None, ...]:
        x, g = ctx.saved_tensors
        to_x, to_g = ctx.needs_input_grad[:2]
        return (
            _to_input(g, w, x.shape, ctx.settings) if to_x else None,
            _convolve(x, w, None, ctx.settings) if to_g else None,
            None,
            None,
        )


_convolve: Callable[..., Tensor] = _Forward.apply
_to_input: Callable[..., Tensor] = _ToInput.apply
_to_weight: Callable[..., Tensor] = _ToWeight.apply


def _gradients(
    g: Tensor, x: Tensor, w: Tensor, settings: Settings, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    stride, padding, dilation, groups = settings
    no_shift, mask = [0, 0], [*wanted, False]
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        g, x, w, None, stride, padding, dilation, False, no_shift, groups, mask
    )
    return gradients


def _as_autocast(x: Tensor, *weights: Tensor | None) -> tuple[Tensor | None, ...]:
    """In the precision that autocast would choose; it doesn't see into the functions here."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, *weights
    dtype = torch.get_autocast_dtype(x.device.type)
    return tuple(tensor if tensor is None else tensor.to(dtype) for tensor in (x, *weights))


class Convolution(nn.Conv2d):
    """`torch.nn.Conv2d`, the same but for the cost of its second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, D, H', W']``."""
        settings = (self.stride, self.padding, self.dilation, self.groups)
        return _convolve(*_as_autocast(x, self.weight, self.bias), settings)
