"""A stacked U-Net that removes noise from photographs, pruned while it trains.

Run: python -m examples.oto_unet --steps 800
Result: examples/results/unet.json

Two U-Nets one after the other (the second gets the image and what the first made of it) learn on patches of
two photographs' left parts with Gaussian noise of standard deviation 0.1, and are tested on the right parts.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.photographs import patches, photographs, psnr
from examples.training import dense_and_pruned

NOISE = 0.1


def pair(before: int, after: int) -> nn.Sequential:
    """Two convolutions with batch norm."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Three resolutions with skips."""

    def __init__(self, before: int, channels: int = 16) -> None:
        super().__init__()
        self.down1, self.down2 = pair(before, channels), pair(channels, 2 * channels)
        self.middle = pair(2 * channels, 4 * channels)
        self.raise2 = nn.ConvTranspose2d(4 * channels, 2 * channels, 2, stride=2)
        self.up2 = pair(4 * channels, 2 * channels)
        self.raise1 = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.up1 = pair(2 * channels, channels)
        self.exit = nn.Conv2d(channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A residual image (n, 3, h, w)."""
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        deep = self.raise2(self.middle(F.max_pool2d(second, 2)))
        up = self.raise1(self.up2(torch.cat((deep, second), 1)))
        return self.exit(self.up1(torch.cat((up, first), 1)))


class Stacked(nn.Module):
    """Two U-Nets, each correcting the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = UNet(3), UNet(6)

    def forward(self, x: Tensor) -> Tensor:
        """Images of the same shape."""
        once = x - self.first(x)
        return once - self.second(torch.cat((x, once), 1))


def make() -> nn.Module:
    """The untrained network."""
    torch.manual_seed(0)
    return Stacked()


def noisy(images: Tensor, seed: int) -> Tensor:
    """Images with noise."""
    return images + NOISE * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--target", default="macs=0.5")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, clean = photographs()
    test = noisy(clean, 10**6)

    def loss_of(net: nn.Module, step: int) -> Tensor:
        images = patches(train, 48, 8, step)
        return F.mse_loss(net(noisy(images, step)), images)

    def measure(net: nn.Module) -> float:
        with torch.inference_mode():
            return psnr(net(test), clean)

    print(f"noisy: {psnr(test, clean):.2f} dB")
    dense_and_pruned(
        "unet",
        make,
        torch.rand(2, 3, 48, 48),
        loss_of,
        measure,
        metric="psnr_db",
        steps=arguments.steps,
        target=arguments.target,
        rate=2e-3,
    )


if __name__ == "__main__":
    main()
