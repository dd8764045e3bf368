"""Random changes to training images that keep their label, a whole batch at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """A random affine map an image: mirror, rotation, scale, shift.

    Attributes:
        flip: mirror left to right with probability 1/2.
        shift: greatest shift in each direction, as a share of the side.
        scale: greatest relative change of size.
        rotate_degrees: greatest rotation.
    """

    flip: bool = False
    shift: float = 0.0
    scale: float = 0.0
    rotate_degrees: float = 0.0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change each image by its own random map.

        Args:
            images: uint8 (n, 3, s, s).
            generator: source of randomness (on the CPU).

        Returns:
            float32 (n, 3, s, s) on the scale [0, 1]; what comes in from outside of the image is 0.
        """
        n = len(images)
        draws = torch.rand((n, 5), generator=generator) * 2 - 1
        angle = draws[:, 0] * (self.rotate_degrees * math.pi / 180)
        scale = 1 + draws[:, 1] * self.scale
        mirror = torch.where(draws[:, 2] < 0, -1.0, 1.0) if self.flip else torch.ones(n)
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        shift = draws[:, 3:] * (2 * self.shift)  # the grid's unit is half a side
        maps = torch.stack(
            [torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)], 1
        )
        x = images.float() / 255
        grid = F.affine_grid(maps.to(x.device), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
