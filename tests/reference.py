"""The authors' package `ofa` as the reference that parity tests and benchmarks compare with; a development extra.

Its networks import as they are; `set_running_statistics` too. Its data loaders and tutorials do not on today's torch
(`torch._six` is gone, `yaml.load` wants a Loader), and nothing here needs them.
"""

from __future__ import annotations

import random
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

MISSING = "the reference package is absent; install it with: pip install 'onceforall[dev]'"


def reference(module: str) -> Any:
    """A module of the reference package, for example ``imagenet_classification.elastic_nn.networks``; or skip."""
    pytest.importorskip("ofa", reason=MISSING)
    return import_module(f"ofa.{module}")


def reference_supernet(space: str, **settings: Any) -> nn.Module:
    """The reference's network of one of our spaces, built as its model zoo builds it."""
    networks = reference("imagenet_classification.elastic_nn.networks")
    small = {"dropout_rate": 0, "ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
    net: nn.Module
    if space == "resnet50":
        net = networks.OFAResNets(
            dropout_rate=0,
            depth_list=[0, 1, 2],
            expand_ratio_list=[0.2, 0.25, 0.35],
            width_mult_list=[0.65, 0.8, 1.0],
            **settings,
        )
    elif space == "proxyless_w1.3":
        net = networks.OFAProxylessNASNets(width_mult=1.3, **small, **settings)
    else:
        net = networks.OFAMobileNetV3(width_mult=float(space.rpartition("w")[2]), **small, **settings)
    return net


@torch.no_grad()
def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights that keep signals of moderate size; batch norms and kernel transforms far from their neutral values.

    A test with identity transforms or unit statistics could not tell a transposed or forgotten tensor.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator)

    for name, tensor in net.state_dict().items():
        kind = name.rpartition(".")[2]
        if kind == "running_mean":
            tensor.copy_(0.3 * draw(tensor))
        elif kind == "running_var" or (tensor.ndim == 1 and kind == "weight"):
            tensor.copy_(torch.exp(0.3 * draw(tensor)))
        elif kind == "bias":
            tensor.copy_(0.2 * draw(tensor))
        elif kind.endswith("_matrix"):
            tensor.copy_(draw(tensor) / tensor.shape[0] ** 0.5)
        elif tensor.ndim > 1:
            tensor.copy_(draw(tensor) / tensor[0].numel() ** 0.5)
    return net.eval()


def activate_random(net: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Draw a subnet by the reference's own sampler (which uses the global `random`) and make it active."""
    state = random.getstate()
    random.seed(int(rng.integers(2**31)))
    try:
        settings: dict[str, Any] = net.sample_active_subnet()
    finally:
        random.setstate(state)
    return settings
