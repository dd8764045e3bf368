"""The numbers of many units in one flat order, so that a step over all of them is a handful of operations.

A unit's numbers lie in several tensors: rows of a convolution's weight, one entry of its bias and of the norm's. Here
each tensor is seen in the order of its memory, in which a position along an axis is a few *runs* of neighbouring
numbers. A *row* is what one unit has in one tensor; the flat buffer holds the rows tensor by tensor.

On the CPU the runs are read and written where they lie by compiled kernels (`pruning.kernels`): with half of the
units of a VGG16-BN of quarter width chosen, 0.05 ms a pass over them, where index operations a tensor took 0.20 to
0.31 ms and `index_add_` over all numbers 3.4 (SGD with momentum: 1.1). Everywhere else (CUDA, other precisions, no
numba) the tensors are concatenated, and the same is done by a gather and sums over segments, which unlike `index_add_`
on CUDA give the same bits every time: processes that train together must not drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pruning.units import UnitSet
from supernet import kernels
from supernet.errors import ConfigError


@dataclass(frozen=True)
class _Rows:
    """What the chosen units have in one tensor.

    Attributes:
        units: numbers of the units, ascending, int64 (rows).
        starts: first number of each run in the order of the tensor's memory, int64 (rows, runs).
        length: numbers a run.
    """

    units: Tensor
    starts: Tensor
    length: int


class FlatUnits:
    """Chosen units of all sets, numbered 0, 1, ... in the order of the sets and of the units in them.

    Args:
        tensors: every variable by its name.
        sets: the sets whose units these are.
        chosen: bool (units of all sets); which of them are looked at.

    Attributes:
        count: number of chosen units; results a unit have this length, in ascending order of the units.

    Raises:
        ConfigError: the tensors are on several devices, or one has gaps or overlaps in its memory.
    """

    def __init__(self, tensors: dict[str, Tensor], sets: Sequence[UnitSet], chosen: Tensor) -> None:
        chosen = chosen.cpu()
        self.count = int(chosen.sum())
        place = chosen.cumsum(0) - 1  # number among the chosen ones
        rows: dict[str, list[_Rows]] = {}
        first = 0
        for unit_set in sets:
            wanted = chosen[first : first + unit_set.units].nonzero()[:, 0]
            if len(wanted):
                for entries in unit_set.variables:
                    found = _runs(entries.name, tensors[entries.name], entries.axis, entries.index.cpu()[wanted])
                    rows.setdefault(entries.name, []).append(_Rows(place[first + wanted], *found))
            first += unit_set.units
        self.tensors = [tensors[name] for name in rows]
        devices = {tensor.device for tensor in self.tensors}
        if len(devices) > 1:
            raise ConfigError(
                f"the prunable parameters are on {len(devices)} devices ({', '.join(sorted(map(str, devices)))}); "
                "allowed: one; move the model to one device before its optimiser is made"
            )
        self.device = next(iter(devices), torch.device("cpu"))
        self._prepare([(number, part) for number, parts in enumerate(rows.values()) for part in parts])

    def _prepare(self, rows: list[tuple[int, _Rows]]) -> None:
        """Index tensors for the sums; those for every number are made when they are first needed."""
        self._parts = rows
        self.before: Tensor | None = None
        owners = _joined([part.units for _, part in rows])
        sizes = [torch.full((len(part.units),), part.starts.shape[1] * part.length) for _, part in rows]
        self.owners, self.lengths = owners.to(self.device), _joined(sizes).to(self.device)
        # The rows of each unit side by side, padded by one more row that is always zero.
        order = owners.argsort(stable=True)
        amounts = torch.bincount(owners, minlength=self.count)
        column = torch.arange(len(owners)) - (amounts.cumsum(0) - amounts)[owners[order]]
        table = torch.full((self.count, int(amounts.max()) if self.count else 0), len(owners))
        table[owners[order], column] = order
        self.rows_of_unit = table.to(self.device)

    @cached_property
    def positions(self) -> Tensor:
        """Where the chosen numbers are in the concatenated tensors, int64 (numbers)."""
        offsets = [0]
        for tensor in self.tensors:
            offsets.append(offsets[-1] + tensor.numel())
        return _joined([(_positions(part) + offsets[number]).flatten() for number, part in self._parts]).to(self.device)

    @cached_property
    def _without(self) -> list[Tensor]:
        """By tensor, in the order of its memory: 0 for the chosen numbers, 1 for all others."""
        flat = torch.ones(sum(tensor.numel() for tensor in self.tensors), device=self.device)
        parts = flat.index_fill_(0, self.positions, 0).split_with_sizes([tensor.numel() for tensor in self.tensors])
        return [part.to(tensor.dtype) for part, tensor in zip(parts, self.tensors, strict=True)]

    @cached_property
    def unit_of_number(self) -> Tensor:
        """The unit of each of them, int64 (numbers)."""
        return self.owners.repeat_interleave(self.lengths)

    @property
    def sizes(self) -> Tensor:
        """How many numbers every unit has, float64 (count)."""
        return self._per_unit(self.lengths)

    def gather(self, tensors: Sequence[Tensor] | None = None) -> Tensor:
        """The chosen numbers, flat, in float32 (or float64): of `tensors` laid out like `self.tensors`, or of these."""
        if not self.tensors:
            return torch.zeros(0)
        flat = torch.cat([_in_memory_order(tensor) for tensor in (self.tensors if tensors is None else tensors)])
        return _wide(flat.index_select(0, self.positions))

    def sums(self, numbers: Tensor) -> Tensor:
        """Sums a unit, float64 (count), of numbers as `gather` orders them."""
        if not self.count:
            return torch.zeros(0, dtype=torch.float64)
        sums = torch.segment_reduce(numbers, "sum", lengths=self.lengths, unsafe=True)
        return self._per_unit(sums)

    def remember(self) -> None:
        """Keep the numbers as they are now, for `products` and `shift`."""
        self.before = self.gather()

    def products(self) -> tuple[Tensor, Tensor, Tensor]:
        """<x, x>, <x, y> and <y, y> of every unit, x as remembered and y as now; float64 (count) each."""
        x, y = self.before, self.gather()
        assert x is not None
        return self.sums(x * x), self.sums(x * y), self.sums(y * y)

    def shift(self, factors: Tensor, zero: Tensor) -> None:
        """Subtract `factors` times the remembered numbers from those of now; units in `zero` become exactly zero.

        Args:
            factors: float64 (count).
            zero: bool (count).
        """
        assert self.before is not None
        y, unit = self.gather(), self.unit_of_number
        y -= self.before * factors.to(self.before.dtype)[unit]
        self._write(y.masked_fill_(zero[unit], 0))

    def pull(self, share: float, epsilon: float, zero: Tensor) -> Tensor:
        """Bring every unit's component along its remembered self, x, down to 1 - `share` of its length, or to zero.

        What already fell that far since is left alone. Units that leave the half-space <y, x> >= epsilon <x, x> so, and
        those in `zero`, become exactly zero.

        Args:
            share: 0 to 1.
            epsilon: 0 to 1.
            zero: bool (count).

        Returns:
            Which are zero now, bool (count).
        """
        xx, xy, _ = self.products()
        factors = (share - (xx - xy) / xx).clamp_min_(0)
        gone = (xy - factors * xx <= epsilon * xx) | (xx == 0) | zero
        self.shift(factors, gone)
        return gone

    def scale(self, factors: Tensor) -> None:
        """Multiply every unit's numbers by its factor; a factor of zero makes exact zeros of whatever there was.

        Args:
            factors: float64 (count).
        """
        y = self.gather()
        y *= factors.to(y.dtype)[self.unit_of_number]
        self._write(y.masked_fill_((factors == 0)[self.unit_of_number], 0))

    def clear(self) -> None:
        """Make all chosen units exactly zero."""
        if self.tensors:
            torch._foreach_mul_([_in_memory_order(tensor) for tensor in self.tensors], self._without)

    def _write(self, numbers: Tensor) -> None:
        if not self.tensors:
            return
        flat = torch.cat([_in_memory_order(tensor) for tensor in self.tensors])
        flat.index_copy_(0, self.positions, numbers.to(flat.dtype))
        torch._foreach_copy_(
            [_in_memory_order(tensor) for tensor in self.tensors],
            flat.split_with_sizes([tensor.numel() for tensor in self.tensors]),
        )

    def _per_unit(self, rows: Tensor) -> Tensor:
        """Sums over the rows of every unit, in a fixed order; float64 (count)."""
        padded = torch.cat((rows.double(), torch.zeros(1, dtype=torch.float64, device=rows.device)))
        return padded[self.rows_of_unit].sum(1)


class CompiledUnits(FlatUnits):
    """The same on float32 tensors of the CPU, by kernels that touch only the chosen numbers."""

    def _prepare(self, rows: list[tuple[int, _Rows]]) -> None:
        super()._prepare(rows)
        from pruning import kernels as compiled

        self.compiled = compiled
        self.layout = compiled.Layout.of([(number, part.starts.numpy(), part.length) for number, part in rows])
        self.units = self.owners.numpy()
        self.rows = self.rows_of_unit.numpy()
        self.numbers = torch.zeros(self.layout.numbers)
        self._found: list[int] = []
        self._memory = np.zeros(0, np.int64)

    def remember(self) -> None:
        """Copy the chosen numbers into the flat buffer."""
        self.compiled.gather(self._addresses(), self.layout, self.numbers.numpy())
        self.before = self.numbers

    def products(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three in one pass."""
        assert self.before is not None
        found = torch.from_numpy(
            self.compiled.products(self._addresses(), self.layout, self.before.numpy(), self.units, self.count)
        )
        return found[0], found[1], found[2]

    def shift(self, factors: Tensor, zero: Tensor) -> None:
        """Without a pass over units that stay."""
        assert self.before is not None
        self.compiled.shift(
            self._addresses(), self.layout, self.before.numpy(), self.units, factors.numpy(), zero.numpy()
        )

    def pull(self, share: float, epsilon: float, zero: Tensor) -> Tensor:
        """Unit by unit, so that the numbers are still near the core when they are written."""
        assert self.before is not None
        gone = torch.empty_like(zero)
        self.compiled.pull(
            self._addresses(),
            self.layout,
            self.before.numpy(),
            self.rows,
            share,
            epsilon,
            zero.numpy(),
            gone.numpy(),
        )
        return gone

    def scale(self, factors: Tensor) -> None:
        """In place."""
        self.compiled.scale(self._addresses(), self.layout, self.units, factors.numpy())

    def clear(self) -> None:
        """Only what is not zero any more is written."""
        self.compiled.clear(self._addresses(), self.layout)

    def _addresses(self) -> npt.NDArray[np.int64]:
        # Asked for every time: `module.to` and `parameter.data = ...` move a tensor without a word.
        found = [tensor.data_ptr() for tensor in self.tensors]
        if found != self._found:
            self._found, self._memory = found, np.array(found, np.int64)
        return self._memory


def flat_units(tensors: dict[str, Tensor], sets: Sequence[UnitSet], chosen: Tensor) -> FlatUnits:
    """The compiled form where every tensor is float32 on the CPU and numba is installed, else the general one."""
    names = {entries.name for unit_set in sets for entries in unit_set.variables}
    plain = all(tensors[name].device.type == "cpu" and tensors[name].dtype == torch.float32 for name in names)
    return (CompiledUnits if plain and kernels.installed() else FlatUnits)(tensors, sets, chosen)


def _runs(name: str, tensor: Tensor, axis: int, index: Tensor) -> tuple[Tensor, int]:
    """Starts (units, runs) and length of the runs in memory of positions `index` (units, positions) of an axis."""
    if not _is_dense(tensor):
        raise ConfigError(
            f"parameter {name!r} of shape {tuple(tensor.shape)} has strides {tensor.stride()}, with gaps or overlaps; "
            "allowed: every memory format; make the model with parameters of their own memory (tensor.clone())"
        )
    step, size = tensor.stride(axis), tensor.shape[axis]
    if size == 1:  # its stride may be anything
        step = tensor.numel()
    outer = torch.arange(tensor.numel() // (size * step)) * (size * step)
    ordered = index.sort(dim=1).values
    length = step
    if ordered.shape[1] > 1 and bool((ordered.diff(dim=1) == 1).all()):  # neighbours, such as the rows of a head
        length = step * ordered.shape[1]
        ordered = ordered[:, :1]
    return (outer[None, :, None] + ordered[:, None, :] * step).flatten(1), length


def _is_dense(tensor: Tensor) -> bool:
    """Whether its numbers fill their stretch of memory, each once, in whatever order of the axes."""
    expected = 1
    for step, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if step != expected:
                return False
            expected *= size
    return True


def _positions(rows: _Rows) -> Tensor:
    return (rows.starts[:, :, None] + torch.arange(rows.length)).flatten(1)


def _in_memory_order(tensor: Tensor) -> Tensor:
    """A dense tensor as one axis, without a copy."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def _wide(numbers: Tensor) -> Tensor:
    return numbers if numbers.dtype == torch.float64 else numbers.float()
