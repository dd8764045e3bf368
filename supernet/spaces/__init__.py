"""The search spaces: one family a module, each made of elastic dimensions and layer sites."""

from __future__ import annotations

from supernet import registry
from supernet.spaces.base import (
    ElasticDimension,
    Genotypes,
    Kind,
    LayerSite,
    SearchSpace,
    largest_resolution,
    make_divisible,
)
from supernet.spaces.mobilenet_v3 import TINY

__all__ = [
    "ElasticDimension",
    "Genotypes",
    "Kind",
    "LayerSite",
    "SearchSpace",
    "get_space",
    "largest_resolution",
    "list_spaces",
    "make_divisible",
    "register_space",
]

registry.register(TINY)

get_space = registry.find
list_spaces = registry.names
register_space = registry.register
