"""The search spaces: one family a module, each made of elastic dimensions and layer sites."""

from __future__ import annotations

from supernet import registry
from supernet.arch import Value
from supernet.spaces import mobilenet_v3, proxyless, resnet50
from supernet.spaces.base import (
    ElasticDimension,
    Genotypes,
    Kind,
    LayerSite,
    SearchSpace,
    largest_resolution,
    make_divisible,
)

__all__ = [
    "ElasticDimension",
    "Genotypes",
    "Kind",
    "LayerSite",
    "SearchSpace",
    "Value",
    "get_space",
    "largest_resolution",
    "list_spaces",
    "make_divisible",
    "register_space",
]

for _space in (mobilenet_v3.TINY, mobilenet_v3.W1_0, mobilenet_v3.W1_2, proxyless.W1_3, resnet50.RESNET50):
    registry.register(_space)

get_space = registry.find
list_spaces = registry.names
register_space = registry.register
