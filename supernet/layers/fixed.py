"""Ordinary modules for single layers: what extracted subnets are made of and what the profiler measures."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from supernet.arch import Activation, LayerSpec
from supernet.layers.activations import activation_module

BN_EPS = 1e-5
BN_MOMENTUM = 0.1


def build_layer(spec: LayerSpec, *, bn_eps: float = BN_EPS) -> nn.Module:
    """The module that `spec` describes, with torch's default random weights.

    Args:
        spec: the layer.
        bn_eps: epsilon of its batch norms.

    Returns:
        A module from images (N, in_channels, in_size, in_size) to (N, out_channels, out_size, out_size);
        `linear` ends in (N, out_channels).
    """
    if spec.op == "conv":
        layer = ResidualConvLayer if spec.shortcut else ConvLayer
        return layer(
            spec.in_channels,
            spec.out_channels,
            kernel=spec.kernel,
            stride=spec.stride,
            groups=spec.groups,
            activation=spec.activation,
            batch_norm=spec.batch_norm,
            bn_eps=bn_eps,
        )
    if spec.op == "mbconv":
        return MBConv(spec, bn_eps=bn_eps)
    if spec.op == "bottleneck":
        return Bottleneck(spec, bn_eps=bn_eps)
    if spec.op == "max_pool":
        return nn.MaxPool2d(spec.kernel, spec.stride, padding=spec.kernel // 2)
    if spec.op == "pool":
        return nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=nn.Linear(spec.in_channels, spec.out_channels)))


class ConvLayer(nn.Sequential):
    """Convolution padded by half its kernel, batch norm, activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "none",
        batch_norm: bool = True,
        bn_eps: float = BN_EPS,
    ) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["conv"] = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )
        if batch_norm:
            parts["bn"] = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=BN_MOMENTUM)
        if activation != "none":
            parts["act"] = activation_module(activation)
        super().__init__(parts)


class ResidualConvLayer(ConvLayer):
    """The same plus its input."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        y = x
        for part in self:
            y = part(y)
        return x + y


class SqueezeExcite(nn.Module):
    """Channel gate: global mean, 1x1 convolution, relu, 1x1 convolution, hard sigmoid, product.

    Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018; the hard sigmoid is MobileNetV3's.
    """

    def __init__(self, channels: int, se_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, se_channels, 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(se_channels, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        mean = x.mean((2, 3), keepdim=True)
        gate: Tensor = self.gate(self.expand(self.relu(self.reduce(mean))))
        return x * gate


class MBConv(nn.Module):
    """Inverted residual block of MobileNetV3; see `LayerSpec` for its parts."""

    def __init__(self, spec: LayerSpec, *, bn_eps: float = BN_EPS) -> None:
        super().__init__()
        mid = spec.mid_channels
        self.expand: nn.Module | None = None
        if mid != spec.in_channels:
            self.expand = ConvLayer(spec.in_channels, mid, activation=spec.activation, bn_eps=bn_eps)
        self.depthwise = ConvLayer(
            mid, mid, kernel=spec.kernel, stride=spec.stride, groups=mid, activation=spec.activation, bn_eps=bn_eps
        )
        self.squeeze_excite = SqueezeExcite(mid, spec.se_channels) if spec.se_channels else None
        self.project = ConvLayer(mid, spec.out_channels, bn_eps=bn_eps)
        self.shortcut = spec.shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, in_size, in_size) -> (N, out_channels, out_size, out_size)."""
        y: Tensor = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y)
        y = self.project(y)
        return x + y if self.shortcut else y


class Bottleneck(nn.Module):
    """Bottleneck block of ResNet-D; see `LayerSpec` for its parts.

    Source: He et al., "Deep Residual Learning", CVPR 2016; the stride in the spatial convolution and the average pool
    before the projection are He et al., "Bag of Tricks", CVPR 2019, section 4 (ResNet-D).
    """

    def __init__(self, spec: LayerSpec, *, bn_eps: float = BN_EPS) -> None:
        super().__init__()
        mid = spec.mid_channels
        self.reduce = ConvLayer(spec.in_channels, mid, activation=spec.activation, bn_eps=bn_eps)
        self.spatial = ConvLayer(
            mid, mid, kernel=spec.kernel, stride=spec.stride, activation=spec.activation, bn_eps=bn_eps
        )
        self.restore = ConvLayer(mid, spec.out_channels, bn_eps=bn_eps)
        self.pool: nn.Module | None = None
        self.downsample: nn.Module | None = None
        if not spec.shortcut:
            self.downsample = ConvLayer(spec.in_channels, spec.out_channels, bn_eps=bn_eps)
            if spec.stride > 1:  # a window over the edge is averaged over the pixels that it has
                self.pool = nn.AvgPool2d(spec.stride, spec.stride, ceil_mode=True, count_include_pad=False)
        self.act = activation_module(spec.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, in_size, in_size) -> (N, out_channels, out_size, out_size)."""
        y = self.restore(self.spatial(self.reduce(x)))
        if self.pool is not None:
            x = self.pool(x)
        if self.downsample is not None:
            x = self.downsample(x)
        result: Tensor = self.act(x + y)
        return result
