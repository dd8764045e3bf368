"""Accuracy of subnets: extract, calibrate on fixed images, count correct answers on other fixed images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supernet.arch import SubnetConfig
from supernet.calibration import calibrate
from supernet.images import ImagePack, Normalisation, batches, prepare
from supernet.network import Subnet, Supernet

BATCH_SIZE = 200
"""Images a batch in calibration and evaluation; the reference's calibration batch."""


@dataclass(frozen=True)
class MeasuredSubnet:
    """A calibrated subnet with its accuracy on the held-out images.

    Attributes:
        subnet: the network, calibrated, in evaluation mode.
        correct_before: correct answers with the supernet's running statistics; None: not measured.
        correct: correct answers after calibration.
        total: images.
        correct_by_half: the same among the held-out images of even and of odd number.
    """

    subnet: Subnet
    correct_before: int | None
    correct: int
    total: int
    correct_by_half: tuple[int, int]

    @property
    def config(self) -> SubnetConfig:
        """Which subnet."""
        return self.subnet.config

    @property
    def accuracy(self) -> float:
        """Share of correct answers after calibration, in [0, 1]."""
        return self.correct / self.total

    @property
    def accuracy_before_calibration(self) -> float | None:
        """Share of correct answers before calibration, in [0, 1]; None: not measured."""
        return None if self.correct_before is None else self.correct_before / self.total

    @property
    def standard_error(self) -> float:
        """Standard error of `accuracy` as an estimate for new images: binomial."""
        return standard_error(self.accuracy, self.total)


def standard_error(accuracy: float, images: int) -> float:
    """Binomial standard error of an accuracy measured on that many images."""
    return float((accuracy * (1 - accuracy) / images) ** 0.5)


def confidence_interval(correct: int, images: int) -> tuple[float, float]:
    """95 % confidence interval of an accuracy for new images: Wilson's, which is sound near 0 and 1 too."""
    z, share = 1.959964, correct / images
    centre = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * (share * (1 - share) / images + (z / (2 * images)) ** 2) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def count_correct(
    subnet: nn.Module, images: Tensor, labels: Tensor, resolution: int, normalisation: Normalisation
) -> int:
    """Number of images that the network classifies correctly; arguments as `find_correct`."""
    return int(find_correct(subnet, images, labels, resolution, normalisation).sum())


@torch.inference_mode()
def find_correct(
    subnet: nn.Module, images: Tensor, labels: Tensor, resolution: int, normalisation: Normalisation
) -> Tensor:
    """Which images the network classifies correctly, in fixed batches (so that it can be reproduced).

    Args:
        subnet: network in evaluation mode.
        images: uint8 (n, 3, s, s).
        labels: int64 (n,).
        resolution: side of the network's input, pixels.
        normalisation: of the network's training images.

    Returns:
        bool (n,), on the CPU.
    """
    correct = torch.empty(len(images), dtype=torch.bool)
    device, start = next((parameter.device for parameter in subnet.parameters()), torch.device("cpu")), 0
    for x, y in zip(batches(images, BATCH_SIZE), batches(labels, BATCH_SIZE), strict=True):
        logits = subnet(prepare(x.to(device), resolution, normalisation))
        correct[start : start + len(x)] = logits.argmax(1).cpu() == y
        start += len(x)
    return correct


def calibration_batches(pack: ImagePack, resolution: int, device: torch.device) -> Iterator[Tensor]:
    """The pack's calibration images as `calibrate` wants them."""
    for images in batches(pack.calibration_images, BATCH_SIZE):
        yield prepare(images.to(device), resolution, pack.normalisation)


def measure_subnet(
    supernet: Supernet, config: SubnetConfig, pack: ImagePack, *, before_calibration: bool = True
) -> MeasuredSubnet:
    """Extract a subnet, calibrate it, and count its correct answers on the held-out images.

    Args:
        supernet: trained weights; left as they are.
        config: which subnet.
        pack: calibration and held-out images.
        before_calibration: whether to count correct answers before calibration too.
    """
    subnet = supernet.extract(config)
    held_out = (pack.holdout_images, pack.holdout_labels, config.resolution, pack.normalisation)
    before = count_correct(subnet, *held_out) if before_calibration else None
    device = next(subnet.parameters()).device
    calibrate(subnet, calibration_batches(pack, config.resolution, device))
    correct = find_correct(subnet, *held_out)
    halves = int(correct[::2].sum()), int(correct[1::2].sum())
    return MeasuredSubnet(subnet, before, sum(halves), len(correct), halves)
