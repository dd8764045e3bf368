"""Batch norm followed by an activation, as one operator where our CPU kernels are usable."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from supernet import kernels
from supernet.arch import Activation
from supernet.layers.activations import activate

_LIMITS: dict[Activation, tuple[bool, float, float]] = {
    "none": (False, -math.inf, math.inf),
    "relu": (False, 0.0, math.inf),
    "relu6": (False, 0.0, 6.0),
    "h_swish": (True, 0.0, 0.0),
}
"""Whether the activation is gated, and the limits of its values otherwise, as the kernels take them."""

LEAST_NUMBERS = 2**17
"""Numbers in the input below which the calls around our kernels cost more (70 us) than the kernels save."""


def batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    training: bool,
    momentum: float,
    eps: float,
    activation: Activation = "none",
) -> Tensor:
    """`activation(F.batch_norm(x, ...))`, in value and gradients (to rounding).

    Args:
        x: (N, C, H, W).
        running_mean: (C,), updated in place while training.
        running_var: as `running_mean`.
        weight: (C,).
        bias: (C,).
        training: whether to normalise by the batch's own statistics.
        momentum: weight of the batch in the running statistics.
        eps: added to the variance.
        activation: what follows.

    Returns:
        The same shape.
    """
    large = x.numel() >= LEAST_NUMBERS and x.numel() > x.shape[1]
    if training and large and x.is_contiguous(memory_format=torch.channels_last) and kernels.usable(x):
        result: Tensor = _BatchNorm.apply(x, running_mean, running_var, weight, bias, momentum, eps, activation)
        return result
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return activate(y, activation)


def normalise_by_own_statistics(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float, activation: Activation, out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm by the kernels, without gradients; the caller has asked `kernels.usable`.

    Args:
        x: (N, C, H, W), channels last in memory.
        weight: (C,); None: 1.
        bias: (C,); None: 0.
        eps: added to the variance.
        activation: what follows.
        out: where the result goes, laid out as `x`; may be `x`.

    Returns:
        mean and biased variance of the batch, (C,) float64 each; factors for the gradient's kernels.
    """
    from supernet.kernels import batch_norm as kernel
    from supernet.kernels.simd import LANES
    from supernet.kernels.threads import split

    channels = x.shape[1]
    rows = x.numel() // channels
    chunks = -(-rows // kernel.CHUNK)
    weight = torch.ones(channels) if weight is None else weight.detach()
    bias = torch.zeros(channels) if bias is None else bias.detach()
    flat = kernels.flat(x)
    factors = torch.empty(kernel.FACTORS * channels)
    f = factors.numpy()
    partial = torch.empty(chunks * 2 * (channels + LANES)).numpy()
    kernel.set_origin(flat, rows, channels, f)
    split(kernel.sums, chunks, x.numel(), flat, f, partial, rows, channels)
    mean, variance = kernel.moments(partial, f, chunks, rows, channels)
    kernel.set_factors(mean, variance, weight.numpy(), bias.numpy(), f, channels, eps)
    split(kernel.normalise, rows, x.numel(), flat, f, kernels.flat(out), channels, *_LIMITS[activation])
    return torch.from_numpy(mean), torch.from_numpy(variance), factors


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        momentum: float,
        eps: float,
        activation: Activation,
    ) -> Tensor:
        from supernet.kernels.batch_norm import update_running

        y = torch.empty_like(x)
        mean, variance, factors = normalise_by_own_statistics(x, weight, bias, eps=eps, activation=activation, out=y)
        rows = x.numel() // x.shape[1]
        both = (mean.numpy(), variance.numpy())
        update_running(*both, running_mean.numpy(), running_var.numpy(), rows, momentum)
        ctx.save_for_backward(x, factors)
        ctx.variance, ctx.eps, ctx.activation = both[1], eps, activation
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from supernet.kernels import batch_norm as kernel
        from supernet.kernels.simd import LANES
        from supernet.kernels.threads import split

        x, factors = ctx.saved_tensors
        channels = x.shape[1]
        rows = x.numel() // channels
        chunks = -(-rows // kernel.CHUNK)
        arrays = (kernels.flat(x), kernels.flat(gradient), factors.numpy())
        limits = _LIMITS[ctx.activation]
        partial = torch.empty(chunks * 2 * (channels + LANES)).numpy()
        split(kernel.gradient_sums, chunks, x.numel(), *arrays, partial, rows, channels, *limits)
        weight_gradient, bias_gradient = torch.empty(2, channels)
        both = (weight_gradient.numpy(), bias_gradient.numpy())
        kernel.finish_gradient_sums(partial, ctx.variance, ctx.eps, arrays[2], *both, chunks, rows, channels)
        x_gradient = torch.empty_like(x)
        split(kernel.input_gradient, rows, x.numel(), *arrays, kernels.flat(x_gradient), channels, *limits)
        return x_gradient, None, None, weight_gradient, bias_gradient, None, None, None
