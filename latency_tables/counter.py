"""Multiply-adds counted on a real network while it runs: the independent check of `macs`, which reads descriptions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def counted_macs(network: nn.Module, resolution: int) -> int:
    """Multiply-adds of convolutions and linear layers in one image's forward pass.

    Args:
        network: takes images (n, 3, resolution, resolution); run in evaluation mode, then put back into its own.
        resolution: side of the image, pixels.
    """
    total = 0

    def count(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules()]
    was_training = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, resolution, resolution))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return total
