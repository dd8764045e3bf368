from __future__ import annotations

import pytest
import torch

from supernet.network import Supernet
from supernet.spaces import SearchSpace
from supernet.testing import randomise


@pytest.fixture
def net(tiny: SearchSpace) -> Supernet:
    """A supernet in evaluation mode, with nothing left at a neutral value."""
    net = Supernet(tiny, generator=torch.Generator().manual_seed(0))
    randomise(net, 1)
    return net.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(2))
