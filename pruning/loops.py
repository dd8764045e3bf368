"""What AutoCompress needs of somebody's data: to train for an epoch, images to re-estimate batch norms, accuracy.

A loop of one's own is a function with one extra loss term and one call after every step:

    def train(model, epoch):
        optimizer = epoch.optimizer(lambda: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
        for images, labels in my_batches(seed=epoch.seed):
            loss = F.cross_entropy(model(images), labels) + epoch.penalty()
            optimizer.zero_grad(); loss.backward(); optimizer.step(); epoch.after_step()

All that is random should follow from `epoch.seed`; then a training that was killed goes on to the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Optimizer

from pruning.placement import device_of, inputs_on
from pruning.training import predictions, require_finite
from supernet.errors import ConfigError
from supernet.images import Normalisation, prepare
from supernet.images import batches as image_batches
from supernet.training.data import TrainingData

_EVALUATION_BATCH = 256


class Epoch:
    """One epoch of a block of epochs, as the training function sees it.

    Args:
        number: of the epoch within its block, from 0.
        of: epochs of the block.
        seed: for all that is random in this epoch.
        penalty: see `penalty`.
        after_step: see `after_step`.
        state: of the optimiser after the epoch before; None: the block begins.

    Attributes:
        number, of, seed: as given.
    """

    def __init__(
        self,
        number: int,
        of: int,
        seed: int,
        penalty: Callable[[], Tensor],
        after_step: Callable[[], None],
        state: dict[str, Any] | None = None,
    ) -> None:
        self.number, self.of, self.seed = number, of, seed
        self._penalty, self._after_step, self._state = penalty, after_step, state
        self.used: Optimizer | None = None
        self.steps = 0

    def optimizer(self, make: Callable[[], Optimizer]) -> Optimizer:
        """The block's optimiser: made anew when a block begins, so that its learning rate restarts; else as it was.

        Its learning rates fall along a cosine over the block, epoch by epoch; a loop that wants other ones sets them.
        """
        self.used = make()
        for group in self.used.param_groups:
            group.setdefault("block_lr", group["lr"])
        if self._state is not None:
            self.used.load_state_dict(self._state)
        self.progress(0.0)
        return self.used

    def progress(self, share: float) -> None:
        """Set the learning rates for this share of the epoch, 0 to 1; optional, for rates that fall step by step."""
        assert self.used is not None
        factor = (1 + math.cos(math.pi * (self.number + share) / self.of)) / 2
        for group in self.used.param_groups:
            group["lr"] = group["block_lr"] * factor

    def penalty(self) -> Tensor:
        """The loss to add: ADMM's pull towards the structure, or 0."""
        return self._penalty()

    def after_step(self) -> None:
        """To be called after every step: puts the zeros back that momentum and weight decay have revived."""
        self.steps += 1
        self._after_step()


class Loop(Protocol):
    """A way to train and to judge a model."""

    def train_epoch(self, model: nn.Module, epoch: Epoch) -> None:
        """Train for one epoch; the model is in training mode."""

    def calibration_batches(self) -> Iterable[Any]:
        """Inputs by which batch norms are re-estimated, always the same ones, on any device."""

    def accuracy(self, model: nn.Module) -> float:
        """Share of right answers on a fixed held-out part, 0 to 1; decides. The model is in evaluation mode."""

    def test_accuracy(self, model: nn.Module) -> float | None:
        """The same on the test part, which decides nothing; None: there is none."""


@dataclass(frozen=True)
class OwnLoop:
    """A `Loop` of functions.

    Attributes:
        train: trains for one epoch; see the module's description.
        holdout: accuracy on a fixed held-out part, 0 to 1.
        calibration: batches for batch norms; may be empty where there are none.
        test: accuracy on the test part; None: there is none.
    """

    train: Callable[[nn.Module, Epoch], None]
    holdout: Callable[[nn.Module], float]
    calibration: Sequence[Any] = ()
    test: Callable[[nn.Module], float] | None = None

    def train_epoch(self, model: nn.Module, epoch: Epoch) -> None:
        """By the function."""
        self.train(model, epoch)

    def calibration_batches(self) -> Iterable[Any]:
        """As given."""
        return self.calibration

    def accuracy(self, model: nn.Module) -> float:
        """By the function."""
        return self.holdout(model)

    def test_accuracy(self, model: nn.Module) -> float | None:
        """By the function."""
        return None if self.test is None else self.test(model)


@dataclass(frozen=True)
class ImageLoop:
    """A `Loop` over one of our data sets, on the device where the model is: cross-entropy, SGD with momentum 0.9.

    Attributes:
        data: the images.
        resolution: side of the model's input, pixels; None: that of the images.
        batch_size: images a step.
        learning_rate: of each block's first step.
        weight_decay: of all parameters.
        calibration_images: for batch norms, in batches of at most 256.
        normalisation: of the model's input; None: that of the images.
    """

    data: TrainingData
    resolution: int | None = None
    batch_size: int = 64
    learning_rate: float = 0.02
    weight_decay: float = 1e-4
    calibration_images: int = 512
    normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.batch_size <= self.data.train_count:
            raise ConfigError(
                f"{self.batch_size} images a batch for {self.data.train_count} training images; allowed: at least 2, "
                "and no more than there are"
            )

    @property
    def side(self) -> int:
        """Of the model's input, pixels."""
        return self.resolution or self.data.size

    @cached_property
    def _normalisation(self) -> Normalisation:
        return self.normalisation or self.data.normalisation()

    def train_epoch(self, model: nn.Module, epoch: Epoch) -> None:
        """Every image once, but for those that do not fill a batch; a loss that is not finite is a DataError."""
        optimizer = epoch.optimizer(
            lambda: SGD(model.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=self.weight_decay)
        )
        device = device_of(model)
        generator = torch.Generator().manual_seed(epoch.seed)
        steps = self.data.train_count // self.batch_size
        order = torch.randperm(self.data.train_count, generator=generator)[: steps * self.batch_size]
        batches = self.data.train_batches(torch.split(order, self.batch_size), (epoch.seed, 0, 0))
        for step, (pixels, labels) in enumerate(batches):
            epoch.progress(step / steps)
            changed = self.data.augmentation(pixels.to(device), generator)
            images = prepare(changed, self.side, self._normalisation)
            loss = F.cross_entropy(model(images), labels.to(device)) + epoch.penalty()
            require_finite(loss, optimizer, f"step {step + 1} of {steps} of an epoch")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            epoch.after_step()

    def calibration_batches(self) -> Iterator[Tensor]:
        """Fixed training images."""
        pack = self.data.image_pack(self.calibration_images)
        for pixels in image_batches(pack.calibration_images, _EVALUATION_BATCH):
            yield prepare(pixels, self.side, self._normalisation)

    def accuracy(self, model: nn.Module) -> float:
        """On the held-out part."""
        return self._share_right(model, self.data.holdout_batches(_EVALUATION_BATCH))

    def test_accuracy(self, model: nn.Module) -> float | None:
        """On the test part; None where it has no images."""
        if not self.data.test_count:
            return None
        return self._share_right(model, self.data.test_batches(_EVALUATION_BATCH))

    def _share_right(self, model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> float:
        ours, right = predictions(
            model, batches, resolution=self.side, normalisation=self._normalisation, device=device_of(model)
        )
        return int((ours == right).sum()) / len(right)


@torch.no_grad()
def reestimate_norms(model: nn.Module, batches: Iterable[Any]) -> None:
    """Set the running statistics of all batch norms, of any number of dimensions, to the averages over the batches.

    A batch is a tensor or a tuple of the positional arguments of the model's forward. Without a batch norm, or without
    a batch, nothing happens. (`supernet.calibrate` is the faster form for subnets; it knows two dimensions only.)
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    batches = list(batches)
    if not batches:
        return
    device = device_of(model)
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average
            norm.training = True
        for batch in batches:
            there = inputs_on(batch, device)
            model(*there) if isinstance(there, tuple | list) else model(there)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
