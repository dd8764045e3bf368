"""Moving average of the weights, which generalises better than the last step's (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential average of a network's parameters; buffers (batch norm statistics) are estimated anew anyway.

    In the first steps the decay is (1 + step) / (10 + step), so that the random start is soon forgotten.

    Args:
        net: whose parameters.
        decay: a step, in (0, 1).
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = dict(net.named_parameters())
        self._average = {name: parameter.detach().clone() for name, parameter in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = list(self._average.values())
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in self._live.values()], 1 - decay)

    @torch.no_grad()
    def write_back(self) -> None:
        """Give the network the averaged weights."""
        for name, parameter in self._live.items():
            parameter.copy_(self._average[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Averages by parameter name."""
        return dict(self._average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        for name, average in self._average.items():
            average.copy_(state[name])
