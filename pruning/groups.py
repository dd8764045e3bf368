"""`ZeroInvariantGroups`: what of a model can go so that the rest computes the same, found from the model alone."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruning import report
from pruning.costs import joined_masks
from pruning.partition import Partition, partition
from pruning.placement import device_of, inputs_on
from pruning.selftest import SelfTest, self_test
from pruning.trace import record
from pruning.units import Cost, Masks, UnitSet, all_kept, parameters_by_name, zero_units, zeroed_units
from supernet.errors import ConfigError


class ZeroInvariantGroups:
    """The zero-invariant groups (units) of a model.

    Args:
        model: any module; it is run once, in evaluation mode, and not changed.
        example_inputs: a tensor, or the positional arguments of its forward, on any device; the first axis counts
            examples.
        keep: names of modules or parameters whose output channels stay.

    Attributes:
        model: as given.
        example_inputs: as positional arguments, on the device where the model was.
        sets: units that are tied across the same layers.
        frozen: by name of a parameter whose rows stay, all or some of them, the reason.
        partition: what was found, for construction.

    Raises:
        ConfigError: the model does not run on the inputs, an unknown name in `keep`, or nothing can be pruned.
        CaptureError: the model's computation cannot be followed.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, keep: Sequence[str] = ()) -> None:
        self.model = model
        self.example_inputs: tuple[Any, ...] = inputs_on(as_arguments(example_inputs), device_of(model))
        names = _kept_parameters(model, keep)
        self.partition: Partition = partition(record(model, self.example_inputs), names)
        self.sets: tuple[UnitSet, ...] = self.partition.sets
        self.frozen: dict[str, str] = self.partition.frozen
        if not self.sets:
            listed = "; ".join(f"{name}: {reason}" for name, reason in list(self.frozen.items())[:5])
            raise ConfigError(
                f"no prunable group in {type(model).__name__}: {listed or 'it has no convolution or linear layer'}; "
                f"nothing can be removed from it without changing its output"
            )

    def __len__(self) -> int:
        return sum(group.units for group in self.sets)

    @property
    def prunable_share(self) -> float:
        """Share of the parameters that go with some unit, as its own or as columns that read it."""
        total = gone = 0.0
        axes: dict[str, dict[int, int]] = {}
        for group in self.sets:
            for entries in (*group.variables, *group.consumers):
                own = axes.setdefault(entries.name, {})
                own[entries.axis] = own.get(entries.axis, 0) + entries.index.numel()
        for name, tensor in self.model.named_parameters():
            stay = 1.0
            for axis, count in axes.get(name, {}).items():
                stay *= 1 - count / tensor.shape[axis]
            total += tensor.numel()
            gone += tensor.numel() * (1 - stay)
        return gone / total

    def zero(self, model: nn.Module, masks: Masks) -> None:
        """Set the masked units' variables to zero, in place, in this model or a copy of it."""
        zero_units(parameters_by_name(model), self.sets, masks)

    def zeroed(self, model: nn.Module) -> tuple[Tensor, ...]:
        """Which units are exactly zero: one bool tensor `(units,)` a set."""
        return zeroed_units(parameters_by_name(model), self.sets)

    def count(self, kept: Masks | None = None) -> Cost:
        """MACs of one example and parameters of the compact model that keeps these units; no model is built.

        One MAC is one multiply-add of a convolution, a linear layer, or a product of matrices such as attention's.

        Args:
            kept: True for units that stay, None: all of them.
        """
        return self.partition.costs.total(joined_masks(self.sets, kept if kept is not None else all_kept(self.sets)))

    def count_by_operator(self, kept: Masks | None = None) -> tuple[dict[str, int], dict[str, int]]:
        """`count` by operator and by parameter."""
        table = self.partition.costs
        macs, numbers = table.parts(joined_masks(self.sets, kept if kept is not None else all_kept(self.sets)))
        by_op: dict[str, int] = {}
        for label, value in zip(table.labels[0], macs.tolist(), strict=True):
            by_op[label] = by_op.get(label, 0) + value
        return by_op, dict(zip(table.labels[1], numbers.tolist(), strict=True))

    def self_test(self, fraction: float = 0.5, seed: int = 0) -> SelfTest:
        """Zero a random share of each set's units in a copy of the model, construct the compact one, and compare.

        Args:
            fraction: share of units to zero.
            seed: of the choice, and of the copy's parameters (see `pruning.selftest`).

        Returns:
            Largest error, and the signal beside which it is small, in units of the model's outputs.

        Raises:
            ConstructionError: the compact model does not compute the same.
        """
        if not 0 <= fraction <= 1:
            raise ConfigError(f"fraction is {fraction}; allowed: 0 to 1, such as 0.5")
        return self_test(self, fraction, seed)

    def to_dict(self) -> dict[str, Any]:
        """What can go, what stays and why, as JSON can hold it."""
        return report.as_dict(self)

    def report(self) -> str:
        """What can go, what stays and why, as text."""
        return report.as_text(self)

    def picture(self) -> str:
        """The model's graph as SVG: each layer in the colour of its set of units, grey where it stays."""
        return report.as_svg(self)

    def random_masks(self, fraction: float, seed: int) -> tuple[Tensor, ...]:
        """True for a random share of the units of each set; at least one stays."""
        generator = np.random.default_rng(seed)
        masks = []
        for group in self.sets:
            mask = np.zeros(group.units, bool)
            mask[generator.permutation(group.units)[: min(round(fraction * group.units), group.units - 1)]] = True
            masks.append(torch.from_numpy(mask))
        return tuple(masks)


def as_arguments(example_inputs: Any) -> tuple[Any, ...]:
    """Positional arguments from a tensor, a list or a tuple."""
    args = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if not any(isinstance(item, Tensor) for item in pytree.tree_leaves(args)):
        raise ConfigError(
            f"example_inputs is {type(example_inputs).__name__} without a tensor; "
            f"pass a tensor, or a tuple of the positional arguments of the model's forward"
        )
    return args


def _kept_parameters(model: nn.Module, keep: Sequence[str]) -> list[str]:
    if isinstance(keep, str):
        keep = [keep]
    known = {name for name, _ in model.named_parameters()}
    modules = {name for name, _ in model.named_modules() if name}
    names: list[str] = []
    for item in keep:
        own = [name for name in known if name == item or name.startswith(f"{item}.")]
        if not own:
            close = difflib.get_close_matches(item, sorted(known | modules), n=3) or sorted(modules)[:3]
            raise ConfigError(f"keep: no module or parameter {item!r} with parameters; close: {', '.join(close)}")
        names += own
    return names
