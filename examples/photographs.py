"""Real photographs that come with scikit-learn: patches of one to train on, the other to test on."""

from __future__ import annotations

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor


def photographs() -> tuple[Tensor, Tensor]:
    """A temple to train on and a flower to test on; float32 (3, 424, 640) on the scale [0, 1] each."""
    first, second = load_sample_images().images
    return _tensor(first), _tensor(second)


def patches(photograph: Tensor, side: int, count: int, seed: int) -> Tensor:
    """Random patches, mirrored half of the time; (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(photograph.shape[1] - side + 1, (count,), generator=generator).tolist()
    columns = torch.randint(photograph.shape[2] - side + 1, (count,), generator=generator).tolist()
    cut = torch.stack([photograph[:, r : r + side, c : c + side] for r, c in zip(rows, columns, strict=True)])
    mirrored = torch.rand(count, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], cut.flip(3), cut)


def psnr(found: Tensor, expected: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, values clipped to [0, 1]."""
    return float(-10 * (found.clamp(0, 1) - expected).square().mean().log10())


def _tensor(photograph: object) -> Tensor:
    image = torch.tensor(photograph)[:424].permute(2, 0, 1).float() / 255
    return image.contiguous()
