"""From a point of the search to counts that meet a target exactly: what AutoCompress calls an action.

A point has two numbers a layer in [0, 1]: how much of the layer stays in comparison with others (a logit), and how its
pruning is split between filters and columns. One logit offset, common to all layers, is found by bisection over
exact counts of the compact model, so that every point meets the target. (Drawing rates until a draw meets it never ends
where much has to go.) What is left below the target by rounding is filled with the columns or filters that fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pruning.units import Masks
from pruning.weights import DIMENSIONS, Counts, WeightMatrices
from supernet.errors import ConfigError, InfeasibleBudgetError, one_of

SPAN = 8.0
"""Difference of logits between the ends of [0, 1]: shares of 0.018 and 0.982 around one of a half."""
EXPERIENCE = 0.5
"""The prior keeps a share of a layer that falls with this power of its size: larger layers are pruned more."""
NEAR = 0.005
"""A target counts as met from this share of it below it; coarser steps are traded for finer ones."""
_ENDS = 40.0
_HALVINGS = 52

Point = NDArray[np.float64]
Extra = Mapping[str, Callable[[Masks], float]]
"""Further costs by name, from the kept units; must not rise when a unit goes."""


@dataclass(frozen=True)
class LayerRate:
    """What a layer keeps.

    Attributes:
        name: of its weight.
        rows, columns: kept and of how many, before the round.
        share: kept weights over the weights before the round.
    """

    name: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    share: float


class Rates:
    """Points of the search, and the counts that they stand for.

    Args:
        matrices: of the model.
        limits: greatest costs by name: ``params``, ``macs`` or one of `extra`.
        dimensions: one of `DIMENSIONS`.
        extra: costs besides.

    Attributes:
        size: numbers of a point.

    Raises:
        ConfigError: unknown dimensions or costs, or no limit.
    """

    def __init__(
        self,
        matrices: WeightMatrices,
        limits: Mapping[str, float],
        dimensions: str = "combined",
        extra: Extra | None = None,
    ) -> None:
        if dimensions not in DIMENSIONS:
            raise ConfigError(one_of("dimensions", dimensions, list(DIMENSIONS)))
        self.extra = dict(extra or {})
        if not limits or any(name not in ("params", "macs", *self.extra) for name in limits):
            raise ConfigError(
                f"rates: limits on {', '.join(limits) or 'nothing'}; allowed: "
                f"{', '.join(('params', 'macs', *self.extra))}"
            )
        self.matrices, self.limits, self.dimensions = matrices, dict(limits), dimensions
        sets, layers = len(matrices.groups.sets), matrices.layers
        self._units = np.array([group.units for group in matrices.groups.sets])
        owner = torch.cat([torch.full((group.units,), place) for place, group in enumerate(matrices.groups.sets)])
        owner = torch.cat([owner, torch.tensor([sets])])
        # Rows and columns of each layer are counts of units times what one unit has, and what stays in any case.
        tables = []
        for which in ("rows", "columns"):
            counts = [np.bincount(owner[getattr(layer, which)].numpy(), minlength=sets + 1) for layer in layers]
            tables.append(np.stack(counts))
        per_unit = [table[:, :-1] // self._units for table in tables]
        self._rows, self._columns = per_unit
        self._fixed_rows, self._fixed_columns = (table[:, -1] for table in tables)
        self._positions = np.array([layer.positions for layer in layers])
        self._sizes = np.array([layer.rows.numel() * layer.columns.numel() for layer in layers])
        self._produces, self._reads = self._rows > 0, self._columns > 0
        inner = [layer.splits and dimensions in ("combined", "weights") for layer in layers]
        self._inner = np.array(inner) if dimensions == "combined" else np.array([dimensions == "weights"] * len(layers))
        by_filters = self._produces.any(1) & (dimensions != "weights")
        by_columns = self._inner if dimensions != "channels" else self._reads.any(1)
        self._free = by_filters | by_columns
        # Where only one dimension can be pruned, there is nothing to split.
        self._split = np.where(by_filters & by_columns, np.nan, np.where(by_filters, 1.0, 0.0))
        self.size = 2 * len(layers)

    def prior(self) -> Point:
        """What experience says: shares that fall with a layer's weights, or with its multiply-adds where these are
        limited; filters and columns alike.
        """
        sizes = self._sizes * (self._positions if "params" not in self.limits else 1)
        logs = np.log(np.maximum(sizes, 1).astype(float))
        logits = -EXPERIENCE * (logs - logs[self._free].mean() if self._free.any() else logs)
        return np.concatenate([np.clip(0.5 + logits / SPAN, 0, 1), np.full(len(sizes), 0.5)])

    def uniform(self) -> Point:
        """The same share of every layer."""
        return np.full(self.size, 0.5)

    def counts(self, point: Point) -> Counts:
        """The counts that a point stands for; they meet all limits.

        Raises:
            InfeasibleBudgetError: not even one filter and one column a layer meet them.
        """
        least = self._rounded(point, -_ENDS)
        if not self.met(least):
            reached = ", ".join(f"{n} {self.cost(least)[n]:.6g} of {limit:.6g}" for n, limit in self.limits.items())
            raise InfeasibleBudgetError(
                f"the target is out of reach: with the least of every layer, {reached} remain; choose a higher limit, "
                "keep fewer layers whole, or prune other dimensions"
            )
        if self.met(self._rounded(point, _ENDS)):
            return self._named(self._rounded(point, _ENDS))
        low, high = -_ENDS, _ENDS
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.met(self._rounded(point, middle)) else (low, middle)
        return self._named(self._traded(self._filled(self._rounded(point, low), self._shares(point, low))))

    def cost(self, counts: tuple[NDArray[np.int64], NDArray[np.int64]]) -> dict[str, float]:
        """Exact costs of numbers of units a set, and of columns (or weights) a layer."""
        units, inner = counts
        masks = [torch.arange(total) < kept for total, kept in zip(self._units.tolist(), units.tolist(), strict=True)]
        macs, params = self.matrices.groups.count(masks)
        rows, columns = self._alive(units)
        gone = rows * (columns - inner) if self.dimensions != "weights" else rows * columns - inner
        found: dict[str, float] = {
            "params": params - int(gone.sum()),
            "macs": macs - int((gone * self._positions).sum()),
        }
        return found | {name: float(of(masks)) for name, of in self.extra.items() if name in self.limits}

    def met(self, counts: tuple[NDArray[np.int64], NDArray[np.int64]]) -> bool:
        """Whether all limits are met."""
        found = self.cost(counts)
        return all(found[name] <= limit for name, limit in self.limits.items())

    def cost_of(self, counts: Counts) -> dict[str, float]:
        """Exact costs of counts."""
        units = np.array(counts.units)
        _, inner = self._all(units)
        for place, layer in enumerate(self.matrices.layers):
            inner[place] = counts.inner.get(layer.name, inner[place])
        return self.cost((units, inner))

    def table(self, counts: Counts) -> list[LayerRate]:
        """What each layer keeps."""
        units = np.array(counts.units)
        rows, columns = self._alive(units)
        whole_rows, whole_columns = self._alive(self._units)
        found = []
        for place, layer in enumerate(self.matrices.layers):
            inner = counts.inner.get(layer.name)
            kept = int(columns[place]) if inner is None or self.dimensions == "weights" else inner
            weights = int(rows[place]) * kept if inner is None or self.dimensions != "weights" else inner
            found.append(
                LayerRate(
                    layer.name,
                    (int(rows[place]), int(whole_rows[place])),
                    (kept, int(whole_columns[place])),
                    weights / int(self._sizes[place]),
                )
            )
        return found

    def _alive(self, units: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._fixed_rows + self._rows @ units, self._fixed_columns + self._columns @ units

    def _all(self, units: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows, columns = self._alive(units)
        return rows, (rows * columns if self.dimensions == "weights" else columns).copy()

    def _shares(self, point: Point, offset: float) -> tuple[Point, Point]:
        """Wished numbers of units a set, and shares of columns (or weights) a layer."""
        layers = len(self.matrices.layers)
        logits = SPAN * (point[:layers] - 0.5) + offset
        stays = np.where(self._free, 1 / (1 + np.exp(-logits)), 1.0)
        split = np.where(np.isnan(self._split), point[layers:], self._split)
        rows, columns = stays**split, stays ** (1 - split)
        shares = _mean(rows, self._produces)
        if self.dimensions == "channels":
            shares = shares * _mean(columns, self._reads)
        if self.dimensions == "weights":
            shares = np.ones(len(self._units))
        return shares * self._units, columns

    def _rounded(self, point: Point, offset: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        wished, shares = self._shares(point, offset)
        units = np.clip(np.floor(wished + 0.5), 1, self._units).astype(np.int64)
        _, whole = self._all(units)
        inner = np.where(self._inner, np.clip(np.floor(shares * whole + 0.5), 1, whole), whole).astype(np.int64)
        return units, inner

    def _filled(
        self, counts: tuple[NDArray[np.int64], NDArray[np.int64]], shares: tuple[Point, Point]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same and as many columns, weights or filters as still fit, where rounding took most away first."""
        units, inner = counts[0].copy(), counts[1].copy()
        _, whole = self._all(units)
        candidates = [(float(shares[1][place] * whole[place] - inner[place]), 1, int(place))
                      for place in np.flatnonzero(self._inner)]  # fmt: skip
        if self.dimensions != "weights":
            candidates += [(float(shares[0][place] - units[place]), 0, place) for place in range(len(units))]
        candidates.sort(reverse=True)
        before = None
        while before != (units.tolist(), inner.tolist()):
            before = (units.tolist(), inner.tolist())
            for _, kind, place in candidates:
                if kind == 0:
                    units, inner = self._one_more(units, inner, place)
                else:
                    inner = self._grown(units, inner, place, int(self._all(units)[1][place]))
        return units, inner

    def _traded(
        self, counts: tuple[NDArray[np.int64], NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """One filter more for a few columns less, where a whole filter is too coarse a step to come near the target."""
        best, nearest = counts, self._distance(counts)
        for place in range(len(self._units)) if self._inner.any() and self.dimensions == "combined" else ():
            if nearest <= NEAR:
                break
            if counts[0][place] == self._units[place]:
                continue
            units = counts[0].copy()
            units[place] += 1
            _, whole = self._all(units)
            inner = np.where(self._inner, counts[1], whole)
            for layer in np.flatnonzero(self._inner):
                low, high = 0, int(inner[layer])  # `high` does not fit, or the filter would have been added before
                while high - low > 1:
                    middle = (low + high) // 2
                    less = inner.copy()
                    less[layer] = middle
                    low, high = (middle, high) if self.met((units, less)) else (low, middle)
                less = inner.copy()
                less[layer] = low
                if low and (distance := self._distance((units, less))) < nearest:
                    best, nearest = (units, less), distance
        return best

    def _distance(self, counts: tuple[NDArray[np.int64], NDArray[np.int64]]) -> float:
        """How far below the nearest limit the costs are, as a share of it."""
        found = self.cost(counts)
        return min(1 - found[name] / limit for name, limit in self.limits.items())

    def _one_more(
        self, units: NDArray[np.int64], inner: NDArray[np.int64], place: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """One more unit of a set, if it fits."""
        if units[place] == self._units[place]:
            return units, inner
        more = units.copy()
        more[place] += 1
        grown = np.where(self._inner, inner, self._all(more)[1])
        return (more, grown) if self.met((more, grown)) else (units, inner)

    def _grown(self, units: NDArray[np.int64], inner: NDArray[np.int64], place: int, most: int) -> NDArray[np.int64]:
        """As many more columns of one layer as fit, found by doubling and halving."""
        step = 1
        found = inner
        while step:
            more = found.copy()
            more[place] = min(more[place] + step, most)
            if more[place] > found[place] and self.met((units, more)):
                found, step = more, step * 2
            else:
                step //= 2
        return found

    def _named(self, counts: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Counts:
        units, inner = counts
        names = [layer.name for layer in self.matrices.layers]
        limited = {names[place]: int(inner[place]) for place in np.flatnonzero(self._inner)}
        return Counts(tuple(int(kept) for kept in units), limited)


def _mean(values: Point, members: NDArray[np.bool_]) -> Point:
    """Mean over the layers (first axis of `members`) of each set; 1 where there is none."""
    number = members.sum(0)
    return np.where(number > 0, (values[:, None] * members).sum(0) / np.maximum(number, 1), 1.0)
