"""Squeeze-excite as one operator where our CPU kernels are usable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from supernet import kernels


def squeeze_excite(
    x: Tensor, reduce_weight: Tensor, reduce_bias: Tensor, expand_weight: Tensor, expand_bias: Tensor
) -> Tensor:
    """The input times a gate a channel: hard sigmoid of a two-layer network of the channels' means.

    Args:
        x: (N, C, H, W).
        reduce_weight: (S, C, 1, 1).
        reduce_bias: (S,).
        expand_weight: (C, S, 1, 1).
        expand_bias: (C,).

    Returns:
        The same shape as `x`.
    """
    if torch.is_grad_enabled() and x.is_contiguous(memory_format=torch.channels_last) and kernels.usable(x):
        result: Tensor = _SqueezeExcite.apply(
            x, reduce_weight.flatten(1), reduce_bias, expand_weight.flatten(1), expand_bias
        )
        return result
    y = x.mean((2, 3), keepdim=True)
    y = F.relu(F.conv2d(y, reduce_weight, reduce_bias))
    return x * F.hardsigmoid(F.conv2d(y, expand_weight, expand_bias))


class _SqueezeExcite(torch.autograd.Function):
    """Backward reads the input and the gradient twice and writes once; separate operators move three times as much."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, reduce_weight: Tensor, reduce_bias: Tensor, expand_weight: Tensor, expand_bias: Tensor
    ) -> Tensor:
        from supernet.kernels import squeeze_excite as kernel
        from supernet.kernels.simd import LANES
        from supernet.kernels.threads import split

        images, channels = x.shape[:2]
        pixels = x.shape[2] * x.shape[3]
        flat = kernels.flat(x)
        mean = torch.empty(images, channels)
        share = torch.full((LANES,), 1 / pixels).numpy()
        split(kernel.products, images, x.numel(), flat, share, mean.view(-1).numpy(), pixels, channels)
        hidden = F.linear(mean, reduce_weight, reduce_bias).relu_()
        logits = F.linear(hidden, expand_weight, expand_bias)
        gate = F.hardsigmoid(logits)
        y = torch.empty_like(x)
        arrays = (flat, gate.view(-1).numpy(), torch.zeros_like(gate).view(-1).numpy(), kernels.flat(y))
        split(kernel.scale_and_shift, images, x.numel(), *arrays, pixels, channels)
        ctx.save_for_backward(x, reduce_weight, expand_weight, mean, hidden, logits, gate)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        from supernet.kernels import squeeze_excite as kernel
        from supernet.kernels.threads import split

        x, reduce_weight, expand_weight, mean, hidden, logits, gate = ctx.saved_tensors
        images, channels = x.shape[:2]
        pixels = x.shape[2] * x.shape[3]
        flat_gradient = kernels.flat(gradient)
        to_logits = torch.empty_like(gate)
        inputs = (flat_gradient, kernels.flat(x))
        split(kernel.products, images, x.numel(), *inputs, to_logits.view(-1).numpy(), pixels, channels)
        to_logits *= (logits.abs() < 3).float() / 6
        to_hidden = (to_logits @ expand_weight) * (hidden > 0)
        to_mean = (to_hidden @ reduce_weight) / pixels
        x_gradient = torch.empty_like(x)
        arrays = (flat_gradient, gate.view(-1).numpy(), to_mean.view(-1).numpy(), kernels.flat(x_gradient))
        split(kernel.scale_and_shift, images, x.numel(), *arrays, pixels, channels)
        return x_gradient, to_hidden.t() @ mean, to_hidden.sum(0), to_logits.t() @ hidden, to_logits.sum(0)
