"""Networks that the benchmarks of OTO share."""

from __future__ import annotations

import torch
from torch import nn

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def vgg16_bn(width: float = 0.25, *, classes: int = 10, seed: int = 0) -> nn.Sequential:
    """VGG16 with batch norm for images of 32x32, its channels times `width`, with one linear layer."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    channels = 3
    for item in VGG16:
        if isinstance(item, str):
            layers.append(nn.MaxPool2d(2))
        else:
            out = int(item * width)
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, classes))
