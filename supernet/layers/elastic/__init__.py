"""Layers that hold the weights of every subnet; each call uses the part that a `LayerSpec` asks for.

The part is always the leading channels, and for smaller depthwise kernels the learnt transform of the centre crop
(Cai et al., ICLR 2020, section 3.3). The names of parameters equal those of the fixed layers, so that extraction is
one dictionary of slices (`weights_of`).
"""

from __future__ import annotations

from collections.abc import Sequence

from supernet.arch import LayerSpec
from supernet.layers.elastic.base import ElasticLayer, State, reset_weights
from supernet.layers.elastic.bottleneck import ElasticBottleneck
from supernet.layers.elastic.mbconv import ElasticDepthwise, ElasticMBConv, ElasticSqueezeExcite
from supernet.layers.elastic.norm import ElasticBatchNorm, ElasticConvNorm
from supernet.layers.elastic.plain import ElasticConv, ElasticLinear, ElasticMaxPool, ElasticPool
from supernet.layers.fixed import BN_EPS

__all__ = [
    "ElasticBatchNorm",
    "ElasticBottleneck",
    "ElasticConv",
    "ElasticConvNorm",
    "ElasticDepthwise",
    "ElasticLayer",
    "ElasticLinear",
    "ElasticMBConv",
    "ElasticMaxPool",
    "ElasticPool",
    "ElasticSqueezeExcite",
    "State",
    "build_elastic_layer",
    "reset_weights",
]


def build_elastic_layer(specs: Sequence[LayerSpec], *, bn_eps: float = BN_EPS, dropout: float = 0.0) -> ElasticLayer:
    """The elastic layer that can compute every one of `specs` (all possible at one site)."""
    largest = max(specs, key=lambda spec: (spec.mid_channels, spec.out_channels, spec.in_channels))
    if largest.op == "conv":
        return ElasticConv(largest, bn_eps=bn_eps)
    if largest.op == "mbconv":
        return ElasticMBConv(specs, bn_eps=bn_eps)
    if largest.op == "bottleneck":
        return ElasticBottleneck(specs, bn_eps=bn_eps)
    if largest.op == "pool":
        return ElasticPool()
    if largest.op == "max_pool":
        return ElasticMaxPool()
    return ElasticLinear(largest, dropout=dropout)
