"""What can be pruned: units (zero-invariant groups), the sets that hold units of one kind, and masks over them.

A *unit* is a smallest set of parameters which, all zero, makes one channel (head, norm group, ...) zero for any input,
so that it can be removed without a change of the output. Units that touch the same tensors in the same way form a
`UnitSet`, such as all channels of a layer, so that a set's units are described by a few index tensors.

Masks over units are one bool tensor of shape `(units,)` a set, in the order of the sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from supernet.errors import ConfigError

Masks = Sequence[Tensor]


class Cost(NamedTuple):
    """What a compact model costs: multiply-adds for one example (a batch of one), and trainable numbers."""

    macs: int
    params: int


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries of one tensor that belong to each unit of a set.

    Attributes:
        name: of the tensor in ``model.state_dict()``; of a shared tensor, its first name, as in
            ``model.named_parameters()``.
        axis: axis of the tensor along which the entries lie.
        index: int64 `(units, entries of a unit)`, positions along `axis`; no position occurs twice.
    """

    name: str
    axis: int
    index: Tensor


@dataclass(frozen=True, eq=False)
class UnitSet:
    """Units that are tied across the same layers: a layer's channels, an attention's heads.

    At least one unit of every set stays, so that no layer is emptied.

    Attributes:
        name: the modules that produce the units, readable and unique among the sets of a model.
        units: number of zero-invariant groups in the set, at least 2.
        variables: the parameters of each unit: all zero, and the unit can go. A tensor occurs at most once an axis.
        consumers: what is sliced together with a unit and need not be zero: input columns of the layers that read
            it, gates, running statistics and other buffers.
    """

    name: str
    units: int
    variables: tuple[Entries, ...]
    consumers: tuple[Entries, ...]


def zero_units(tensors: Mapping[str, Tensor], sets: Sequence[UnitSet], masks: Masks) -> None:
    """Set the variables of the masked units to zero, in place.

    Args:
        tensors: parameters by name, such as ``dict(model.named_parameters())``.
        sets: the sets of units.
        masks: True for units to zero.
    """
    check_masks(sets, masks)
    with torch.no_grad():
        for group, mask in zip(sets, masks, strict=True):
            for entries in group.variables:
                tensor = tensors[entries.name]
                where = entries.index[mask.to(entries.index.device)].reshape(-1).to(tensor.device)
                tensor.index_fill_(entries.axis, where, 0)


def zeroed_units(tensors: Mapping[str, Tensor], sets: Sequence[UnitSet]) -> tuple[Tensor, ...]:
    """Which units are exactly zero.

    Returns:
        One bool tensor `(units,)` a set, on the CPU: True where all variables of the unit are zero.
    """
    masks = []
    for group in sets:
        mask = torch.ones(group.units, dtype=torch.bool)
        for entries in group.variables:
            tensor = tensors[entries.name].detach()
            zero = (tensor == 0).movedim(entries.axis, 0).flatten(1).all(1) if tensor.dim() > 1 else tensor == 0
            mask &= zero.cpu()[entries.index.cpu()].all(1)
        masks.append(mask)
    return tuple(masks)


def all_kept(sets: Sequence[UnitSet]) -> tuple[Tensor, ...]:
    """Masks that keep every unit."""
    return tuple(torch.ones(group.units, dtype=torch.bool) for group in sets)


def check_masks(sets: Sequence[UnitSet], masks: Masks) -> None:
    """Raise a ConfigError unless there is one bool tensor `(units,)` for each set."""
    if len(masks) != len(sets):
        raise ConfigError(f"{len(masks)} masks for {len(sets)} sets of units; give one bool tensor a set")
    for group, mask in zip(sets, masks, strict=True):
        if mask.dtype != torch.bool or tuple(mask.shape) != (group.units,):
            raise ConfigError(
                f"mask of {group.name!r} is {str(mask.dtype).removeprefix('torch.')} {tuple(mask.shape)}; "
                f"expected bool ({group.units},), one entry a unit"
            )


def parameters_by_name(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters by their first name; a parameter that is shared occurs once."""
    return dict(model.named_parameters())
