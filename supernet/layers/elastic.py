"""Layers that hold the weights of every subnet; each call uses the part that a `LayerSpec` asks for.

The part is always the leading channels, and for smaller depthwise kernels the learnt transform of the centre crop
(Cai et al., ICLR 2020, section 3.3). The names of parameters equal those of the fixed layers, so that extraction is
one dictionary of slices (`weights_of`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.arch import LayerSpec
from supernet.layers.activations import activate
from supernet.layers.depthwise import depthwise_conv2d
from supernet.layers.fixed import BN_EPS, BN_MOMENTUM
from supernet.layers.synchronised import synchronised_batch_norm

State = dict[str, Tensor]


class ElasticLayer(nn.Module):
    """A place in the supernet whose shape is chosen at every call."""

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        """Compute the layer that `spec` describes, with this layer's weights.

        Args:
            x: (N, spec.in_channels, H, W); H and W need not equal `spec.in_size`.
            spec: the active shape.

        Returns:
            (N, spec.out_channels, H', W').
        """
        raise NotImplementedError

    def weights_of(self, spec: LayerSpec) -> State:
        """The state dict of `build_layer(spec)` that computes the same; views, not copies, where possible."""
        raise NotImplementedError

    def sort_channels(self, trained: Sequence[int]) -> None:
        """Order the elastic channels by importance; nothing to do where no channel is elastic.

        Args:
            trained: widths whose leading channels have been trained as a set and must stay that set.
        """


class ElasticBatchNorm(nn.Module):
    """One batch norm of the full width, of which the leading channels are used."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.synchronised = False
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape; in training mode the batch's statistics (of all processes if
        `synchronised`), else the running ones.
        """
        c = x.shape[1]
        own = (self.running_mean[:c], self.running_var[:c], self.weight[:c], self.bias[:c])
        if self.training and self.synchronised:
            return synchronised_batch_norm(x, *own, BN_MOMENTUM, self.eps)
        return F.batch_norm(x, *own, self.training, BN_MOMENTUM, self.eps)

    def weights_of(self, channels: int, prefix: str) -> State:
        """State of an ordinary batch norm of that width, keys under `prefix`."""
        state = {f"{prefix}{name}": value[:channels] for name, value in self.state_dict(keep_vars=True).items()}
        state[f"{prefix}num_batches_tracked"] = torch.zeros((), dtype=torch.int64, device=self.weight.device)
        return state

    def permute(self, order: Tensor) -> None:
        """Reorder the channels in place."""
        for tensor in (self.weight, self.bias, self.running_mean, self.running_var):
            tensor.data.copy_(tensor.data[order])


class ElasticConv(ElasticLayer):
    """Plain convolution with leading input and output channels, batch norm, activation."""

    def __init__(self, largest: LayerSpec, *, bn_eps: float = BN_EPS) -> None:
        super().__init__()
        if largest.groups != 1:
            raise NotImplementedError(f"grouped convolution in a supernet: {largest.key}")
        self.conv = _Weight(largest.out_channels, largest.in_channels, largest.kernel, largest.kernel)
        self.bn = ElasticBatchNorm(largest.out_channels, eps=bn_eps) if largest.batch_norm else None

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        weight = self.conv.weight[: spec.out_channels, : spec.in_channels]
        y = F.conv2d(x, weight, None, spec.stride, spec.kernel // 2)
        if self.bn is not None:
            y = self.bn(y)
        return activate(y, spec.activation)

    def weights_of(self, spec: LayerSpec) -> State:
        state: State = {"conv.weight": self.conv.weight[: spec.out_channels, : spec.in_channels]}
        if self.bn is not None:
            state |= self.bn.weights_of(spec.out_channels, "bn.")
        return state


class ElasticLinear(ElasticLayer):
    """Flatten and a fully connected layer of leading inputs, with dropout before it while training."""

    def __init__(self, largest: LayerSpec, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.linear = _Weight(largest.out_channels, largest.in_channels, bias=True)

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        x = F.dropout(x.flatten(1), self.dropout, self.training)
        return F.linear(x, self.linear.weight[: spec.out_channels, : spec.in_channels], self.linear.bias)

    def weights_of(self, spec: LayerSpec) -> State:
        weight = self.linear.weight[: spec.out_channels, : spec.in_channels]
        return {"linear.weight": weight, "linear.bias": _present(self.linear.bias)}


class ElasticPool(ElasticLayer):
    """Global average pool; nothing in it is elastic."""

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1)

    def weights_of(self, spec: LayerSpec) -> State:
        return {}


class ElasticDepthwise(nn.Module):
    """Depthwise convolution with elastic kernel, and its batch norm.

    A smaller kernel is the centre crop of the next larger one, transformed by a matrix that all channels share:
    25x25 for 7 to 5, 9x9 for 5 to 3, chained, identity at the start.
    """

    def __init__(self, channels: int, kernels: Sequence[int], *, bn_eps: float) -> None:
        super().__init__()
        self.kernels = tuple(sorted(kernels, reverse=True))
        self.conv = _Weight(channels, 1, self.kernels[0], self.kernels[0])
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
        self.reduce = _Weight(se_channels, channels, 1, 1, bias=True)
        self.expand = _Weight(channels, se_channels, 1, 1, bias=True)

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
            f"{prefix}reduce.bias": _present(self.reduce.bias)[:se_channels],
            f"{prefix}expand.weight": self.expand.weight[:channels, :se_channels],
            f"{prefix}expand.bias": _present(self.expand.bias)[:channels],
        }

    def permute(self, order: Tensor) -> None:
        """Reorder the outer channels in place."""
        self.reduce.weight.data.copy_(self.reduce.weight.data[:, order])
        self.expand.weight.data.copy_(self.expand.weight.data[order])
        bias = _present(self.expand.bias)
        bias.data.copy_(bias.data[order])

    def sort_bottleneck(self, trained: Sequence[int]) -> None:
        """Order the bottleneck's channels by the L1 norm of what each sends to the gate."""
        importance = self.expand.weight.data.abs().sum((0, 2, 3))
        order = _order_by_importance(importance, trained)
        self.expand.weight.data.copy_(self.expand.weight.data[:, order])
        self.reduce.weight.data.copy_(self.reduce.weight.data[order])
        bias = _present(self.reduce.bias)
        bias.data.copy_(bias.data[order])


class ElasticPointwise(nn.Module):
    """1x1 convolution of leading input and output channels, and its batch norm."""

    def __init__(self, in_channels: int, out_channels: int, *, bn_eps: float) -> None:
        super().__init__()
        self.conv = _Weight(out_channels, in_channels, 1, 1)
        self.bn = ElasticBatchNorm(out_channels, eps=bn_eps)

    def forward(self, x: Tensor, out_channels: int) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H, W)."""
        y: Tensor = self.bn(F.conv2d(x, self.conv.weight[:out_channels, : x.shape[1]]))
        return y

    def weights_of(self, in_channels: int, out_channels: int, prefix: str) -> State:
        """State of the fixed layer, keys under `prefix`."""
        state = {f"{prefix}conv.weight": self.conv.weight[:out_channels, :in_channels]}
        return state | self.bn.weights_of(out_channels, f"{prefix}bn.")


class ElasticMBConv(ElasticLayer):
    """Inverted residual block with elastic kernel and elastic middle channels."""

    def __init__(self, specs: Sequence[LayerSpec], *, bn_eps: float = BN_EPS) -> None:
        super().__init__()
        largest = max(specs, key=lambda spec: spec.mid_channels)
        mid = largest.mid_channels
        self.se_of_mid = {spec.mid_channels: spec.se_channels for spec in specs}
        self.expand = ElasticPointwise(largest.in_channels, mid, bn_eps=bn_eps) if mid != largest.in_channels else None
        self.depthwise = ElasticDepthwise(mid, sorted({spec.kernel for spec in specs}), bn_eps=bn_eps)
        self.squeeze_excite = ElasticSqueezeExcite(mid, largest.se_channels) if largest.se_channels else None
        self.project = ElasticPointwise(mid, largest.out_channels, bn_eps=bn_eps)

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
        projection = self.project.conv.weight.data
        order = _order_by_importance(projection.abs().sum((0, 2, 3)), trained)
        projection.copy_(projection[:, order])
        self.depthwise.permute(order)
        expansion = self.expand.conv.weight.data
        expansion.copy_(expansion[order])
        self.expand.bn.permute(order)
        if self.squeeze_excite is not None:
            self.squeeze_excite.permute(order)
            self.squeeze_excite.sort_bottleneck([self.se_of_mid[mid] for mid in trained])


class _Weight(nn.Module):
    """A weight (and bias) under the names that nn.Conv2d and nn.Linear give them; left unset at construction."""

    def __init__(self, *shape: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None


def build_elastic_layer(specs: Sequence[LayerSpec], *, bn_eps: float = BN_EPS, dropout: float = 0.0) -> ElasticLayer:
    """The elastic layer that can compute every one of `specs` (all possible at one site)."""
    largest = max(specs, key=lambda spec: (spec.mid_channels, spec.out_channels, spec.in_channels))
    if largest.op == "conv":
        return ElasticConv(largest, bn_eps=bn_eps)
    if largest.op == "mbconv":
        return ElasticMBConv(specs, bn_eps=bn_eps)
    if largest.op == "pool":
        return ElasticPool()
    return ElasticLinear(largest, dropout=dropout)


def reset_weights(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw all weights: He's normal with fan-out for convolutions, N(0, 0.01) for linear; biases 0.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 14.
    """
    for part in module.modules():
        if isinstance(part, _Weight):
            out, spatial = part.weight.shape[0], part.weight.shape[2:].numel()
            depthwise = part.weight.ndim == 4 and part.weight.shape[1] == 1
            std = (2 / (spatial * (1 if depthwise else out))) ** 0.5 if part.weight.ndim == 4 else 0.01
            with torch.no_grad():
                part.weight.normal_(0.0, std, generator=generator)
                if part.bias is not None:
                    part.bias.zero_()


def _order_by_importance(importance: Tensor, trained: Sequence[int]) -> Tensor:
    """Indices by falling importance, within the segments that the widths in `trained` bound."""
    bounds = sorted({0, len(importance), *trained})
    parts = [
        start + torch.argsort(importance[start:stop], descending=True, stable=True) for start, stop in pairwise(bounds)
    ]
    return torch.cat(parts)


def _transform_name(larger: int, smaller: int) -> str:
    return f"{larger}to{smaller}"


def _present(bias: nn.Parameter | None) -> nn.Parameter:
    assert bias is not None
    return bias
