"""Elastic layers without inner structure: convolution, linear, pools."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from supernet.arch import LayerSpec
from supernet.layers.activations import activate
from supernet.layers.elastic.base import ElasticLayer, State, Weight, present
from supernet.layers.elastic.norm import ElasticBatchNorm
from supernet.layers.fixed import BN_EPS


class ElasticConv(ElasticLayer):
    """Plain convolution of leading input and output channels, batch norm, activation, shortcut."""

    def __init__(self, largest: LayerSpec, *, bn_eps: float = BN_EPS) -> None:
        super().__init__()
        if largest.groups != 1:
            raise NotImplementedError(f"grouped convolution in a supernet: {largest.key}")
        self.conv = Weight(largest.out_channels, largest.in_channels, largest.kernel, largest.kernel)
        self.bn = ElasticBatchNorm(largest.out_channels, eps=bn_eps) if largest.batch_norm else None

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        weight = self.conv.weight[: spec.out_channels, : spec.in_channels]
        y = F.conv2d(x, weight, None, spec.stride, spec.kernel // 2)
        if self.bn is not None:
            y = self.bn(y)
        y = activate(y, spec.activation)
        return x + y if spec.shortcut else y

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
        self.linear = Weight(largest.out_channels, largest.in_channels, bias=True)

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        x = F.dropout(x.flatten(1), self.dropout, self.training)
        return F.linear(x, self.linear.weight[: spec.out_channels, : spec.in_channels], self.linear.bias)

    def weights_of(self, spec: LayerSpec) -> State:
        weight = self.linear.weight[: spec.out_channels, : spec.in_channels]
        return {"linear.weight": weight, "linear.bias": present(self.linear.bias)}


class ElasticPool(ElasticLayer):
    """Global average pool; nothing in it is elastic."""

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1)

    def weights_of(self, spec: LayerSpec) -> State:
        return {}


class ElasticMaxPool(ElasticLayer):
    """Max pool padded by half its kernel; nothing in it is elastic."""

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        return F.max_pool2d(x, spec.kernel, spec.stride, spec.kernel // 2)

    def weights_of(self, spec: LayerSpec) -> State:
        return {}
