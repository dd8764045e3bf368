"""Batch norm statistics of an extracted subnet, estimated anew from a few training images.

The supernet's running statistics mix all subnets and fit none (Yu and Huang, "Universally Slimmable Networks",
ICCV 2019, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import kernels
from supernet.arch import Activation
from supernet.errors import ConfigError
from supernet.layers.activations import activate, activation_name
from supernet.layers.batch_norm import normalise_by_own_statistics
from supernet.layers.fixed import ConvLayer


@torch.no_grad()
def calibrate(subnet: nn.Module, image_batches: Iterable[Tensor], *, pooled: bool = True) -> None:
    """Set every batch norm's mean and variance to those of the given images, in one forward pass a batch.

    While the images pass, each batch is normalised by its own statistics, as in training. On CPUs the batch norms
    run in our kernels, in place and with the activations behind them (for its time beside a plain forward pass see
    benchmarks/reference_speed.py).

    Args:
        subnet: the network; changed in place and left in the mode (training or evaluation) that it had.
        image_batches: float tensors (n, 3, H, W), normalised as in training, at the subnet's resolution.
        pooled: whether the variance covers all images together, the spread between batches included (so that it
            does not depend on how images fall into batches), unbiased. False: the mean of the batches' biased
            variances, as MIT's reference has it.

    Raises:
        ConfigError: no batch at all, a batch norm that sees a single value a channel, or statistics that are not
            finite; the batch norms are as they were then.
    """
    norms = [module for module in subnet.modules() if isinstance(module, nn.BatchNorm2d)]
    moments = {norm: _Moments(pooled=pooled) for norm in norms}
    was_training = subnet.training
    batches = 0
    try:
        subnet.eval()
        with _recording(subnet, moments):
            for images in image_batches:
                batches += 1
                subnet(images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images)
    finally:
        subnet.train(was_training)
    if not batches:
        raise ConfigError("calibration got no images; give at least one batch")
    for number, moment in enumerate(moments.values()):
        if moment.n and not bool((moment.mean.isfinite() & moment.variance().isfinite()).all()):
            raise ConfigError(
                f"batch norm {number} of {len(moments)} got values that are not finite; the images or the weights hold "
                "NaN or infinite numbers, or overflow on the way; check both"
            )
    for norm, moment in moments.items():
        if moment.n:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(moment.mean)
            norm.running_var.copy_(moment.variance())


@contextmanager
def _recording(subnet: nn.Module, moments: dict[nn.BatchNorm2d, _Moments]) -> Iterator[None]:
    """Let every batch norm normalise by its batch's statistics and keep them, while the context lasts."""
    layers = {part: layer for layer in subnet.modules() if isinstance(layer, ConvLayer) for part in layer}
    replaced: list[nn.Module] = []

    def replace_forward(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        module.forward = forward
        replaced.append(module)

    try:
        for norm, moment in moments.items():
            layer, activation = layers.get(norm), None
            if layer is not None and len(layer) == 3:  # convolution, batch norm, activation
                activation = layer[2]
                replace_forward(activation, lambda x: x)  # the batch norm does it
            name = "none" if activation is None else activation_name(activation)
            replace_forward(norm, _recorder(norm, moment, name, in_place=layer is not None))
        yield
    finally:
        for module in replaced:
            del module.forward


def _recorder(
    norm: nn.BatchNorm2d, moment: _Moments, activation: Activation, *, in_place: bool
) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[1]
        if rows < 2:
            raise ConfigError(
                f"calibration with a batch of {len(x)} image(s) leaves a batch norm one value a channel; "
                "use batches of at least 2 images"
            )
        if kernels.usable(x) and x.is_contiguous(memory_format=torch.channels_last):
            out = x if in_place else torch.empty_like(x)
            mean, variance, _ = normalise_by_own_statistics(
                x, norm.weight, norm.bias, eps=norm.eps, activation=activation, out=out
            )
        else:
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            out = activate(F.batch_norm(x, mean, variance, norm.weight, norm.bias, eps=norm.eps), activation)
        moment.add(mean, variance, rows)
        return out

    return forward


class _Moments:
    """Mean and variance of one batch norm's input over batches, in float64 (Chan's parallel update)."""

    def __init__(self, *, pooled: bool) -> None:
        self.pooled = pooled
        self.n = 0
        self.mean: Tensor = torch.zeros(())
        self.within: Tensor = torch.zeros(())  # sum over batches of n * variance inside the batch
        self.between: Tensor = torch.zeros(())  # sum of n * squared distance of batch means

    def add(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Take in one batch of n values a channel, with its biased variance."""
        mean, variance = mean.double(), variance.double()
        if not self.n:
            self.mean, self.within, self.between = mean, torch.zeros_like(mean), torch.zeros_like(mean)
        total = self.n + n
        delta = mean - self.mean
        self.within = self.within + variance * n
        self.between = self.between + delta.square() * (self.n * n / total)
        self.mean = self.mean + delta * (n / total)
        self.n = total

    def variance(self) -> Tensor:
        """(channels,): pooled, unbiased as torch's running variance is; else the batches' biased ones, averaged."""
        return (self.within + self.between) / (self.n - 1) if self.pooled else self.within / self.n
