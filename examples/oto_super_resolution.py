"""Super-resolution x2 by CARN, pruned while it trains: PSNR beside the dense network's and bicubic interpolation's.

Run: python -m examples.oto_super_resolution --steps 1500
Result: examples/results/super_resolution.json

A small CARN (cascades of cascades of residual blocks, a sub-pixel convolution at the end; 32 channels) learns the
difference from bicubic interpolation, at first none, on patches of two photographs' left parts, and is tested on the
right parts.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.photographs import patches, photographs, psnr
from examples.training import dense_and_pruned


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        return F.relu(x + self.second(F.relu(self.first(x))))


class Cascade(nn.Module):
    """Units one after the other, each fed with the outputs of all before it."""

    def __init__(self, channels: int, units: list[nn.Module]) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.merges = nn.ModuleList(nn.Conv2d(channels * (i + 2), channels, 1) for i in range(len(units)))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        seen, out = [x], x
        for unit, merge in zip(self.units, self.merges, strict=True):
            seen.append(unit(out))
            out = F.relu(merge(torch.cat(seen, 1)))
        return out


class Carn(nn.Module):
    """CARN for x2."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, channels, 3, padding=1)
        self.body = Cascade(channels, [Cascade(channels, [Block(channels) for _ in range(3)]) for _ in range(3)])
        self.expand = nn.Conv2d(channels, channels * 4, 3, padding=1)
        self.exit = nn.Conv2d(channels, 3, 3, padding=1)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images of twice the side."""
        features = self.body(F.relu(self.entry(x)))
        detail = self.exit(F.pixel_shuffle(F.relu(self.expand(features)), 2))
        return detail + F.interpolate(x, scale_factor=2, mode="bicubic")


def make(seed: int = 0) -> nn.Module:
    """The untrained network."""
    torch.manual_seed(seed)
    return Carn()


def half(images: Tensor) -> Tensor:
    """Images of half the side."""
    return F.interpolate(images, scale_factor=0.5, mode="bicubic", antialias=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--target", default="macs=0.5")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, large = photographs()
    small = half(large)

    def loss_of(net: nn.Module, step: int) -> Tensor:
        images = patches(train, 48, 8, step)
        return F.l1_loss(net(half(images)), images)

    def measure(net: nn.Module) -> float:
        with torch.inference_mode():
            return psnr(net(small), large)

    bicubic = psnr(F.interpolate(small, scale_factor=2, mode="bicubic"), large)
    print(f"bicubic interpolation: {bicubic:.2f} dB")
    dense_and_pruned(
        "super_resolution",
        partial(make, 0),
        torch.rand(2, 3, 24, 24),
        loss_of,
        measure,
        metric="psnr_db",
        steps=arguments.steps,
        target=arguments.target,
        rate=1e-3,
    )


if __name__ == "__main__":
    main()
