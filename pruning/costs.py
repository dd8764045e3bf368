"""What any choice of units costs: exact MACs and parameters as products of counts of what stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pruning.flow import Flow, Work
from pruning.provenance import Ids
from pruning.trace import Trace
from pruning.units import Cost, Masks, UnitSet, check_masks

_KEPT = -1  # the unit of a position that no unit owns


@dataclass(frozen=True, slots=True, eq=False)
class CostTable:
    """Counts of kept positions as a linear map of kept units, and costs as products of counts.

    Attributes:
        offsets: kept positions by array of atoms that no unit owns.
        weights: (arrays, units) positions of each unit.
        work, numbers: for multiply-adds and parameters: factors, and the rows of `offsets` that each multiplies with.
        labels: by entry of `work`, its operator; of `numbers`, the parameter.
        first: number of the first unit of each set.
    """

    offsets: NDArray[np.int64]
    weights: csr_array
    work: tuple[NDArray[np.int64], NDArray[np.int64]]
    numbers: tuple[NDArray[np.int64], NDArray[np.int64]]
    labels: tuple[list[str], list[str]]
    first: NDArray[np.int64]

    @classmethod
    def build(cls, flow: Flow, trace: Trace, unit_of: Ids, sets: Sequence[UnitSet]) -> CostTable:
        """Gather all counts that the costs depend on."""
        rows: list[Ids] = []

        def products(items: Sequence[tuple[int, Sequence[Ids]]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            widest = max([len(axes) for _, axes in items], default=0)
            table = np.full((len(items), widest), -1, np.int64)
            factors = np.zeros(len(items), np.int64)
            for place, (factor, axes) in enumerate(items):
                factors[place] = factor
                for column, ids in enumerate(axes):
                    table[place, column] = len(rows)
                    rows.append(np.where(ids >= 0, unit_of[ids], _KEPT))
            return factors, table

        work = products([(_per_example(w, trace.examples), w.axes) for w in flow.work])
        leaves = [(name, leaf) for name, leaf in flow.ledger.leaves.items() if leaf.kind == "parameter"]
        sizes = []
        for _, leaf in leaves:
            axes = [np.arange(f, f + n, dtype=np.int64) for f, n in zip(leaf.first, leaf.shape, strict=True)]
            pruned = [ids for ids in axes if (unit_of[ids] >= 0).any()]
            sizes.append((math.prod(leaf.shape) // math.prod(len(ids) for ids in pruned), pruned))
        numbers = products(sizes)
        lengths = np.array([len(row) for row in rows], np.int64)
        flat = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        row_of = np.repeat(np.arange(len(rows)), lengths)
        owned = flat >= 0
        offsets = np.bincount(row_of[~owned], minlength=len(rows)).astype(np.int64)
        total = sum(group.units for group in sets)
        weights = csr_array(
            (np.ones(int(owned.sum()), np.int64), (row_of[owned], flat[owned])), shape=(len(rows), total)
        )
        first = np.cumsum([0, *(group.units for group in sets)])[:-1].astype(np.int64)
        labels = ([w.op for w in flow.work], [name for name, _ in leaves])
        return cls(np.r_[offsets, 1], weights, work, numbers, labels, first)

    def parts(self, keep: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Multiply-adds of each operator for one example, and numbers of each parameter.

        Args:
            keep: by unit, whether it stays.
        """
        counts = self.offsets.copy()
        counts[:-1] += self.weights @ keep.astype(np.int64)
        macs, numbers = (factors * counts[table].prod(1) for factors, table in (self.work, self.numbers))
        return macs, numbers

    def total(self, keep: NDArray[np.bool_]) -> Cost:
        """The sums of `parts`."""
        macs, numbers = self.parts(keep)
        return Cost(int(macs.sum()), int(numbers.sum()))


def _per_example(work: Work, examples: int) -> int:
    if not work.scales:
        return work.factor
    if work.factor % examples == 0:
        return work.factor // examples
    return work.factor


def joined_masks(sets: Sequence[UnitSet], masks: Masks) -> NDArray[np.bool_]:
    """Masks of all sets one behind the other."""
    check_masks(sets, masks)
    return np.concatenate([mask.cpu().numpy() for mask in masks]) if masks else np.zeros(0, bool)
