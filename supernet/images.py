"""Stored images (uint8) to network input (float), and the fixed images that travel with a trained run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from supernet.errors import CheckpointError
from supernet.tensors import load_tensors, save_tensors

CENTRE_SHARE = 0.875
"""Part of the shorter side that the centre crop of large photographs keeps, as in the reference (224 of 256)."""


def checked_share(share: object) -> float:
    """A stored part of the shorter side.

    Raises:
        CheckpointError: not a number above 0 and at most 1.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise CheckpointError(f"centre_share is {share!r}; expected a number above 0, at most 1")
    return float(share)


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of the training images, on the scale [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        values = (*self.mean, *self.std)
        if (len(self.mean), len(self.std)) != (3, 3) or not all(map(math.isfinite, values)) or min(self.std) <= 0:
            raise CheckpointError(
                f"normalisation mean {list(self.mean)}, std {list(self.std)}: expected three finite numbers each, "
                "std above 0"
            )

    @classmethod
    def of(cls, images: Tensor) -> Normalisation:
        """Mean and standard deviation of all pixels of uint8 images (n, 3, s, s); the deviation is at least 0.001."""
        counts = torch.stack(
            [torch.bincount(images[:, channel].reshape(-1), minlength=256) for channel in range(3)]
        ).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        weights = counts / counts.sum(1, keepdim=True)
        mean = (weights * values).sum(1)
        std = ((weights * (values - mean[:, None]).square()).sum(1)).sqrt().clamp(min=1e-3)
        return cls(_triple(mean), _triple(std))


def prepare(images: Tensor, resolution: int, normalisation: Normalisation) -> Tensor:
    """Resize and normalise a batch.

    Args:
        images: uint8 (n, 3, s, s), or float on the scale [0, 1].
        resolution: side of the result, pixels; reached by antialiased bilinear interpolation.
        normalisation: mean and standard deviation to remove.

    Returns:
        float32 (n, 3, resolution, resolution), channels last in memory, as the CPU kernels of training take them.
    """
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    if x.shape[-1] != resolution:
        x = F.interpolate(x, size=(resolution, resolution), mode="bilinear", antialias=True)
    mean = x.new_tensor(normalisation.mean).view(1, 3, 1, 1)
    std = x.new_tensor(normalisation.std).view(1, 3, 1, 1)
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class ImagePack:
    """The images that every evaluation of a run uses, so that subnets are compared on equal terms.

    Attributes:
        calibration_images: uint8 (n, 3, s, s), from the training part.
        holdout_images: uint8 (m, 3, s, s), from the training set but never trained on.
        holdout_labels: int64 (m,).
        normalisation: of the training part.
    """

    calibration_images: Tensor
    holdout_images: Tensor
    holdout_labels: Tensor
    normalisation: Normalisation

    def share(self, number: int, count: int) -> ImagePack:
        """The pack with every `count`-th held-out image, from `number` on; all calibration images."""
        return replace(
            self, holdout_images=self.holdout_images[number::count], holdout_labels=self.holdout_labels[number::count]
        )

    def save(self, path: Path) -> None:
        """Write the images to a safetensors file, atomically."""
        save_tensors(
            path,
            {
                "calibration_images": self.calibration_images,
                "holdout_images": self.holdout_images,
                "holdout_labels": self.holdout_labels,
            },
        )

    @classmethod
    def load(cls, path: Path, normalisation: Normalisation) -> ImagePack:
        """The inverse of `save`.

        Raises:
            CheckpointError: the file is absent, damaged, or holds something else.
        """
        tensors = load_tensors(path)
        kinds = {"calibration_images": torch.uint8, "holdout_images": torch.uint8, "holdout_labels": torch.int64}
        found = {name: tensor.dtype for name, tensor in tensors.items()}
        if found != kinds:
            raise CheckpointError(f"{str(path)!r} does not hold a run's images; expected {kinds}, found {found}")
        calibration, held_out, labels = (
            tensors["calibration_images"],
            tensors["holdout_images"],
            tensors["holdout_labels"],
        )
        shapes = [list(tensor.shape) for tensor in (calibration, held_out, labels)]
        square = all(len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3] > 0 for shape in shapes[:2])
        if not square or shapes[2] != [len(held_out)] or len(calibration) < 2 or not len(held_out) or labels.min() < 0:
            raise CheckpointError(
                f"{str(path)!r} holds images and labels of shapes {shapes}; expected (n, 3, s, s) twice and (m,), "
                "with at least 2 calibration images and 1 held-out image"
            )
        return cls(calibration, held_out, labels, normalisation)


def batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """Split into batches of `size`, the last one smaller but never of a single image where there are more."""
    count = len(images)
    if not count:
        return
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        yield images[start:stop]


def _triple(values: Tensor) -> tuple[float, float, float]:
    first, second, third = values.tolist()
    return first, second, third
