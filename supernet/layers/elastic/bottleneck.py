"""ResNet's bottleneck block with elastic input, middle and output width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from supernet.arch import LayerSpec
from supernet.layers.activations import activate
from supernet.layers.elastic.base import ElasticLayer, State, order_by_importance
from supernet.layers.elastic.norm import ElasticConvNorm
from supernet.layers.fixed import BN_EPS


class ElasticBottleneck(ElasticLayer):
    """1x1 reduction, spatial convolution, 1x1 restoration, plus the input or its average-pooled projection."""

    def __init__(self, specs: Sequence[LayerSpec], *, bn_eps: float = BN_EPS) -> None:
        super().__init__()
        largest = max(specs, key=lambda spec: (spec.mid_channels, spec.out_channels, spec.in_channels))
        inputs, mid, outputs = largest.in_channels, largest.mid_channels, largest.out_channels
        self.reduce = ElasticConvNorm(inputs, mid, bn_eps=bn_eps)
        self.spatial = ElasticConvNorm(mid, mid, kernel=largest.kernel, bn_eps=bn_eps)
        self.restore = ElasticConvNorm(mid, outputs, bn_eps=bn_eps)
        self.downsample = None if largest.shortcut else ElasticConvNorm(inputs, outputs, bn_eps=bn_eps)

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        y = activate(self.reduce(x, spec.mid_channels), spec.activation)
        y = activate(self.spatial(y, spec.mid_channels, stride=spec.stride), spec.activation)
        y = self.restore(y, spec.out_channels)
        if self.downsample is not None:
            if spec.stride > 1:
                x = F.avg_pool2d(x, spec.stride, spec.stride, ceil_mode=True, count_include_pad=False)
            x = self.downsample(x, spec.out_channels)
        return activate(x + y, spec.activation)

    def weights_of(self, spec: LayerSpec) -> State:
        inputs, mid, outputs = spec.in_channels, spec.mid_channels, spec.out_channels
        state = self.reduce.weights_of(inputs, mid, "reduce.")
        state |= self.spatial.weights_of(mid, mid, "spatial.")
        state |= self.restore.weights_of(mid, outputs, "restore.")
        if self.downsample is not None:
            state |= self.downsample.weights_of(inputs, outputs, "downsample.")
        return state

    def sort_channels(self, trained: Sequence[int]) -> None:
        """Order both sets of middle channels by the L1 norm of what the next convolution takes from each.

        The channels that the restoration reads first, then those that the spatial convolution reads. The largest
        block computes the same afterwards, and so does the block at every middle width in `trained`. Input and output
        channels stay: they are shared along the residual path by all blocks of a stage.
        """
        for before, after in ((self.spatial, self.restore), (self.reduce, self.spatial)):
            order = order_by_importance(after.input_importance(), trained)
            after.permute_inputs(order)
            before.permute_outputs(order)
