"""The authors' package `ofa` as the reference that parity tests and benchmarks compare with; a development extra.

Its networks import as they are, and so does `set_running_statistics`. Its data loaders and tutorials do not on today's
torch (`torch._six` is gone, `yaml.load` wants a Loader), and nothing here needs them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supernet.arch import SubnetConfig
from supernet.network import Supernet
from supernet.spaces import SearchSpace

MISSING = "the reference package is absent; install it with: pip install 'onceforall[dev]'"
SPACES = ("mobilenet_v3_w1.0", "mobilenet_v3_w1.2", "proxyless_w1.3", "resnet50")


def reference(module: str) -> Any:
    """A module of the reference package, for example ``imagenet_classification.networks``."""
    sys.modules.setdefault("gdown", ModuleType("gdown"))  # imported for downloads only, which nothing here makes
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


def smooth_images(count: int, resolution: int, seed: int = 0) -> Tensor:
    """Random images that stay different after pooling, as white noise does not: (count, 3, resolution, resolution)."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return 2 * nn.functional.interpolate(coarse, size=(resolution, resolution), mode="bilinear")


def config_of(space: SearchSpace, settings: Mapping[str, Any], resolution: int) -> SubnetConfig:
    """Our config of the subnet that the reference's `set_active_subnet(**settings)` makes active."""
    if "w" in settings:
        widths = [(0.65, 0.8, 1.0)[index] for index in settings["w"]]
        return space.config(resolution=resolution, depths=settings["d"], expands=settings["e"], widths=widths)
    names = {"depths": settings["d"], "kernels": settings["ks"], "expands": settings["e"]}
    return space.config(resolution=resolution, **names)


def activate_random(net: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Draw a subnet by the reference's own sampler (which uses the global `random`) and make it active."""
    state = random.getstate()
    random.seed(int(rng.integers(2**31)))
    try:
        settings: dict[str, Any] = net.sample_active_subnet()
    finally:
        random.setstate(state)
    return settings


@torch.no_grad()
def randomise(net: Any, seed: int = 0) -> Any:
    """Random weights, kernel transforms and batch norms, far from neutral values but with signals that survive.

    With identity transforms or unit statistics no test could tell a transposed or forgotten tensor; with arbitrary
    statistics the output would not depend on the image. So the statistics are those of the largest and some random
    subnets, then disturbed.
    """
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    for name, tensor in net.named_parameters():
        if tensor.ndim == 1:
            tensor.copy_(0.1 * draw(tensor) if name.endswith("bias") else torch.exp(0.2 * draw(tensor)))
        elif name.endswith("_matrix"):  # keeps the filter's energy
            side = tensor.shape[0] ** 0.5
            tensor.copy_(draw(tensor) * (side + 2) / side**2)
        else:
            tensor.copy_(draw(tensor) * (2 / tensor[0].numel()) ** 0.5)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    images = smooth_images(4, 128, seed)
    net.train()
    for step in range(5):
        for norm in norms:
            norm.momentum = 0.4 if step else 1.0
        if step:
            activate_random(net, rng)
        net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.running_mean.add_(0.1 * norm.running_var.sqrt() * draw(norm.running_mean))
        norm.running_var.mul_(torch.exp(0.1 + 0.2 * draw(norm.running_var)))
    net.set_max_net()
    return net.eval()


_ELASTIC = {  # our name inside a block -> the reference's
    "expand.conv.": "inverted_bottleneck.conv.conv.",
    "expand.bn.": "inverted_bottleneck.bn.bn.",
    "depthwise.conv.": "depth_conv.conv.conv.",
    "depthwise.transforms.": "depth_conv.conv.",
    "depthwise.bn.": "depth_conv.bn.bn.",
    "squeeze_excite.": "depth_conv.se.fc.",
    "project.conv.": "point_linear.conv.conv.",
    "project.bn.": "point_linear.bn.bn.",
}


def in_their_names(net: Supernet) -> dict[str, Tensor]:
    """A MobileNetV3 supernet's state dict as the reference would name it."""
    outer = {"stem": "first_conv", "final_expand": "final_expand_layer", "feature_mix": "feature_mix_layer"}
    blocks = [name for name in net.layers if "block" in name]
    result = {}
    for key, tensor in net.state_dict().items():
        _, site, inner = key.split(".", 2)
        if site in blocks:
            ours, theirs = next((a, b) for a, b in _ELASTIC.items() if inner.startswith(a))
            inner = theirs + inner.removeprefix(ours) + ("_matrix" if "transforms" in inner else "")
            if site == "first_block":  # not elastic: names are not doubled
                inner = inner.replace("bn.bn", "bn").replace("conv.conv.weight", "conv.weight")
            site = f"blocks.{blocks.index(site)}.conv"
        elif site == "classifier":
            site = "classifier.linear"
            inner = inner.removeprefix("linear.")
        result[f"{outer.get(site, site)}.{inner}"] = tensor.clone()
    return result
