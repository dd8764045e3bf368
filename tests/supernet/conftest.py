from __future__ import annotations

import pytest
import torch
from torch import nn

from supernet.layers.elastic import ElasticBatchNorm
from supernet.network import Supernet
from supernet.spaces import SearchSpace


def randomise(net: nn.Module, seed: int) -> None:
    """Random statistics, scales and transforms: nothing may rest on them being 0, 1 or the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, ElasticBatchNorm):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
        for name, parameter in net.named_parameters():
            if ".transforms." in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
            elif name.endswith(("reduce.bias", "expand.bias", "linear.bias")):
                parameter.normal_(0, 0.1, generator=generator)


@pytest.fixture
def net(tiny: SearchSpace) -> Supernet:
    """A supernet in evaluation mode, with nothing left at a neutral value."""
    net = Supernet(tiny, generator=torch.Generator().manual_seed(0))
    randomise(net, 1)
    return net.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(2))
