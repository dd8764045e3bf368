"""Small networks whose groups are written down by hand, with their costs; what the optimisers are tested on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning import Cost, Entries, Masks, UnitSet


def chain(*, side: int = 8, widths: tuple[int, ...] = (6, 8, 5), classes: int = 4, seed: int = 0) -> nn.Sequential:
    """Convolutions 3x3 with batch norm and ReLU one after the other, then a linear layer."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    channels = 3
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    net.side = torch.tensor(side)
    return net


@dataclass(frozen=True)
class ChainGroups:
    """The groups of `chain`: all channels of each convolution."""

    model: nn.Module
    sets: tuple[UnitSet, ...]
    widths: tuple[int, ...]
    pixels: int
    classes: int

    @classmethod
    def of(cls, net: nn.Sequential) -> ChainGroups:
        convs = [number for number, layer in enumerate(net) if isinstance(layer, nn.Conv2d)]
        sets = []
        for number, conv in enumerate(convs):
            units = net[conv].out_channels
            index = torch.arange(units)[:, None]
            reader = str(convs[number + 1] if number + 1 < len(convs) else len(net) - 1)
            names = (f"{conv}.weight", f"{conv}.bias", f"{conv + 1}.weight", f"{conv + 1}.bias")
            sets.append(
                UnitSet(
                    name=str(conv),
                    units=units,
                    variables=tuple(Entries(name, 0, index) for name in names),
                    consumers=(Entries(f"{reader}.weight", 1, index),),
                )
            )
        widths = tuple(unit_set.units for unit_set in sets)
        return cls(net, tuple(sets), widths, int(net.side) ** 2, net[-1].out_features)

    def count(self, kept: Masks) -> Cost:
        widths = [int(mask.sum()) for mask in kept]
        macs = params = 0
        for before, after in zip([3, *widths], widths, strict=False):
            macs += self.pixels * before * after * 9
            params += before * after * 9 + 3 * after
        return Cost(macs + widths[-1] * self.classes, params + (widths[-1] + 1) * self.classes)


def batch(seed: int = 0, *, side: int = 8, classes: int = 4, count: int = 16) -> tuple[Tensor, Tensor]:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, side, side, generator=generator)
    return images, torch.randint(classes, (count,), generator=generator)


def backward(net: nn.Module, seed: int) -> None:
    """Gradients of one batch's loss."""
    images, labels = batch(seed)
    net.zero_grad()
    nn.functional.cross_entropy(net(images), labels).backward()
