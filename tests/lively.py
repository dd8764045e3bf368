"""Networks whose every weight matters, for comparisons: fresh ones hardly depend on their input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from supernet import Subnet, get_space


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics as training leaves them: nothing is 0 or 1, and the signal keeps its size."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high, generator=generator)
    return network.eval()


def lively_subnet(space_name: str, seed: int, resolution: int | None = None) -> Subnet:
    space = get_space(space_name)
    config = space.sample(np.random.default_rng(seed))
    subnet = Subnet(space, config if resolution is None else replace(config, resolution=resolution))
    lively(subnet, seed)
    return subnet
