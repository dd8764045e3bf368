"""Depthwise convolution whose gradients are fast on CPUs.

PyTorch's own (oneDNN's) weight gradient of 5x5 and 7x7 depthwise kernels takes 4 to 27 times as long as the forward
pass, that of 3x3 at most 1.4 times (benchmarks/reference_speed.py). So both gradients of 5x5 and 7x7 are kernels of
ours where numba is installed (see `supernet.kernels`), and PyTorch's where not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from supernet import kernels


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Depthwise convolution padded by half its kernel; equals torch's in value and gradients (to rounding).

    Args:
        x: (N, C, H, W).
        weight: (C, 1, k, k).
        stride: of both axes.

    Returns:
        (N, C, ceil(H / stride), ceil(W / stride)).
    """
    kernel = weight.shape[-1]
    if torch.is_grad_enabled() and kernel in kernels.DEPTHWISE_SIDES and kernels.usable(x):
        result: Tensor = _DepthwiseConv2d.apply(x, weight, stride)
        return result
    return F.conv2d(x, weight, None, stride, kernel // 2, 1, x.shape[1])


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, x.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        from supernet.kernels.depthwise import WEIGHT_GRADIENTS, input_gradient
        from supernet.kernels.simd import LANES
        from supernet.kernels.threads import split

        x, weight = ctx.saved_tensors
        images, channels, height, width = x.shape
        side = weight.shape[-1]
        blocks = -(-channels // LANES)
        work = gradient.numel() * side * side
        flat_gradient = kernels.flat(gradient)
        sizes = (images, height, width, *gradient.shape[2:], channels)
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            taps = weight.view(channels, -1).t().contiguous()
            x_gradient = torch.empty_like(x, memory_format=torch.channels_last)
            arrays = (flat_gradient, taps.view(-1).numpy(), kernels.flat(x_gradient))
            split(input_gradient, blocks, work, *arrays, *sizes, side, ctx.stride)
            if not x.is_contiguous(memory_format=torch.channels_last):
                x_gradient = x_gradient.contiguous()
        if ctx.needs_input_grad[1]:
            taps = torch.empty(side * side, channels)
            arrays = (kernels.flat(x), flat_gradient, taps.view(-1).numpy())
            split(WEIGHT_GRADIENTS[side], blocks, work, *arrays, *sizes, ctx.stride)
            weight_gradient = taps.t().reshape(weight.shape)
        return x_gradient, weight_gradient, None
