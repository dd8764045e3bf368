"""Networks that the benchmarks of pruning share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

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


def small_image_resnet18(seed: int, width: int) -> nn.Module:
    """ResNet-18 with so many channels in its first stage (64: full width) and the stem for small images.

    That stem is a 3x3 convolution without pooling, as everybody has it on CIFAR-10.
    """

    class Narrow(ResNet):
        """The first width is an attribute that torchvision's constructor does not take."""

        def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> Any:
            if planes == 64:
                self.inplanes = width
            return super()._make_layer(block, planes * width // 64, blocks, stride, dilate)

    torch.manual_seed(seed)
    net = Narrow(BasicBlock, [2, 2, 2, 2], num_classes=10)
    net.conv1, net.bn1, net.maxpool = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.Identity()
    net.fc = nn.Linear(8 * width, 10)
    return net
