"""How much is to be pruned, and which units that takes: limits on exact costs, met with as few units as possible.

Units are removed in the order of their redundancy, in every set from its most redundant one on. Costs fall with every
unit, so the least number of units that meets all limits is found by bisection over exact counts of the compact model;
a limit is met or refused, never nearly met.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

import torch
from torch import Tensor, nn

from latency_tables import Budget, Limit
from pruning.units import Cost, Masks, UnitSet
from supernet.errors import ConfigError, InfeasibleBudgetError

SPARSITY = "sparsity"
"""Share of units that are zero."""
EXAMPLE = "write it as macs=50%, params<=2M, sparsity=0.6 or latency_ms@DEVICE<=20"

_PIECE = re.compile(r"\s*(?P<name>[^\s<>=]+)\s*(?P<sign><=|>=|=)\s*(?P<value>\S.*?)\s*")
_COUNTED = ("macs", "params")

Latencies = Mapping[str, Callable[[Masks], float]]
"""Device -> milliseconds of the compact model that keeps the masked units; must not rise when a unit goes."""


class PrunableGroups(Protocol):
    """What optimisers need to know of the groups; `ZeroInvariantGroups` is one."""

    @property
    def sets(self) -> tuple[UnitSet, ...]:
        """The sets of units."""

    @property
    def model(self) -> nn.Module:
        """The model whose groups these are."""

    def count(self, kept: Masks) -> Cost:
        """Exact cost of the compact model that keeps these units."""


@dataclass(frozen=True)
class Target:
    """Limits on the compact model, all of which are to be met.

    Attributes:
        sparsity: least share of all units that is zero, 0 to 1; None: no such limit.
        budget: upper limits on MACs, parameters or latencies, absolute or as shares of the dense model's; None: none.

    Raises:
        ConfigError: there is no limit, the sparsity is not within 0 and 1, or a limit is on something else.
    """

    sparsity: float | None = None
    budget: Budget | None = None

    def __post_init__(self) -> None:
        if self.sparsity is None and self.budget is None:
            raise ConfigError(f"the target has no limit; {EXAMPLE}")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise ConfigError(f"target: sparsity {self.sparsity}; allowed: 0 or more and below 1; {EXAMPLE}")
        for limit in self.limits:
            if limit.metric not in (*_COUNTED, "latency_ms") or limit.quantile is not None:
                raise ConfigError(
                    f"target: {limit}; allowed: sparsity, macs, params, latency_ms@DEVICE without a percentile; "
                    f"{EXAMPLE}"
                )
            if limit.relative and limit.max > 1:
                raise ConfigError(f"target: {limit}; allowed: shares up to 100 % of the dense model; {EXAMPLE}")

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The budget's limits."""
        return () if self.budget is None else self.budget.limits

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read limits that are separated by commas, each NAME=VALUE or NAME<=VALUE (sparsity: >=).

        A plain number up to 1, or one with %, is a share of the dense model's cost; others are absolute, with the units
        of `Budget.parse`.

        Raises:
            ConfigError: a piece that is wrong, and what is allowed.
        """
        sparsity, pieces = None, []
        for piece in text.split(","):
            match = _PIECE.fullmatch(piece)
            if match is None:
                raise ConfigError(f"target: {piece.strip()!r} is not NAME=VALUE; {EXAMPLE}")
            name, sign, value = match["name"], match["sign"], match["value"]
            share = _share(value)
            if name == SPARSITY:
                if share is None or sign == "<=" or sparsity is not None:
                    raise ConfigError(
                        f"target: {piece.strip()!r}; allowed: one sparsity, a share such as 0.5 or 50%, written with = "
                        f"or >=; {EXAMPLE}"
                    )
                sparsity = share
            elif sign == ">=":
                raise ConfigError(f"target: {piece.strip()!r}; only sparsity may be at least something; {EXAMPLE}")
            else:
                pieces.append(f"{name}<={value if share is None else f'{_percent(share)}%'}")
        return cls(sparsity, Budget.parse(", ".join(pieces)) if pieces else None)

    def __str__(self) -> str:
        """Canonical text; `parse` gives an equal target back."""
        own = [] if self.sparsity is None else [f"{SPARSITY}>={_percent(self.sparsity)}%"]
        return ", ".join([*own, *map(_text, self.limits)])


@dataclass(frozen=True)
class Choice:
    """The units that are to go.

    Attributes:
        redundant: True for them; one bool tensor (units) a set.
        costs: of the compact model without them: ``units``, ``macs``, ``params``, ``latency_ms@DEVICE``.
        dense: the same of the whole model.
        cuts: number of cuts, `Order.cut`, that led to them.
    """

    redundant: tuple[Tensor, ...]
    costs: dict[str, float]
    dense: dict[str, float]
    cuts: int


class Order:
    """All units that may go, most redundant first, in cuts that keep every set within its limits.

    Args:
        sets: the sets of units.
        scores: redundancy, float (units) a set; the highest goes first, of equal ones the first. Infinite: it is
            gone already.
        divisible: the number of units that a cut set keeps is a multiple of it.
        min_share: least share of a set's units that stay; one unit always does.
        fixed: sets (by number) that keep all their units.

    Attributes:
        gone: number of cuts, the first ones, that only take units which are gone already.
    """

    def __init__(
        self,
        sets: Sequence[UnitSet],
        scores: Sequence[Tensor],
        *,
        divisible: int = 1,
        min_share: float = 0.0,
        fixed: frozenset[int] = frozenset(),
    ) -> None:
        self.sets = sets
        self.ranked = [score.cpu().double().argsort(descending=True, stable=True) for score in scores]
        cuts: list[tuple[float, int, int]] = []  # redundancy, set, units of it that are gone then
        for number, (unit_set, score) in enumerate(zip(sets, scores, strict=True)):
            if number in fixed:
                continue
            least = max(1, math.ceil(min_share * unit_set.units - 1e-9))
            ordered, gone = score.cpu().double()[self.ranked[number]], 0
            for kept in range(unit_set.units - 1, least - 1, -1):
                if kept % divisible == 0:
                    after = unit_set.units - kept
                    cuts.append((float(ordered[gone:after].mean()), number, after))
                    gone = after
        # Python's sort is stable, and a set's cuts come in falling order, so that they stay in their order.
        self._cuts = sorted(cuts, key=lambda cut: -cut[0])
        self.gone = sum(cut[0] == math.inf for cut in cuts)

    def __len__(self) -> int:
        return len(self._cuts)

    def cut(self, count: int) -> tuple[Tensor, ...]:
        """Masks of the units that are gone after the first `count` cuts; more cuts only add units."""
        gone = [0] * len(self.sets)
        for _, number, after in self._cuts[:count]:
            gone[number] = after
        masks = []
        for unit_set, ranked, amount in zip(self.sets, self.ranked, gone, strict=True):
            mask = torch.zeros(unit_set.units, dtype=torch.bool)
            mask[ranked[:amount]] = True
            masks.append(mask)
        return tuple(masks)


def costs_of(groups: PrunableGroups, keep: Masks, latencies: Latencies | None = None) -> dict[str, float]:
    """Costs of the compact model that keeps these units, by name: units, macs, params, latency_ms@DEVICE."""
    cost = groups.count(keep)
    found: dict[str, float] = {"units": sum(int(mask.sum()) for mask in keep), "macs": cost.macs, "params": cost.params}
    return found | {f"latency_ms@{device}": float(of(keep)) for device, of in (latencies or {}).items()}


def choose(groups: PrunableGroups, order: Order, target: Target, latencies: Latencies | None = None) -> Choice:
    """The first units of the order, as few as meet the target by exact count.

    Raises:
        ConfigError: a limit is on the latency on a device without a table.
        InfeasibleBudgetError: all cuts together do not meet the target; the message says what they reach.
    """
    for limit in target.limits:
        if limit.device is not None and limit.device not in (latencies or {}):
            known = ", ".join(sorted(latencies or {})) or "none"
            raise ConfigError(
                f"target: no latencies are known for {limit.device!r}; known: {known}; "
                "pass latencies={DEVICE: function of the kept units}, or limit macs or params"
            )
    dense = costs_of(groups, tuple(~mask for mask in order.cut(0)), latencies)
    limits = {limit.name: limit.max * (dense[limit.name] if limit.relative else 1) for limit in target.limits}
    if target.sparsity is not None:
        limits["units"] = dense["units"] - target.sparsity * dense["units"] + 1e-9

    def costs(count: int) -> dict[str, float]:
        return costs_of(groups, tuple(~mask for mask in order.cut(count)), latencies)

    def met(found: dict[str, float]) -> bool:
        return all(found[name] <= limit for name, limit in limits.items())

    found = costs(len(order))
    if not met(found):
        reached = ", ".join(
            f"{name} {found[name]:.6g} of {dense[name]:.6g} ({100 * found[name] / max(dense[name], 1e-12):.1f} %)"
            for name in limits
        )
        raise InfeasibleBudgetError(
            f"target {target} is out of reach: with all units pruned that may be, {reached} remain; ask for "
            "no less than these, or let more go: a lower min_share or divisible, fewer kept or untrained layers"
        )
    low, high = 0, len(order)  # `high` meets the target
    while low < high:
        middle = (low + high) // 2
        if met(costs(middle)):
            high = middle
        else:
            low = middle + 1
    return Choice(order.cut(high), costs(high), dense, high)


def _text(limit: Limit) -> str:
    """The limit as text; an absolute one up to 1 with a unit, since a plain number up to 1 is a share."""
    if limit.relative or limit.max > 1:
        return str(limit)
    return f"{limit}ms" if limit.device is not None else f"{limit.metric}<={Decimal(repr(limit.max)) / 1000}K"


def _share(text: str) -> float | None:
    """The share that a value says, or None where it is an absolute one."""
    number, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        value = float(number)
    except ValueError:
        return None
    if percent:
        return value / 100
    return value if 0 <= value <= 1 else None


def _percent(share: float) -> float | int:
    percent = round(100 * share, 10)
    return int(percent) if percent.is_integer() else percent
