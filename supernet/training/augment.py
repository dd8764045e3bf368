"""Random changes to training images that keep their label, a whole batch at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes an image: an affine map (mirror, rotation, scale, shift), then colours.

    Attributes:
        flip: mirror left to right with probability 1/2.
        shift: greatest shift in each direction, as a share of the side.
        scale: greatest relative change of size.
        rotate_degrees: greatest rotation.
        brightness: greatest relative change of all values.
        saturation: greatest relative change of the distance from grey.
    """

    flip: bool = False
    shift: float = 0.0
    scale: float = 0.0
    rotate_degrees: float = 0.0
    brightness: float = 0.0
    saturation: float = 0.0

    def __call__(self, images: Tensor, generator: torch.Generator, share: tuple[int, int] = (0, 1)) -> Tensor:
        """Change each image in its own way, on the device that holds the batch.

        Args:
            images: uint8 (n, 3, s, s).
            generator: source of randomness (on the CPU).
            share: (i, k) where the images are the i-th of k equal parts of a batch; all parts' generators start alike,
                and an image is changed as if the batch were whole.

        Returns:
            float32 (n, 3, s, s) on the scale [0, 1]; what comes in from outside of the image is 0.
        """
        x = images.float().div_(255)  # a new tensor, images being uint8
        if self.flip or self.shift or self.scale or self.rotate_degrees:
            x = self._mapped(x, _draws(len(x), 5, generator, share))
        if self.brightness or self.saturation:
            x = self._coloured(x, _draws(len(x), 2, generator, share))
        return x

    def _mapped(self, x: Tensor, draws: Tensor) -> Tensor:
        n = len(x)
        angle = draws[:, 0] * (self.rotate_degrees * math.pi / 180)
        scale = 1 + draws[:, 1] * self.scale
        mirror = torch.where(draws[:, 2] < 0, -1.0, 1.0) if self.flip else torch.ones(n)
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        shift = draws[:, 3:] * (2 * self.shift)  # the grid's unit is half a side
        maps = torch.stack(
            [torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)], 1
        )
        grid = F.affine_grid(maps.to(x.device), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def _coloured(self, x: Tensor, draws: Tensor) -> Tensor:
        """Brightness, then saturation, each cut off at 0 and 1 (the reference draws their order too); overwrites x."""
        column = draws.view(len(x), 2, 1, 1, 1)
        brightness = (1 + column[:, 0] * self.brightness).clamp(min=0).to(x.device)
        saturation = (1 + column[:, 1] * self.saturation).clamp(min=0).to(x.device)
        x = x.mul_(brightness).clamp_(max=1)
        red, green, blue = x.unbind(1)
        grey = (LUMA[0] * red + LUMA[1] * green).add_(blue, alpha=LUMA[2]).unsqueeze(1)
        return torch.lerp(grey, x, saturation).clamp_(0, 1)


def _draws(images: int, numbers: int, generator: torch.Generator, share: tuple[int, int]) -> Tensor:
    """(images, numbers) uniform on [-1, 1): the rows of one share of a batch."""
    part, parts = share
    whole = torch.rand((images * parts, numbers), generator=generator) * 2 - 1
    return whole[images * part : images * (part + 1)]
