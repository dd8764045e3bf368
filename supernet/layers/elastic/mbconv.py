"""Inverted residual block with elastic kernel and width (Cai et al., ICLR 2020, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.arch import LayerSpec
from supernet.layers.activations import activate
from supernet.layers.depthwise import depthwise_conv2d
from supernet.layers.elastic.base import ElasticLayer, State, Weight, order_by_importance, present
from supernet.layers.elastic.norm import ElasticBatchNorm, ElasticConvNorm
from supernet.layers.fixed import BN_EPS


class ElasticDepthwise(nn.Module):
    """Depthwise convolution with elastic kernel, and its batch norm.

    A smaller kernel is the centre crop of the next larger one, transformed by a matrix that all channels share:
    25x25 for 7 to 5, 9x9 for 5 to 3, chained, identity at the start.
    """

    def __init__(self, channels: int, kernels: Sequence[int], *, bn_eps: float) -> None:
        super().__init__()
        self.kernels = tuple(sorted(kernels, reverse=True))
        self.conv = Weight(channels, 1, self.kernels[0], self.kernels[0])
        self.transforms = nn.ParameterDict(
            {
                _transform_name(larger, smaller): nn.Parameter(torch.eye(smaller * smaller))
                for larger, smaller in pairwise(self.kernels)
            }
        )
        self.bn = ElasticBatchNorm(channels, eps=bn_eps)

    def kernel_weight(self, kernel: int, channels: int) -> Tensor:
        """The depthwise weight for that kernel, (channels, 1, kernel, kernel)."""
        weight = self.conv.weight[:channels]
        for larger, smaller in pairwise(self.kernels):
            if kernel >= larger:
                break
            margin = (larger - smaller) // 2
            crop = weight[:, :, margin : margin + smaller, margin : margin + smaller]
            matrix = self.transforms[_transform_name(larger, smaller)]
            weight = F.linear(crop.reshape(channels, -1), matrix).view(channels, 1, smaller, smaller)
        return weight

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        channels = x.shape[1]
        weight = self.kernel_weight(spec.kernel, channels)
        y: Tensor = self.bn(depthwise_conv2d(x, weight, spec.stride))
        return y

    def weights_of(self, kernel: int, channels: int, prefix: str) -> State:
        """State of the fixed depthwise layer, keys under `prefix`."""
        state = {f"{prefix}conv.weight": self.kernel_weight(kernel, channels)}
        return state | self.bn.weights_of(channels, f"{prefix}bn.")

    def permute(self, order: Tensor) -> None:
        """Reorder the channels in place; the transforms are shared by all channels and stay."""
        self.conv.weight.data.copy_(self.conv.weight.data[order])
        self.bn.permute(order)


class ElasticSqueezeExcite(nn.Module):
    """Squeeze-excite with leading channels, outside and in its bottleneck."""

    def __init__(self, channels: int, se_channels: int) -> None:
        super().__init__()
        self.reduce = Weight(se_channels, channels, 1, 1, bias=True)
        self.expand = Weight(channels, se_channels, 1, 1, bias=True)

    def forward(self, x: Tensor, se_channels: int) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        weights = self.weights_of(x.shape[1], se_channels, "")
        y = x.mean((2, 3), keepdim=True)
        y = F.relu(F.conv2d(y, weights["reduce.weight"], weights["reduce.bias"]))
        y = F.hardsigmoid(F.conv2d(y, weights["expand.weight"], weights["expand.bias"]))
        return x * y

    def weights_of(self, channels: int, se_channels: int, prefix: str) -> State:
        """State of the fixed squeeze-excite, keys under `prefix`."""
        return {
            f"{prefix}reduce.weight": self.reduce.weight[:se_channels, :channels],
            f"{prefix}reduce.bias": present(self.reduce.bias)[:se_channels],
            f"{prefix}expand.weight": self.expand.weight[:channels, :se_channels],
            f"{prefix}expand.bias": present(self.expand.bias)[:channels],
        }

    def permute(self, order: Tensor) -> None:
        """Reorder the outer channels in place."""
        self.reduce.weight.data.copy_(self.reduce.weight.data[:, order])
        self.expand.weight.data.copy_(self.expand.weight.data[order])
        bias = present(self.expand.bias)
        bias.data.copy_(bias.data[order])

    def sort_bottleneck(self, trained: Sequence[int]) -> None:
        """Order the bottleneck's channels by the L1 norm of what each sends to the gate."""
        importance = self.expand.weight.data.abs().sum((0, 2, 3))
        order = order_by_importance(importance, trained)
        self.expand.weight.data.copy_(self.expand.weight.data[:, order])
        self.reduce.weight.data.copy_(self.reduce.weight.data[order])
        bias = present(self.reduce.bias)
        bias.data.copy_(bias.data[order])


class ElasticMBConv(ElasticLayer):
    """Inverted residual block with elastic kernel and elastic middle channels."""

    def __init__(self, specs: Sequence[LayerSpec], *, bn_eps: float = BN_EPS) -> None:
        super().__init__()
        largest = max(specs, key=lambda spec: spec.mid_channels)
        mid = largest.mid_channels
        self.se_of_mid = {spec.mid_channels: spec.se_channels for spec in specs}
        self.expand = ElasticConvNorm(largest.in_channels, mid, bn_eps=bn_eps) if mid != largest.in_channels else None
        self.depthwise = ElasticDepthwise(mid, sorted({spec.kernel for spec in specs}), bn_eps=bn_eps)
        self.squeeze_excite = ElasticSqueezeExcite(mid, largest.se_channels) if largest.se_channels else None
        self.project = ElasticConvNorm(mid, largest.out_channels, bn_eps=bn_eps)

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        y: Tensor = x
        if self.expand is not None:
            y = activate(self.expand(y, spec.mid_channels), spec.activation)
        y = activate(self.depthwise(y, spec), spec.activation)
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y, spec.se_channels)
        y = self.project(y, spec.out_channels)
        return x + y if spec.shortcut else y

    def weights_of(self, spec: LayerSpec) -> State:
        mid = spec.mid_channels
        state: State = {}
        if self.expand is not None:
            state |= self.expand.weights_of(spec.in_channels, mid, "expand.")
        state |= self.depthwise.weights_of(spec.kernel, mid, "depthwise.")
        if self.squeeze_excite is not None:
            state |= self.squeeze_excite.weights_of(mid, spec.se_channels, "squeeze_excite.")
        return state | self.project.weights_of(mid, spec.out_channels, "project.")

    def sort_channels(self, trained: Sequence[int]) -> None:
        """Order the middle channels by the L1 norm of what the projection takes from each.

        The whole block computes the same afterwards, and so does it at every width in `trained`.
        """
        if len(self.se_of_mid) == 1 or self.expand is None:
            return
        order = order_by_importance(self.project.input_importance(), trained)
        self.project.permute_inputs(order)
        self.depthwise.permute(order)
        self.expand.permute_outputs(order)
        if self.squeeze_excite is not None:
            self.squeeze_excite.permute(order)
            self.squeeze_excite.sort_bottleneck([self.se_of_mid[mid] for mid in trained])


def _transform_name(larger: int, smaller: int) -> str:
    return f"{larger}to{smaller}"
