"""Train a classifier and prune it on the way: the loop of `onceforall prune oto`, for those without one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

from pruning.dhspg import DHSPG
from pruning.group_sparse import GroupSparseOptimizer
from pruning.groups import ZeroInvariantGroups
from pruning.hesso import HESSO
from pruning.targets import Latencies, Target
from supernet.errors import CheckpointError, ConfigError, DataError, one_of
from supernet.files import atomic_path, require_writable
from supernet.images import Normalisation, prepare
from supernet.training.data import TrainingData

METHODS: dict[str, type[DHSPG] | type[HESSO]] = {"dhspg": DHSPG, "hesso": HESSO}
RATES = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}
"""Optimisers, and their usual highest learning rates."""
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class PruningSettings:
    """All that decides the weights besides the model and its images.

    Attributes:
        target: text of a `Target`.
        method: one of `METHODS`.
        optimizer: one of `RATES`.
        epochs: in all; nothing is trained afterwards.
        learning_rate: the highest; reached after half an epoch, then falling along a cosine to zero.
        weight_decay: of all parameters.
        batch_size: images a step.
        start_share: share of all steps before units are chosen.
        pruning_share: share of all steps from then until the target is met.
        divisible: a layer that loses units keeps a multiple of it.
        min_share: least share of a layer's units that stays.
        score: what makes a unit redundant.
        seed: decides order and augmentation.

    Raises:
        ConfigError: all that is out of range.
    """

    target: str = "macs=50%"
    method: str = "dhspg"
    optimizer: str = "sgd"
    epochs: int = 20
    learning_rate: float = RATES["sgd"]
    weight_decay: float = 5e-4
    batch_size: int = 64
    start_share: float = 0.125
    pruning_share: float = 0.375
    divisible: int = 1
    min_share: float = 0.1
    score: str = "oto"
    seed: int = 0

    def __post_init__(self) -> None:
        faults = []
        if self.method not in METHODS:
            faults.append(one_of("method", self.method, list(METHODS)))
        if self.optimizer not in RATES:
            faults.append(one_of("optimizer", self.optimizer, list(RATES)))
        for name, least in (("epochs", 1), ("batch_size", 2), ("seed", 0)):
            if getattr(self, name) < least:
                faults.append(f"{name} is {getattr(self, name)}; allowed: at least {least}")
        if not 0 < self.learning_rate < math.inf:
            faults.append(f"learning_rate is {self.learning_rate}; allowed: a number above 0")
        if not 0 <= self.weight_decay < math.inf:
            faults.append(f"weight_decay is {self.weight_decay}; allowed: a number from 0")
        if not (self.start_share >= 0 and self.pruning_share > 0 and self.start_share + self.pruning_share <= 1):
            faults.append(
                f"start_share {self.start_share} and pruning_share {self.pruning_share}; allowed: from 0 and above 0, "
                "together at most 1, all steps"
            )
        if faults:
            raise ConfigError(f"pruning: {'; '.join(faults)}")
        Target.parse(self.target)

    def steps(self, images: int) -> tuple[int, int, int]:
        """Steps an epoch, before pruning, and of pruning, for so many training images."""
        an_epoch = images // self.batch_size
        total = an_epoch * self.epochs
        start = min(round(self.start_share * total), total - 1)
        return an_epoch, start, max(1, min(round(self.pruning_share * total), total - start))


Progress = Callable[[int, int, float], None]
"""Called after every step: steps done, steps in all, loss."""


def train_and_prune(
    groups: ZeroInvariantGroups,
    images: TrainingData,
    settings: PruningSettings,
    *,
    resolution: int,
    normalisation: Normalisation,
    device: str = "cpu",
    latencies: Latencies | None = None,
    state: Path | None = None,
    progress: Progress = lambda done, total, loss: None,
) -> GroupSparseOptimizer:
    """Train the groups' model from where it is, and prune it to the target.

    Args:
        groups: of the model, which is trained in place.
        images: what it is trained on.
        settings: how.
        resolution: side of its input, pixels.
        normalisation: of its input.
        device: where to train.
        latencies: for a target that limits one.
        state: file that keeps the state after every epoch; if it is there, training goes on from it, to the same
            weights as without the interruption.
        progress: told of every step.

    Returns:
        The optimiser, whose target is met.

    Raises:
        ConfigError: fewer training images than a batch.
        DataError: the loss is not finite any more; `state` is as the epoch before left it.
        InfeasibleBudgetError: the target is out of reach.
        CheckpointError: `state` is of another model or of other settings.
        StorageError: `state` cannot be written.
    """
    net = groups.model.to(device)
    an_epoch, start, pruning = settings.steps(images.train_count)
    if an_epoch < 1:
        raise ConfigError(
            f"{images.train_count} training images, fewer than a batch of {settings.batch_size}; choose a smaller batch"
        )
    optimizer = METHODS[settings.method](
        _base(net, settings),
        groups,
        target=settings.target,
        start_pruning_step=start,
        pruning_steps=pruning,
        divisible=settings.divisible,
        min_share=settings.min_share,
        score=settings.score,
        latencies=latencies,
    )
    total, warm_up = an_epoch * settings.epochs, max(1, an_epoch // 2)
    if state is not None:
        require_writable(state)
        if state.exists():
            _restore(state, net, optimizer, settings)
    for epoch in range(optimizer.steps // an_epoch, settings.epochs):
        net.train()
        generator = torch.Generator().manual_seed(settings.seed * 100_003 + epoch)
        order = torch.randperm(images.train_count, generator=generator)[: an_epoch * settings.batch_size]
        seed = (settings.seed, 0, epoch)
        for pixels, labels in images.train_batches(torch.split(order, settings.batch_size), seed):
            share = (1 + math.cos(math.pi * optimizer.steps / total)) / 2
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * share * min((optimizer.steps + 1) / warm_up, 1)
            changed = images.augmentation(pixels.to(device), generator)
            loss = F.cross_entropy(net(prepare(changed, resolution, normalisation)), labels.to(device))
            value = require_finite(loss, optimizer, f"step {optimizer.steps + 1} of {total}")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress(optimizer.steps, total, value)
        if state is not None:
            _keep(state, net, optimizer, settings)
    net.eval()
    return optimizer


def require_finite(loss: Tensor, optimizer: Optimizer, where: str) -> float:
    """The loss as a number.

    Args:
        loss: of a step, before it is taken.
        optimizer: that takes it.
        where: the step's name in an error.

    Raises:
        DataError: it is not finite.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DataError(
            f"the loss became {value} in {where}, at a learning rate of {optimizer.param_groups[0]['lr']:g}; train "
            "with a smaller one"
        )
    return value


def require_reachable(
    groups: ZeroInvariantGroups, settings: PruningSettings, *, latencies: Latencies | None = None
) -> None:
    """See whether the target can be met, without training.

    Args:
        groups: of the model.
        settings: how it would be trained.
        latencies: for a target that limits one.

    Raises:
        InfeasibleBudgetError: the target is out of reach.
    """
    METHODS[settings.method](
        _base(groups.model, settings),
        groups,
        target=settings.target,
        start_pruning_step=0,
        pruning_steps=1,
        divisible=settings.divisible,
        min_share=settings.min_share,
        latencies=latencies,
    )


@torch.inference_mode()
def predictions(
    net: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    resolution: int,
    normalisation: Normalisation,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor]:
    """The network's answers and the right ones, int64 (n) each.

    Args:
        net: in evaluation mode.
        batches: images and labels, as `TrainingData.test_batches` gives them.
        resolution: side of its input, pixels.
        normalisation: of its input.
        device: where it is.
    """
    found, right = [], []
    for pixels, labels in batches:
        found.append(net(prepare(pixels.to(device), resolution, normalisation)).argmax(1).cpu())
        right.append(labels)
    return torch.cat(found), torch.cat(right)


def _base(net: nn.Module, settings: PruningSettings) -> Optimizer:
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return SGD(trained, lr=rate, momentum=0.9, weight_decay=decay)
    return (Adam if settings.optimizer == "adam" else AdamW)(trained, lr=rate, weight_decay=decay)


def _keep(state: Path, net: nn.Module, optimizer: GroupSparseOptimizer, settings: PruningSettings) -> None:
    whole = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "settings": asdict(settings)}
    with atomic_path(state) as temporary, temporary.open("wb") as file:
        torch.save(whole, file)


def _restore(state: Path, net: nn.Module, optimizer: GroupSparseOptimizer, settings: PruningSettings) -> None:
    try:
        saved: dict[str, Any] = torch.load(state, weights_only=True, map_location="cpu")
        differing = [
            f"{name} {value!r} (here {asdict(settings)[name]!r})"
            for name, value in saved["settings"].items()
            if asdict(settings).get(name) != value
        ]
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise CheckpointError(f"{str(state)!r} is no state of a pruning that can be gone on with: {error}") from None
    if differing:
        raise CheckpointError(
            f"{str(state)!r} was begun with {'; '.join(differing)}; go on with the same settings, or start "
            "anew in another folder"
        )
    try:
        net.load_state_dict(saved["net"])
    except RuntimeError as error:
        raise CheckpointError(f"{str(state)!r} is of another model: {' '.join(str(error).split())[:200]}") from None
    optimizer.load_state_dict(saved["optimizer"])
