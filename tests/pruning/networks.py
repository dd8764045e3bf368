"""Networks of the pruning tests and benchmark that no library has in this size: U-Net, CARN, a deep ResNet, ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import get_space
from supernet.network import Subnet


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015): an encoder, and a decoder that reads the encoder's maps by concatenation.

    Args:
        widths: channels by depth.
        classes: channels of the output.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128), classes: int = 2) -> None:
        super().__init__()
        inputs = (3, *widths[:-1])
        self.down = nn.ModuleList(_double(a, b) for a, b in zip(inputs, widths, strict=True))
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(_double(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) -> scores (n, classes, h, w)."""
        kept = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for grow, block, skip in zip(self.grow, self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([skip, grow(x)], 1))
        return self.head(x)


class _CascadeUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(F.relu(self.one(x))) + x)


class _Cascade(nn.Module):
    """Each part reads all earlier ones through a 1x1 convolution."""

    def __init__(self, width: int, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.joins = nn.ModuleList(nn.Conv2d(width * (2 + i), width, 1) for i in range(len(parts)))

    def forward(self, x: Tensor) -> Tensor:
        seen, last = x, x
        for part, join in zip(self.parts, self.joins, strict=True):
            seen = torch.cat([seen, part(last)], 1)
            last = F.relu(join(seen))
        return last


class Carn(nn.Module):
    """CARN (Ahn et al., 2018) at twice the resolution: cascades in cascades, then a pixel shuffle.

    Args:
        width: channels throughout.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.body = _Cascade(width, [_Cascade(width, [_CascadeUnit(width) for _ in range(3)]) for _ in range(3)])
        self.grow = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.leave = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) -> images (n, 3, 2 h, 2 w)."""
        return self.leave(F.pixel_shuffle(F.relu(self.grow(self.body(self.enter(x)))), 2))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm_one, self.norm_two = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm_two(self.two(F.relu(self.norm_one(self.one(x))))))


class DeepResNet(nn.Module):
    """Residual blocks of two convolutions, as many as it takes.

    Args:
        layers: number of convolutions, even.
        width: channels.
    """

    def __init__(self, layers: int, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(layers // 2)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) -> scores (n, 10)."""
        return self.head(self.blocks(self.enter(x)).mean((2, 3)))


def tiny_subnet() -> Subnet:
    """The largest subnet of our smallest space."""
    space = get_space("mobilenet_v3_tiny")
    return Subnet(space, space.largest())
