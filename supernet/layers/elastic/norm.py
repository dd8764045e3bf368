"""Batch norm of leading channels, alone and behind a convolution: the parts of elastic blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.layers.elastic.base import State, Weight
from supernet.layers.fixed import BN_MOMENTUM


class ElasticBatchNorm(nn.Module):
    """One batch norm of the full width, of which the leading channels are used."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape; in training mode the batch's statistics, else the running ones."""
        c = x.shape[1]
        return F.batch_norm(
            x,
            self.running_mean[:c],
            self.running_var[:c],
            self.weight[:c],
            self.bias[:c],
            self.training,
            BN_MOMENTUM,
            self.eps,
        )

    def weights_of(self, channels: int, prefix: str) -> State:
        """State of an ordinary batch norm of that width, keys under `prefix`."""
        state = {f"{prefix}{name}": value[:channels] for name, value in self.state_dict(keep_vars=True).items()}
        state[f"{prefix}num_batches_tracked"] = torch.zeros((), dtype=torch.int64, device=self.weight.device)
        return state

    def permute(self, order: Tensor) -> None:
        """Reorder the channels in place."""
        for tensor in (self.weight, self.bias, self.running_mean, self.running_var):
            tensor.data.copy_(tensor.data[order])


class ElasticConvNorm(nn.Module):
    """Convolution of leading input and output channels, padded by half its kernel, and its batch norm."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int = 1, bn_eps: float) -> None:
        super().__init__()
        self.conv = Weight(out_channels, in_channels, kernel, kernel)
        self.bn = ElasticBatchNorm(out_channels, eps=bn_eps)

    def forward(self, x: Tensor, out_channels: int, *, stride: int = 1) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        weight = self.conv.weight[:out_channels, : x.shape[1]]
        y: Tensor = self.bn(F.conv2d(x, weight, None, stride, weight.shape[-1] // 2))
        return y

    def weights_of(self, in_channels: int, out_channels: int, prefix: str) -> State:
        """State of the fixed layer, keys under `prefix`."""
        state = {f"{prefix}conv.weight": self.conv.weight[:out_channels, :in_channels]}
        return state | self.bn.weights_of(out_channels, f"{prefix}bn.")

    def input_importance(self) -> Tensor:
        """(in_channels,) L1 norm of the weights that read each input channel."""
        return self.conv.weight.data.abs().sum((0, 2, 3))

    def permute_inputs(self, order: Tensor) -> None:
        """Reorder the input channels in place."""
        self.conv.weight.data.copy_(self.conv.weight.data[:, order])

    def permute_outputs(self, order: Tensor) -> None:
        """Reorder the output channels in place."""
        self.conv.weight.data.copy_(self.conv.weight.data[order])
        self.bn.permute(order)
