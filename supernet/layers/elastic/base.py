"""What all elastic layers share: their interface, bare weights, the order of channels by importance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from supernet.arch import LayerSpec

State = dict[str, Tensor]


class ElasticLayer(nn.Module):
    """A place in the supernet whose shape is chosen at every call."""

    def forward(self, x: Tensor, spec: LayerSpec) -> Tensor:
        """Compute the layer that `spec` describes, with this layer's weights.

        Args:
            x: (N, spec.in_channels, H, W); H and W need not equal `spec.in_size`.
            spec: the active shape.

        Returns:
            (N, spec.out_channels, H', W').
        """
        raise NotImplementedError

    def weights_of(self, spec: LayerSpec) -> State:
        """The state dict of `build_layer(spec)` that computes the same; views, not copies, where possible."""
        raise NotImplementedError

    def sort_channels(self, trained: Sequence[int]) -> None:
        """Order the elastic channels by importance; nothing to do where no channel is elastic.

        Args:
            trained: widths whose leading channels have been trained as a set and must stay that set.
        """


class Weight(nn.Module):
    """A weight (and bias) under the names that nn.Conv2d and nn.Linear give them; left unset at construction."""

    def __init__(self, *shape: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None


def reset_weights(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw all weights: He's normal with fan-out for convolutions, N(0, 0.01) for linear; biases 0.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 14.
    """
    for part in module.modules():
        if isinstance(part, Weight):
            out, spatial = part.weight.shape[0], part.weight.shape[2:].numel()
            depthwise = part.weight.ndim == 4 and part.weight.shape[1] == 1
            std = (2 / (spatial * (1 if depthwise else out))) ** 0.5 if part.weight.ndim == 4 else 0.01
            with torch.no_grad():
                part.weight.normal_(0.0, std, generator=generator)
                if part.bias is not None:
                    part.bias.zero_()


def order_by_importance(importance: Tensor, trained: Sequence[int]) -> Tensor:
    """Indices by falling importance, within the segments that the widths in `trained` bound."""
    bounds = sorted({0, len(importance), *trained})
    parts = [
        start + torch.argsort(importance[start:stop], descending=True, stable=True) for start, stop in pairwise(bounds)
    ]
    return torch.cat(parts)


def present(bias: nn.Parameter | None) -> nn.Parameter:
    """A bias that the layer is known to have."""
    assert bias is not None
    return bias
