"""A short pruning of a small network on digits that can be broken off, on any device."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pruning.groups import ZeroInvariantGroups
from pruning.training import PruningSettings, train_and_prune
from supernet.training.data import ImageData
from tests.pruning.hand_built import chain

SETTINGS = PruningSettings(target="macs=0.6", epochs=8, batch_size=64)
SIZE = 16


class StopError(Exception):
    """Stands for a kill."""


def trained(
    images: ImageData,
    settings: PruningSettings,
    state: Path | None = None,
    stop_at: int = -1,
    device: str = "cpu",
) -> tuple[nn.Module, ZeroInvariantGroups]:
    """The network and its groups after the pruning; `StopError` after step `stop_at`."""
    net = chain(widths=(8, 12), classes=10)
    groups = ZeroInvariantGroups(net, torch.randn(2, 3, SIZE, SIZE))

    def stop(done: int, total: int, loss: float) -> None:
        if done == stop_at:
            raise StopError

    optimizer = train_and_prune(
        groups,
        images,
        settings,
        resolution=SIZE,
        normalisation=images.normalisation(),
        device=device,
        state=state,
        progress=stop,
    )
    assert optimizer.costs["macs"] <= 0.6 * groups.count().macs
    assert optimizer.steps == 8 * 4
    return net, groups
