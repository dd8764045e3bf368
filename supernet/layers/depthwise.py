"""Depthwise convolution whose weight gradient is fast on CPUs for large kernels on small feature maps.

PyTorch's own (oneDNN's) weight gradient of 5x5 and 7x7 depthwise kernels takes 10 to 40 times as long as the forward
pass and was the largest part of a training step. On maps of up to 8x8 the gradient is cheaper as two matrix products
over all pairs of positions, most of which a large kernel reaches anyway (measured on one thread, batch 64: 384
channels, 4x4, kernel 7: 9.5 -> 2.7 ms; 144 channels, 8x8, kernel 7: 8.1 -> 2.5 ms).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_PAIRS = 6000
"""Pairs of output and input positions up to which the matrix products win."""
LEAST_KERNEL = 5


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
    positions = x.shape[-2] * x.shape[-1]
    pairs = positions * -(-x.shape[-2] // stride) * -(-x.shape[-1] // stride)
    if torch.is_grad_enabled() and x.device.type == "cpu" and kernel >= LEAST_KERNEL and pairs <= MOST_PAIRS:
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
        x, weight = ctx.saved_tensors
        stride, kernel, channels = ctx.stride, weight.shape[-1], x.shape[1]
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient, _, _ = torch.ops.aten.convolution_backward(
                gradient,
                x,
                weight,
                None,
                [stride, stride],
                [kernel // 2, kernel // 2],
                [1, 1],
                False,
                [0, 0],
                channels,
                [True, False, False],
            )
        if ctx.needs_input_grad[1]:
            # sum over images of gradient (output position) times input (input position), a matrix a channel ...
            outputs = gradient.flatten(2).permute(1, 2, 0).contiguous()
            inputs = x.flatten(2).transpose(0, 1).contiguous()
            products = torch.bmm(outputs, inputs).view(channels, -1)
            # ... of which each pair of positions belongs to one entry of the kernel, or to none
            sizes = (x.shape[-2], x.shape[-1], gradient.shape[-2], gradient.shape[-1])
            weight_gradient = (products @ _kernel_entry(*sizes, kernel, stride, x.dtype)).view_as(weight)
        return x_gradient, weight_gradient, None


@lru_cache(maxsize=256)
def _kernel_entry(
    in_height: int, in_width: int, out_height: int, out_width: int, kernel: int, stride: int, dtype: torch.dtype
) -> Tensor:
    """0/1 matrix (output position x input position, kernel entry): which entry connects the pair."""

    def offsets(inputs: int, outputs: int) -> Tensor:
        return torch.arange(inputs)[None, :] - stride * torch.arange(outputs)[:, None] + kernel // 2

    rows, columns = offsets(in_height, out_height), offsets(in_width, out_width)
    entry = rows[:, None, :, None] * kernel + columns[None, :, None, :]
    reached = ((rows >= 0) & (rows < kernel))[:, None, :, None] & ((columns >= 0) & (columns < kernel))[
        None, :, None, :
    ]
    entry, reached = entry.flatten(), reached.flatten()
    matrix = torch.zeros(len(entry), kernel * kernel, dtype=dtype)
    matrix[reached, entry[reached]] = 1
    return matrix
