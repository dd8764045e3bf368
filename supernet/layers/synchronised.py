"""Batch norm over the batches of all processes that train together.

Differs from `torch.nn.SyncBatchNorm` in that it also works on CPUs (gloo) and on the leading channels of an elastic
batch norm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F


def synchronised_batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    """As `torch.nn.functional.batch_norm` in training mode, with the statistics of all processes' batches.

    Args:
        x: (N, C, H, W); N may differ from process to process.
        running_mean: (C,), updated in place, equally everywhere.
        running_var: (C,), likewise.
        weight: (C,).
        bias: (C,).
        momentum: share of the new statistics.
        eps: added to the variance.

    Returns:
        (N, C, H, W).
    """
    result: Tensor = _SynchronisedBatchNorm.apply(x, running_mean, running_var, weight, bias, momentum, eps)
    return result


class _SynchronisedBatchNorm(torch.autograd.Function):
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
    ) -> Tensor:
        values = x.numel() // x.shape[1]
        local_var, local_mean = torch.var_mean(x.to(weight.dtype), (0, 2, 3), correction=0)
        # sums of counts, means and squares, in float64: E[x^2] - E[x]^2 would lose digits in float32
        mean64 = local_mean.double()
        moments = torch.cat(
            [mean64 * values, (local_var.double() + mean64.square()) * values, mean64.new_tensor([values])]
        )
        dist.all_reduce(moments)
        total = moments[-1]
        mean64, square = (moments[:-1] / total).chunk(2)
        var64 = (square - mean64.square()).clamp(min=0)
        running_mean.lerp_(mean64.to(running_mean.dtype), momentum)
        running_var.lerp_((var64 * (total / (total - 1))).to(running_var.dtype), momentum)
        mean, var = mean64.to(weight.dtype), var64.to(weight.dtype)
        ctx.save_for_backward(x, mean, torch.rsqrt(var + eps), weight, total)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse_std, weight, total = ctx.saved_tensors
        shape = (1, -1, 1, 1)
        normalised = (x.to(mean.dtype) - mean.view(shape)) * inverse_std.view(shape)
        g = gradient.to(mean.dtype)
        bias_gradient, weight_gradient = g.sum((0, 2, 3)), (g * normalised).sum((0, 2, 3))
        sums = torch.cat([bias_gradient, weight_gradient]).double()
        dist.all_reduce(sums)
        mean_g, mean_gx = (sums / total).to(mean.dtype).chunk(2)
        x_gradient = (g - mean_g.view(shape) - normalised * mean_gx.view(shape)) * (weight * inverse_std).view(shape)
        return x_gradient.to(x.dtype), None, None, weight_gradient, bias_gradient, None, None
