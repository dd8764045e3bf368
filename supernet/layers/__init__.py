"""The layers of supernets (elastic) and of extracted subnets (fixed)."""

from supernet.layers.elastic import ElasticBatchNorm, ElasticLayer, ElasticLinear, build_elastic_layer, reset_weights
from supernet.layers.fixed import build_layer
from supernet.layers.prototypes import layer_with_weights

__all__ = [
    "ElasticBatchNorm",
    "ElasticLayer",
    "ElasticLinear",
    "build_elastic_layer",
    "build_layer",
    "layer_with_weights",
    "reset_weights",
]
