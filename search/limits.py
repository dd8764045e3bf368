"""A budget over whole populations: which rows meet it, by how much the others miss, and a row to start from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latency_tables import Budget, Limit, SpaceCosts
from search.encoding import GenotypeEncoder
from supernet.errors import ConfigError
from supernet.spaces import Genotypes

Excess = npt.NDArray[np.float64]
_ROUNDS = 200  # bounds the search for a subnet that meets limits which can each be met alone
_PATIENCE = 12
_KEPT = 16
_CHILDREN = 256


@dataclass(frozen=True)
class Limits:
    """A budget's limits as columns of a space's costs.

    Attributes:
        budget: the limits, by name.
        columns: their columns in `SpaceCosts.of`, (limits,).
        maxima: their greatest allowed values, (limits,).
    """

    budget: Budget
    columns: npt.NDArray[np.intp]
    maxima: npt.NDArray[np.float64]

    @classmethod
    def of(cls, budget: Budget, costs: SpaceCosts) -> Limits:
        """Look the budget's metrics up.

        Raises:
            ConfigError: a limit is on a device without a latency table.
        """
        devices = [metric.partition("@")[2] for metric in costs.metrics if "@" in metric]
        unknown = [limit.device or limit.metric for limit in budget.limits if limit.name not in costs.metrics]
        if unknown:
            raise ConfigError(
                f"no latency table for {', '.join(map(repr, unknown))}; known tables: {', '.join(devices) or 'none'}; "
                "give the search a table of that device, "
                "or measure one with: onceforall profile RUN_FOLDER --device NAME"
            )
        columns = [costs.metrics.index(limit.name) for limit in budget.limits]
        return cls(budget, np.array(columns, dtype=np.intp), np.array([limit.max for limit in budget.limits]))

    def met(self, costs: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which rows of `costs` (n, metrics) meet every limit, (n,) bool; a NaN never does."""
        return np.logical_and.reduce(costs[:, self.columns] <= self.maxima, axis=1)  # type: ignore[no-any-return]

    def worst_excess(self, costs: npt.NDArray[np.float64]) -> Excess:
        """Each row's greatest excess relative to its limit, (n,) float64; 0 or less just where all are met."""
        excess: Excess = (costs[:, self.columns] / self.maxima).max(axis=1) - 1
        # a cost one rounding step above its limit divides to 1
        return np.where(self.met(costs), excess, np.maximum(excess, np.finfo(np.float64).tiny))


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


def nearest_to_budget(limits: Limits, costs: SpaceCosts, encoder: GenotypeEncoder, rng: np.random.Generator) -> Start:
    """A subnet that meets the budget, or else one that misses it by little.

    The cheapest subnet of each limited metric is exact. If none of these meets all limits, a bounded search makes the
    worst relative excess smaller; with one limit there is nothing left to search.
    """
    found = [costs.minimum(limit.name) for limit in limits.budget.limits]
    least = [(limit, value) for limit, (value, _) in zip(limits.budget.limits, found, strict=True)]
    kept = np.stack([genotype for _, genotype in found])
    excess = limits.worst_excess(costs.of(kept))
    stale = 0
    for _ in range(_ROUNDS if len(found) > 1 else 0):
        best = excess.min()
        if best <= 0 or stale == _PATIENCE:
            break
        mothers, mates = (kept[rng.integers(len(kept), size=_CHILDREN)] for _ in range(2))
        crossed = np.where(rng.random(mothers.shape) < 0.5, mates, mothers)
        changed = np.where(
            rng.random(mothers.shape) < 2 / mothers.shape[1], random_genotypes(encoder, rng, _CHILDREN), mothers
        )
        around = [one_gene_changes(encoder, genotype) for genotype in kept[:4]]
        kept = np.unique(encoder.canonical(np.concatenate([kept, crossed, changed, *around])), axis=0)
        excess = limits.worst_excess(costs.of(kept))
        order = np.argsort(excess, kind="stable")[:_KEPT]
        kept, excess = kept[order], excess[order]
        stale = stale + 1 if excess[0] >= best else 0
    nearest = int(excess.argmin())
    return Start(kept[nearest], float(excess[nearest]), least)


def random_genotypes(encoder: GenotypeEncoder, rng: np.random.Generator, count: int) -> Genotypes:
    """Uniform rows, int8 (count, genes), not canonical."""
    return (rng.random((count, len(encoder.choices)), dtype=np.float32) * encoder.choices).astype(np.int8)


def one_gene_changes(encoder: GenotypeEncoder, genotype: Genotypes) -> Genotypes:
    """The genotype with one gene set to one of its choices, int8 (all choices of all genes, genes), not canonical."""
    genes = np.repeat(np.arange(len(encoder.choices)), encoder.choices.astype(np.intp))
    values = np.concatenate([np.arange(count) for count in encoder.choices])
    rows = np.tile(genotype, (len(genes), 1))
    rows[np.arange(len(genes)), genes] = values
    return rows
