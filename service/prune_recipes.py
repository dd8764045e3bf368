"""Pruning a network on one of our data sets by Only Train Once or AutoCompress: what commands and jobs do alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning import (
    CompressionSettings,
    ImageLoop,
    Plan,
    UnitLatencies,
    ZeroInvariantGroups,
    auto_compress,
    construct_subnet,
    save_compact,
)
from pruning.autocompress import Progress
from pruning.targets import Target
from pruning.training import EVALUATION_BATCH, PruningSettings, predictions, train_and_prune
from supernet.evaluation import standard_error
from supernet.files import sha256_file, write_json
from supernet.images import Normalisation
from supernet.tensors import save_tensors
from supernet.training.data import ImageData, StreamedFolder

CARD, MASKS = "card.json", "masks.safetensors"


@dataclass(frozen=True)
class Workpiece:
    """A network, and the images that train and judge it.

    Attributes:
        name: what it is, for the card.
        net: with as many outputs as there are classes.
        images: the data set.
        resolution: side of the input, pixels.
        normalisation: of the input.
    """

    name: str
    net: nn.Module
    images: ImageData | StreamedFolder
    resolution: int
    normalisation: Normalisation

    @cached_property
    def example(self) -> Tensor:
        """Two images of noise, float32 (2, 3, resolution, resolution)."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(2, 3, self.resolution, self.resolution, generator=generator)

    def answers(self, net: nn.Module, part: str) -> tuple[Tensor, Tensor]:
        """A network's answers and the right ones on the part "test" or "holdout", int64 (n) each; none in no images."""
        if part == "test" and not self.images.test_count:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        batches_of = self.images.test_batches if part == "test" else self.images.holdout_batches
        return predictions(
            net, batches_of(EVALUATION_BATCH), resolution=self.resolution, normalisation=self.normalisation
        )

    def describe(self) -> dict[str, Any]:
        """The network's input and outputs, and the data, as plain JSON."""
        return {
            "model": self.name,
            "resolution": self.resolution,
            "num_classes": len(self.images.class_names),
            "class_names": list(self.images.class_names),
            "mean": list(self.normalisation.mean),
            "std": list(self.normalisation.std),
            "data": {"name": self.images.name, "digest": self.images.digest},
        }


@dataclass(frozen=True)
class Pruned:
    """What came out.

    Attributes:
        model: the compact network, in evaluation mode.
        plan: how it was cut; None: the target was met already, and nothing was.
        masks: of AutoCompress: which of its weights stay, where single columns or weights have gone.
        card: how it was made and what it is, as plain JSON.
    """

    model: nn.Module
    plan: Plan | None
    masks: dict[str, Tensor]
    card: dict[str, Any]


def train_and_cut(
    piece: Workpiece,
    settings: PruningSettings,
    *,
    state: Path,
    device: str = "cpu",
    keep: Sequence[str] = (),
    table: UnitLatencies | None = None,
    progress: Callable[[int, int, float], None],
) -> Pruned:
    """Only Train Once: train the network, prune it on the way, and cut out what has become zero.

    Args:
        piece: the network, which is trained in place.
        settings: how.
        state: file that keeps the state; see `train_and_prune`.
        device: where to train.
        keep: modules whose channels stay.
        table: for a target that limits a latency.
        progress: told of every step.

    Raises:
        ConfigError, InfeasibleBudgetError, ConstructionError, CheckpointError, StorageError: as `train_and_prune` and
            `construct_subnet`.
    """
    groups = ZeroInvariantGroups(piece.net, piece.example, keep=keep)
    steered = train_and_prune(
        groups,
        piece.images,
        settings,
        resolution=piece.resolution,
        normalisation=piece.normalisation,
        device=device,
        latencies={table.device: table.of(groups.sets)} if table else None,
        state=state,
        progress=progress,
    )
    net = piece.net.to("cpu").eval()
    compact, plan = construct_subnet(net, groups)

    def measured(part: str) -> dict[str, Any]:
        (ours, right), (full, _) = (piece.answers(of, part) for of in (compact, net))
        return judged(ours, right) | {"predictions_that_differ_from_the_pruned_networks": int((ours != full).sum())}

    card = {
        "format": 1,
        "method": "oto",
        **piece.describe(),
        "settings": asdict(settings),
        "target": str(steered.target),
        "met_by_step": steered.end_step,
        "steps": steered.steps,
        "costs": {name: cost for name, cost in steered.costs.items() if name != "units"},
        "dense": {"macs": plan.full_macs, "params": plan.full_params},
        "units": {"kept": sum(plan.units.values()), "of": len(groups)},
        "equality": {"largest_error": plan.error, "signal": plan.signal, "form": plan.form},
        "measured": {part: measured(part) for part in parts(piece)},
    }
    return Pruned(compact, plan, {}, card)


def compress(
    piece: Workpiece,
    settings: CompressionSettings,
    target: Target | str,
    *,
    folder: Path,
    device: str = "cpu",
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    keep: Sequence[str] = (),
    table: UnitLatencies | None = None,
    progress: Callable[[Progress], None],
) -> Pruned:
    """AutoCompress: prune the trained network in rounds.

    Args:
        piece: the network, which is left as it is.
        settings: how.
        target: what is to be met.
        folder: that keeps the state and every round's network; see `auto_compress`.
        device: where to train.
        batch_size: images a step.
        learning_rate: of every block's first step.
        weight_decay: of all parameters.
        keep: modules whose channels stay.
        table: for a target that limits a latency.
        progress: told after every quick evaluation and epoch.

    Raises:
        ConfigError, InfeasibleBudgetError, ConstructionError, CheckpointError, StorageError: as `auto_compress`.
    """
    found = auto_compress(
        copy.deepcopy(piece.net).to(device),
        ImageLoop(
            piece.images,
            resolution=piece.resolution,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            normalisation=piece.normalisation,
        ),
        target,
        example_inputs=piece.example,
        settings=settings,
        folder=folder,
        keep=keep,
        latencies={table.device: table} if table else None,
        progress=progress,
    )
    card = {"format": 1, "method": "auto-compress", **piece.describe(), **found.report.to_dict()}
    return Pruned(found.model.to("cpu"), found.plan, found.masks, card)


def save(folder: Path, pruned: Pruned, example: Tensor, formats: Sequence[str], card: dict[str, Any]) -> list[Path]:
    """Write a pruned network's files, the card last: it vouches for the others by their digests.

    Args:
        folder: is made where it does not exist.
        pruned: the network.
        example: two images.
        formats: programs to write; see `save_compact`.
        card: to write; its `sha256` is added here.

    Returns:
        The files besides the card.
    """
    files = []
    if pruned.plan is not None:
        files = save_compact(folder, pruned.model, pruned.plan, example, formats=formats)
        if pruned.masks:
            save_tensors(folder / MASKS, pruned.masks)
            files.append(folder / MASKS)
        card["sha256"] = {path.name: sha256_file(path) for path in files}
    write_json(folder / CARD, card)
    return files


def parts(piece: Workpiece) -> tuple[str, ...]:
    """Parts of the data that a network can be judged on."""
    return ("holdout", "test") if piece.images.test_count else ("holdout",)


def judged(ours: Tensor, right: Tensor) -> dict[str, Any]:
    """Right answers among all, as plain JSON."""
    correct, total = int((ours == right).sum()), len(right)
    return {
        "total": total,
        "correct": correct,
        "accuracy": correct / total,
        "standard_error": standard_error(correct / total, total),
    }
