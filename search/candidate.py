"""What a search returns."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latency_tables import COUNTS, Limit
from supernet.arch import SubnetConfig
from supernet.errors import InfeasibleBudgetError

_COUNTS = tuple(model.name for model in COUNTS)


@dataclass(frozen=True)
class Candidate:
    """A subnet that a search proposes; its accuracy is a guess until it is measured.

    Attributes:
        config: the subnet.
        predicted_accuracy: the predictor's guess, in [0, 1].
        costs: every metric that the search knows -> value in its unit (``macs``, ``latency_ms@note10``).
        excess: exceeded limits -> by how much, relative to the limit (0.1 is 10 % too much); empty if none is.
        scored: number of different subnets that the search asked the predictor about.
    """

    config: SubnetConfig
    predicted_accuracy: float
    costs: Mapping[str, float]
    excess: Mapping[str, float] = field(default_factory=dict)
    scored: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "config": self.config.to_dict(),
            "predicted_accuracy": self.predicted_accuracy,
            "costs": dict(self.costs),
            "excess": {name: _finite(value) for name, value in self.excess.items()},
            "scored": self.scored,
        }


@dataclass(frozen=True)
class TightestLimit:
    """The limit that is hardest to meet.

    Attributes:
        limit: as asked.
        least: the least value of its metric among all subnets of the space; exact.
    """

    limit: Limit
    least: float

    @property
    def excess(self) -> float:
        """By how much even that exceeds the limit, relative to it; 0 or less where the limit alone can be met."""
        return self.least / self.limit.max - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**self.limit.to_dict(), "least": self.least, "excess": _finite(self.excess)}


class NoSubnetError(InfeasibleBudgetError):
    """No subnet meets the budget, and this is how near one can get.

    Attributes:
        tightest: the limit that is hardest to meet.
        nearest: the subnet whose worst relative excess is least.
    """

    def __init__(self, message: str, tightest: TightestLimit, nearest: Candidate) -> None:
        super().__init__(message)
        self.tightest = tightest
        self.nearest = nearest

    def to_dict(self) -> dict[str, Any]:
        """The figures, plain JSON types."""
        return {"tightest": self.tightest.to_dict(), "nearest": self.nearest.to_dict()}

    def __reduce__(self) -> tuple[Any, ...]:
        return NoSubnetError, (str(self), self.tightest, self.nearest)


def with_whole_counts(costs: Mapping[str, float]) -> dict[str, float]:
    """Costs by metric as plain numbers; those that count something as int."""
    return {name: int(value) if name in _COUNTS else float(value) for name, value in costs.items()}


def _finite(excess: float) -> float:
    """The excess over a limit near 0 can be infinite, for which JSON has no number."""
    return min(excess, sys.float_info.max)
