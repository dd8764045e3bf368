"""Two photographs that come with scikit-learn, a temple and a flower: left parts to train on, right parts to test."""

from __future__ import annotations

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

_SIDE = 424
"""Height, and width of the left part; a multiple of 8."""


def photographs() -> tuple[Tensor, Tensor]:
    """Left parts (2, 3, 424, 424) and right parts (2, 3, 424, 216); float32 on the scale [0, 1]."""
    both = torch.stack([torch.tensor(image) for image in load_sample_images().images])
    whole = both[:, :_SIDE].permute(0, 3, 1, 2).float() / 255
    return whole[..., :_SIDE].contiguous(), whole[..., _SIDE:].contiguous()


def patches(images: Tensor, side: int, count: int, seed: int) -> Tensor:
    """Random patches of images (n, 3, h, w), mirrored half of the time; (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    numbers, rows, columns = (
        torch.randint(high, (count,), generator=generator).tolist()
        for high in (len(images), images.shape[2] - side + 1, images.shape[3] - side + 1)
    )
    places = zip(numbers, rows, columns, strict=True)
    cut = torch.stack([images[number, :, row : row + side, column : column + side] for number, row, column in places])
    mirrored = torch.rand(count, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], cut.flip(3), cut)


def psnr(found: Tensor, expected: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all images together, values clipped to [0, 1]."""
    return float(-10 * (found.clamp(0, 1) - expected).square().mean().log10())
