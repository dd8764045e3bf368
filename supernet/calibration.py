"""Batch norm statistics of an extracted subnet, estimated anew from a few training images.

The supernet's running statistics mix all subnets and fit none (Yu and Huang, "Universally Slimmable Networks",
ICCV 2019, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from supernet.errors import ConfigError


@torch.no_grad()
def calibrate(subnet: nn.Module, image_batches: Iterable[Tensor], *, pooled: bool = True) -> None:
    """Set every batch norm's mean and variance to those of the given images, in one forward pass a batch.

    While the images pass, each batch is normalised by its own statistics, as in training.

    Args:
        subnet: the network; changed in place and left in the mode (training or evaluation) that it had.
        image_batches: float tensors (n, 3, H, W), normalised as in training, at the subnet's resolution.
        pooled: whether the variance covers all images together, the spread between batches included (so that it
            does not depend on how images fall into batches). False: the mean of the batches' variances, as MIT's
            reference has it.

    Raises:
        ConfigError: no batch at all, or a batch norm that sees a single value a channel.
    """
    norms = [module for module in subnet.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    trained_batches = [norm.num_batches_tracked for norm in norms]
    was_training = subnet.training
    moments = [_Moments() for _ in norms]
    counts = [0 for _ in norms]

    def count(index: int, inputs: tuple[Tensor, ...]) -> None:
        counts[index] = inputs[0].numel() // inputs[0].shape[1]

    hooks = [norm.register_forward_pre_hook(lambda _, x, i=i: count(i, x)) for i, norm in enumerate(norms)]
    batches = 0
    try:
        subnet.eval()
        for norm in norms:
            norm.train()
            norm.num_batches_tracked = None  # counts training batches, which these are not
            norm.momentum = 1.0  # after a batch, the running statistics are that batch's own
        for images in image_batches:
            batches += 1
            try:
                subnet(images)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise ConfigError(
                    f"calibration with a batch of {len(images)} image(s) leaves a batch norm one value a channel; "
                    "use batches of at least 2 images"
                ) from None
            for norm, moment, n in zip(norms, moments, counts, strict=True):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                moment.add(norm.running_mean, norm.running_var, n, pooled=pooled)
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum, trained in zip(norms, momenta, trained_batches, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = trained
        subnet.train(was_training)
    if not batches:
        raise ConfigError("calibration got no images; give at least one batch")
    for norm, moment in zip(norms, moments, strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(moment.mean)
        norm.running_var.copy_(moment.variance())


class _Moments:
    """Mean and variance of one batch norm's input over batches, in float64 (Chan's parallel update)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: Tensor = torch.zeros(())
        self.within: Tensor = torch.zeros(())  # sum over batches of n * variance inside the batch
        self.between: Tensor = torch.zeros(())  # sum of n * squared distance of batch means

    def add(self, mean: Tensor, variance: Tensor, n: int, *, pooled: bool) -> None:
        """Take in one batch of n values a channel; `variance` is torch's, with n - 1 below."""
        mean, variance = mean.double(), variance.double()
        if not self.n:
            self.mean, self.within, self.between = mean, torch.zeros_like(mean), torch.zeros_like(mean)
        total = self.n + n
        delta = mean - self.mean
        if pooled:
            self.within = self.within + variance * (n - 1)
            self.between = self.between + delta.square() * (self.n * n / total)
        else:
            self.within = self.within + variance * n
        self.mean = self.mean + delta * (n / total)
        self.n = total
        self.pooled = pooled

    def variance(self) -> Tensor:
        """(channels,) unbiased where pooled, as torch's running variance is."""
        return (self.within + self.between) / (self.n - 1 if self.pooled else self.n)
