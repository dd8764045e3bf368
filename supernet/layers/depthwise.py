"""Depthwise convolution whose weight gradient is fast on CPUs.

PyTorch's own (oneDNN's) weight gradient of 5x5 and 7x7 depthwise kernels takes 4 to 37 times as long as the forward
pass, that of 3x3 at most 1.6 times (benchmarks/reference_speed.py). So that of 5x5 and 7x7 is a kernel of ours where
numba is installed (see `supernet.kernels`), and PyTorch's where not. The input gradient is PyTorch's: a kernel of ours
was 1.2 times as slow (median of 18 shapes).
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
        from supernet.kernels.depthwise import WEIGHT_GRADIENTS
        from supernet.kernels.simd import LANES
        from supernet.kernels.threads import split

        x, weight = ctx.saved_tensors
        images, channels, height, width = x.shape
        side = weight.shape[-1]
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            # not torch.nn.grad.conv2d_input, which loses the layout of x
            strides, padding, once, none = [ctx.stride] * 2, [side // 2] * 2, [1, 1], [0, 0]
            x_gradient = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, strides, padding, once, False, none, channels, [True, False, False]
            )[0]
        if ctx.needs_input_grad[1]:
            taps = torch.empty(side * side, channels)
            arrays = (kernels.flat(x), kernels.flat(gradient), taps.view(-1).numpy())
            sizes = (images, height, width, *gradient.shape[2:], channels)
            blocks = -(-channels // LANES)
            split(WEIGHT_GRADIENTS[side], blocks, gradient.numel() * side * side, *arrays, *sizes, ctx.stride)
            weight_gradient = taps.t().reshape(weight.shape)
        return x_gradient, weight_gradient, None
