"""Weights as matrices of rows and columns, masks over them beside the masks over units, and what is left exactly.

Convolutions and linear layers are matrices W (O, K): one row an output channel, one column a position (c, i, j) of an
input channel. Rows and input channels belong to units: with a unit go its rows in every producer and its blocks of
columns in every layer that reads it. Single columns, and single weights, may go besides, in one layer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruning.groups import ZeroInvariantGroups
from pruning.projections import largest, top
from pruning.trace import evaluating
from pruning.units import Cost, Masks, all_kept, zero_units

DIMENSIONS = ("combined", "filters", "channels", "weights")
"""What goes: whole filters and single columns; filters alone; filters and whole input channels, which together make
the compact model faster on every device; single weights, without structure."""

_SWEEPS = 50


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight as a matrix.

    Attributes:
        name: of the parameter.
        rows: int64 (O,), the unit of each row, numbered through all sets, or -1: it stays.
        columns: int64 (K,), the unit that each column reads, or -1: none that can go.
        splits: whether columns may go one by one: not where every row reads other channels (depthwise, grouped).
        positions: multiply-adds of each weight for one example.
    """

    name: str
    rows: Tensor
    columns: Tensor
    splits: bool
    positions: int


@dataclass(frozen=True, eq=False)
class Kept:
    """What stays.

    Attributes:
        units: bool (units,), one a set.
        weights: by layer, bool (O, K), True only where row and column stay.
    """

    units: tuple[Tensor, ...]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Counts:
    """How much stays.

    Attributes:
        units: one number a set.
        inner: by layer, what stays of what the units leave of it: columns, or single weights without structure; a
            layer that is not named keeps all.
    """

    units: tuple[int, ...]
    inner: dict[str, int]


class WeightMatrices:
    """All convolutions and linear layers of a model as matrices over its units.

    Args:
        groups: of the model, which is run once.

    Attributes:
        layers: in the order of the model's parameters.
        first: number of the first unit of each set, and of all units.
    """

    def __init__(self, groups: ZeroInvariantGroups) -> None:
        self.groups = groups
        self.first = np.cumsum([0, *(group.units for group in groups.sets)]).tolist()
        self.layers: tuple[Layer, ...] = tuple(_layers(groups, self.first))
        self.by_name = {layer.name: layer for layer in self.layers}
        self._readers = _other_readers(groups, self.by_name, self.first)

    def matrices(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The layers' weights (O, K) by name; views where the memory allows it."""
        return {layer.name: tensors[layer.name].flatten(1) for layer in self.layers}

    def joined(self, units: Masks) -> Tensor:
        """Masks of all sets one behind the other, and True for what no unit owns, at the last place (-1)."""
        return torch.cat([*units, torch.ones(1, dtype=torch.bool)])

    def split(self, mask: Tensor) -> tuple[Tensor, ...]:
        """One mask a set from all of them one behind the other."""
        return tuple(mask[start:end] for start, end in zip(self.first, self.first[1:], strict=False))

    def boxes(self, units: Masks) -> dict[str, tuple[Tensor, Tensor]]:
        """By layer, which rows and which columns these units leave; bool (O,) and (K,)."""
        stays = self.joined(units)
        return {layer.name: (stays[layer.rows], stays[layer.columns]) for layer in self.layers}

    def whole(self, units: Masks | None = None) -> Kept:
        """All that these units leave; None: everything."""
        units = tuple(units) if units is not None else all_kept(self.groups.sets)
        return Kept(units, {n: rows[:, None] & columns for n, (rows, columns) in self.boxes(units).items()})

    def restricted(self, units: Masks, weights: Mapping[str, Tensor]) -> Kept:
        """These units, and of these weights what they leave."""
        return Kept(tuple(units), {n: w & weights[n] for n, w in self.whole(units).weights.items()})

    def cost(self, kept: Kept) -> Cost:
        """Multiply-adds and parameters without what has gone, by exact count.

        Columns and single weights that go save multiply-adds here which a device saves only if it skips them.
        """
        macs, params = self.groups.count(kept.units)
        for layer in self.layers:
            rows, columns = self.boxes_of(layer, kept.units)
            gone = rows * columns - int(kept.weights[layer.name].sum())
            params -= gone
            macs -= gone * layer.positions
        return Cost(macs, params)

    def boxes_of(self, layer: Layer, units: Masks) -> tuple[int, int]:
        """Numbers of rows and columns that these units leave of a layer."""
        stays = self.joined(units)
        return int(stays[layer.rows].sum()), int(stays[layer.columns].sum())

    def storage_bytes(self, kept: Kept) -> int:
        """Four bytes a parameter, and for layers that lack columns or weights one bit a place to say which."""
        total = 4 * self.cost(kept).params
        for layer in self.layers:
            rows, columns = self.boxes_of(layer, kept.units)
            mask = kept.weights[layer.name]
            if int(mask.sum()) < rows * columns:
                by_columns = bool((mask.any(0).sum() * mask.any(1).sum()) == mask.sum())
                total += -(-(columns if by_columns else rows * columns) // 8)
        return total

    def live_units(self, kept: Kept) -> Tensor:
        """Which kept units are still read by something, bool (all units,).

        What reads a unit: columns that stay, or any other parameter that is sliced with it along an input axis. A
        unit that nothing of the kind reads at all counts as read: how it is used is not known then.
        """
        total = self.first[-1]
        readers = self._readers.clone()
        seen, read = torch.zeros(total + 1, dtype=torch.bool), torch.zeros(total + 1, dtype=torch.bool)
        for layer in self.layers:
            seen[layer.columns] = True
            read[layer.columns[kept.weights[layer.name].any(0)]] = True
        return (read | readers | ~seen)[:-1]

    @torch.no_grad()
    def apply(self, model: nn.Module, kept: Kept) -> None:
        """Set to zero what does not stay: weights, and all variables of units, their norms' and biases included.

        A filter of zeros still emits its norm's bias through the activation; with its variables zero it emits zero, so
        that the compact model computes the same.
        """
        self.zeroing(model, kept)()

    def zeroing(self, model: nn.Module, kept: Kept) -> Callable[[], None]:
        """`apply` for every step of a training: a function whose masks are already where the model is."""
        tensors = dict(model.named_parameters())
        names = {e.name for group in self.groups.sets for e in group.variables}
        masks = {name: torch.ones_like(tensors[name], device="cpu") for name in (*kept.weights, *names)}
        zero_units(masks, self.groups.sets, [~mask for mask in kept.units])
        for name, mask in kept.weights.items():
            masks[name] *= mask.view(masks[name].shape)
        masked = [name for name, mask in masks.items() if not bool(mask.all())]
        own: list[Tensor] = [tensors[name] for name in masked]
        factors = [masks[name].to(tensors[name].device) for name in masked]

        @torch.no_grad()
        def zero() -> None:
            if own:
                torch._foreach_mul_(own, factors)

        return zero

    def other_energies(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Energy of units' variables that are weights but no layer's, as of attention; float (all units + 1,)."""
        found = torch.zeros(self.first[-1] + 1)
        for place, group in enumerate(self.groups.sets):
            for entries in group.variables:
                tensor = tensors[entries.name].detach()
                if tensor.dim() > 1 and entries.name not in self.by_name:
                    rows = tensor.square().movedim(entries.axis, 0).flatten(1).sum(1).cpu()
                    found[self.first[place] : self.first[place + 1]] += rows[entries.index.cpu()].sum(1)
        return found

    def project(
        self, energies: Mapping[str, Tensor], counts: Counts, dimensions: str = "combined", others: Tensor | None = None
    ) -> Kept:
        """The choice of units, and of columns or weights, that keeps much energy under these counts.

        Rows are chosen given the columns and columns given the rows, for all layers together, until nothing changes,
        from both starts; the best choice on the way is taken. A unit is chosen by the energy of its rows in all
        producers, as the paper has it, so that what it takes from its readers can make a later choice worse; with
        `channels` also by that of the columns that read it.

        Args:
            energies: squared weights (O, K) by layer, on the CPU.
            counts: what stays.
            dimensions: one of `DIMENSIONS`.
            others: as `other_energies` gives it.
        """
        if dimensions == "weights":
            kept = self.whole(tuple(torch.ones(group.units, dtype=torch.bool) for group in self.groups.sets))
            return Kept(kept.units, {n: largest(energies[n], counts.inner[n]) if n in counts.inner else mask
                                     for n, mask in kept.weights.items()})  # fmt: skip
        ends = []
        for start in ("rows", "columns"):
            columns = {layer.name: torch.ones(len(layer.columns), dtype=torch.bool) for layer in self.layers}
            units = all_kept(self.groups.sets)
            if start == "columns":
                columns = self._columns(energies, counts, units)
            for _ in range(_SWEEPS):
                rows = self._rows(energies, counts, units, columns, dimensions, others)
                taken = self._columns(energies, counts, rows)
                same = all(map(torch.equal, rows, units)) and all(torch.equal(taken[n], columns[n]) for n in taken)
                units, columns = rows, taken
                kept = Kept(units, {n: mask & columns[n] for n, mask in self.whole(units).weights.items()})
                ends.append((sum(float((energies[n] * m).sum()) for n, m in kept.weights.items()), kept))
                if same:
                    break
        return max(ends, key=lambda end: end[0])[1]

    def _rows(
        self,
        energies: Mapping[str, Tensor],
        counts: Counts,
        units: Masks,
        columns: Mapping[str, Tensor],
        dimensions: str,
        others: Tensor | None,
    ) -> tuple[Tensor, ...]:
        scores = torch.zeros(self.first[-1] + 1) if others is None else others.clone()
        stays = self.joined(units)
        for layer in self.layers:
            energy = energies[layer.name]
            scores.index_add_(0, layer.rows % len(scores), energy @ columns[layer.name].to(energy))
            if dimensions == "channels":
                scores.index_add_(0, layer.columns % len(scores), stays[layer.rows].to(energy) @ energy)
        return tuple(
            top(scores[start:end], count)
            for start, end, count in zip(self.first, self.first[1:], counts.units, strict=False)
        )

    def _columns(self, energies: Mapping[str, Tensor], counts: Counts, units: Masks) -> dict[str, Tensor]:
        stays = self.joined(units)
        found = {}
        for layer in self.layers:
            alive = stays[layer.columns]
            if layer.name in counts.inner:
                scores = stays[layer.rows].to(energies[layer.name]) @ energies[layer.name]
                alive = top(scores.masked_fill(~alive, -1), min(counts.inner[layer.name], int(alive.sum())))
            found[layer.name] = alive
        return found


def energies_of(matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Squared weights in float32 on the CPU, as projections take them."""
    return {name: matrix.detach().float().square().cpu() for name, matrix in matrices.items()}


def _layers(groups: ZeroInvariantGroups, first: Sequence[int]) -> list[Layer]:
    rows: dict[str, list[tuple[int, Tensor]]] = {}
    channels: dict[str, list[tuple[int, Tensor]]] = {}
    for place, group in enumerate(groups.sets):
        for entries in (*group.variables, *group.consumers):
            (rows if entries.axis == 0 else channels).setdefault(entries.name, []).append((first[place], entries.index))
    positions, modules = _positions(groups)
    found = []
    for name, module in modules.items():
        weight = module.weight
        assert isinstance(weight, Tensor)
        of_rows = _owners(rows.get(name, []), weight.shape[0])
        of_channels = _owners(channels.get(name, []), weight.shape[1])
        splits = not (isinstance(module, _ConvNd) and module.groups > 1)
        block = weight[0, 0].numel()
        found.append(Layer(name, of_rows, of_channels.repeat_interleave(block), splits, positions[name]))
    return found


def _owners(entries: Sequence[tuple[int, Tensor]], size: int) -> Tensor:
    owner = torch.full((size,), -1, dtype=torch.int64)
    for first, index in entries:
        owner[index.cpu()] = torch.arange(first, first + len(index))[:, None].expand_as(index)
    return owner


def _positions(groups: ZeroInvariantGroups) -> tuple[dict[str, int], dict[str, nn.Module]]:
    """By weight, how often it is used for one example, and its module; from one run of the model."""
    names = {id(parameter): name for name, parameter in groups.model.named_parameters()}
    positions: dict[str, int] = {}
    modules: dict[str, nn.Module] = {}
    hooks = []

    def note(name: str, module: nn.Module, output: Tensor) -> None:
        assert isinstance(module.weight, Tensor)
        positions[name] = positions.get(name, 0) + output.numel() // module.weight.shape[0]

    for module in groups.model.modules():
        if isinstance(module, nn.Linear | _ConvNd) and not isinstance(module, _ConvTransposeNd):
            name = names[id(module.weight)]
            modules[name] = module
            hooks.append(module.register_forward_hook(lambda m, _, out, name=name: note(name, m, out)))
    try:
        with torch.no_grad(), evaluating(groups.model):
            groups.model(*groups.example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    examples = next(item.shape[0] for item in groups.example_inputs if isinstance(item, Tensor))
    return {n: count // examples for n, count in positions.items()}, {
        n: m for n, m in modules.items() if n in positions
    }


def _other_readers(groups: ZeroInvariantGroups, layers: Mapping[str, Layer], first: Sequence[int]) -> Tensor:
    """Units that something besides a layer's columns may read; bool (all units + 1,)."""
    parameters = {name for name, parameter in groups.model.named_parameters() if parameter.dim() > 1}
    found = torch.zeros(first[-1] + 1, dtype=torch.bool)
    for place, group in enumerate(groups.sets):
        for entries in group.consumers:
            if entries.name in parameters and not (entries.name in layers and entries.axis == 1):
                found[first[place] : first[place + 1]] = True
    return found
