"""A budget over whole populations: which rows meet it, by how much the others miss, and a row to start from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latency_tables import Budget, Limit, SpaceCosts
from search.domain import Domain
from supernet.errors import ConfigError
from supernet.spaces import Genotypes

Excess = npt.NDArray[np.float64]
_ROUNDS = 200  # bounds the search for a subnet that meets limits which can each be met alone
_PATIENCE = 12
_KEPT = 16
_CHILDREN = 256


class Limits:
    """A budget's limits over the costs of a space.

    Args:
        budget: absolute limits on metrics of `costs`.
        costs: of the space that is searched.
    """

    def __init__(self, budget: Budget, costs: SpaceCosts) -> None:
        self.budget = budget
        self.costs = costs
        self._maxima = np.array([limit.max for limit in budget.limits])

    def met(self, genotypes: Genotypes) -> npt.NDArray[np.bool_]:
        """Which rows, int8 (n, genes), meet every limit, (n,) bool; a NaN never does."""
        return self._met(self._of(genotypes))

    def worst_excess(self, genotypes: Genotypes) -> Excess:
        """Each row's greatest excess relative to its limit, (n,) float64; 0 or less just where all are met."""
        costs = self._of(genotypes)
        with np.errstate(over="ignore"):  # of a limit near 0
            excess: Excess = (costs / self._maxima).max(axis=1) - 1
        # a cost one rounding step above its limit divides to 1
        return np.where(self._met(costs), excess, np.maximum(excess, np.finfo(np.float64).tiny))

    def _of(self, genotypes: Genotypes) -> npt.NDArray[np.float64]:
        return self.costs.of(genotypes, self.budget.names)

    def _met(self, costs: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        return np.logical_and.reduce(costs <= self._maxima, axis=1)  # type: ignore[no-any-return]


def require_tables(budget: Budget, devices: Collection[str]) -> None:
    """Refuse limits on devices without a latency table.

    Raises:
        ConfigError: there are some.
    """
    unknown = [limit.device for limit in budget.limits if limit.device is not None and limit.device not in devices]
    if unknown:
        raise ConfigError(
            f"no latency table for {', '.join(map(repr, unknown))}; known tables: {', '.join(devices) or 'none'}; "
            "give the search a table of that device, "
            "or measure one with: onceforall profile RUN_FOLDER --device NAME"
        )


@dataclass(frozen=True)
class Start:
    """The subnet that comes nearest to a budget.

    Attributes:
        genotype: canonical, int8 (genes,).
        excess: its worst relative excess; 0 or less: the budget is met.
        least: the least value that each limited metric can have alone, exact; in the order of the budget's limits.
    """

    genotype: Genotypes
    excess: float
    least: list[tuple[Limit, float]]


def nearest_to_budget(limits: Limits, domain: Domain, rng: np.random.Generator) -> Start:
    """A subnet that meets the budget, or else one that misses it by little.

    The cheapest subnet of each limited metric is exact. If none of these meets all limits, a bounded search makes the
    worst relative excess smaller; with one limit there is nothing left to search.
    """
    found = [limits.costs.minimum(limit.name) for limit in limits.budget.limits]
    least = [(limit, value) for limit, (value, _) in zip(limits.budget.limits, found, strict=True)]
    kept = np.stack([genotype for _, genotype in found])
    excess = limits.worst_excess(kept)
    stale = 0
    for _ in range(_ROUNDS if len(found) > 1 else 0):
        best = excess.min()
        if best <= 0 or stale == _PATIENCE:
            break
        mothers, mates = (kept[rng.integers(len(kept), size=_CHILDREN)] for _ in range(2))
        crossed = np.where(rng.random(mothers.shape) < 0.5, mates, mothers)
        changed = np.where(rng.random(mothers.shape) < 2 / mothers.shape[1], domain.random(rng, _CHILDREN), mothers)
        around = [domain.one_gene_changes(genotype) for genotype in kept[:4]]
        kept = np.unique(domain.canonical(np.concatenate([kept, crossed, changed, *around])), axis=0)
        excess = limits.worst_excess(kept)
        order = np.argsort(excess, kind="stable")[:_KEPT]
        kept, excess = kept[order], excess[order]
        stale = stale + 1 if excess[0] >= best else 0
    nearest = int(excess.argmin())
    return Start(kept[nearest], float(excess[nearest]), least)
