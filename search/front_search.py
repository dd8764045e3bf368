"""Front search: good subnets for every budget at once.

The range of each metric is cut into cells; the subnets of a cell that are nearest to the front breed with each other
and with those of the next cells, so that what one budget's search learns serves its neighbours. Near to the front
means: little less accurate than the best subnet that costs no more. As in `search.evolution`, many breed at first and
few at last. Source of the cells: Mouret and Clune, "Illuminating search spaces by mapping elites", 2015, whose feature
dimensions the metrics are; they keep the best of each cell, which leaves the cheaper part of a cell without offspring.

Measured with MIT's predictor and Note10 tables, accuracy against latency (benchmarks/search_quality.py): keeping the
best of each of 64 cells was up to 0.0018 worse at five budgets than this, at as many subnets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_tables import COUNTS, Budget, CostModel, LatencyTable, Limit, SpaceCosts
from latency_tables.budget import latency_name
from search.domain import Domain, known_resolutions
from search.evolution import EvolutionarySearch
from search.pareto import ParetoFront
from search.predictors.base import Predictor, require_space
from search.seen import Seen
from search.threads import one_blas_thread
from supernet.errors import ConfigError, one_of
from supernet.spaces import Genotypes, SearchSpace

Scores = npt.NDArray[np.floating]
_Scored = tuple[Genotypes, Scores, npt.NDArray[np.intp]]
_PATIENCE = 20  # generations in a row without a new subnet after which the search ends
_MUTATION = (0.02, 0.1)  # chance of each gene of a mutant to be drawn anew: each mutant's own, between these
_CELLS = {1: 8, 2: 6, 3: 4}
"""Cells a metric, by the number of metrics."""
_STEPS = {1: 64, 2: 8, 3: 4}
"""Steps a cell and metric, in which the front is known that subnets are compared with."""


class FrontSearch:
    """Finds the front of predicted accuracy against some metrics. Equal arguments give equal fronts.

    Args:
        space: where to search; the search keeps to the resolutions that the predictor and every table know.
        predictor: fitted for that space.
        tables: device -> latency table.
        metrics: one to three costs that the front is about, as costs are named (``macs``, ``latency_ms@note10``).
        population: new subnets a generation, at most.
        generations: generations after the first population.
        seed: of all random choices.
        kept: number of subnets that breed, in the first generation and in the last; between them it falls
            geometrically. All cells have the same share of it.

    Raises:
        ConfigError: a setting is outside of what is allowed (all are named), an unknown metric, or the predictor is
            for another space.
        TableError: a table is for another space, or no resolution is known by all.
    """

    def __init__(
        self,
        space: SearchSpace,
        predictor: Predictor,
        tables: Mapping[str, LatencyTable] = MappingProxyType({}),
        *,
        metrics: Sequence[str],
        population: int = 2000,
        generations: int = 450,
        seed: int = 0,
        kept: tuple[float, float] = (2400.0, 480.0),
    ) -> None:
        faults = [
            f"{name} is {value!r}; allowed: {allowed}"
            for name, value, good, allowed in (
                ("metrics", tuple(metrics), 1 <= len(set(metrics)) == len(metrics) <= 3, "1 to 3 different ones"),
                ("population", population, population >= 2, "2 or more"),
                ("generations", generations, generations >= 0, "0 or more"),
                ("seed", seed, seed >= 0, "0 or more"),
                ("kept", kept, all(1 <= number <= 10**6 for number in kept), "two of 1 to 1,000,000"),
            )
            if not good
        ]
        if faults:
            raise ConfigError(f"front search: {'; '.join(faults)}")
        require_space(predictor, space)
        self.space = space
        self.predictor = predictor
        resolutions = known_resolutions(space, predictor, tables)
        self.domain = Domain(space, {"resolution": resolutions})
        models: dict[str, CostModel] = {model.name: model for model in COUNTS}
        models |= {latency_name(device): table.cost_model() for device, table in tables.items()}
        for metric in metrics:
            if metric not in models:
                raise ConfigError(one_of("metric", metric, list(models)))
        self.costs = SpaceCosts(space, models, within={"resolution": resolutions})
        self.metrics = tuple(metrics)
        self._cells = _CELLS[len(metrics)]
        self._steps_a_cell = _STEPS[len(metrics)]
        self.population = population
        self.generations = generations
        self.seed = seed
        self.kept = kept

    def run(self, progress: Callable[[int, int], None] | None = None) -> ParetoFront:
        """Search.

        Args:
            progress: called as (generations done, generations) after each; may raise to stop the search.

        Returns:
            The front, with all metrics' costs of each subnet on it.
        """
        with one_blas_thread():
            rows, scores, scored = self._run(progress)
        return ParetoFront.of(
            self.space,
            rows,
            self.predictor.predict_genotypes(rows),
            scores,
            dict(zip(self.costs.metrics, self.costs.of(rows).T, strict=True)),
            self.metrics,
            scored=scored,
            of_largest={name: self.costs.of_largest(name) for name in self.costs.metrics},
        )

    def _run(self, progress: Callable[[int, int], None] | None) -> tuple[Genotypes, Scores, int]:
        rng = np.random.default_rng(self.seed)
        seen = Seen()
        edges = self._edges()
        rows = seen.new(self._first_population(rng))
        scores = self.predictor.rank_genotypes(rows)
        steps = self._steps(rows, edges)
        every = [(rows, scores, steps)]  # a cell's share may be less than its part of the front
        first, last = self.kept
        stale = 0
        for generation in range(1, self.generations + 1):
            kept = first * (last / first) ** (generation / self.generations)
            rows, scores, steps, cells = self._nearest_to_front(rows, scores, steps, kept)
            children = seen.new(self._breed(rows, cells, rng))
            every.append((children, self.predictor.rank_genotypes(children), self._steps(children, edges)))
            rows, scores, steps = _joined([(rows, scores, steps), every[-1]])
            stale = 0 if len(children) else stale + 1
            if progress:
                progress(generation, self.generations)
            if stale == _PATIENCE:
                break
        rows, scores, steps = _joined(every)
        lower = np.pad(self._stepped_front(scores, steps), [(1, 0)] * len(self.metrics), constant_values=-np.inf)
        candidates = scores > lower[tuple(steps.T)]  # no subnet that costs less by every metric is as good
        return rows[candidates], scores[candidates], len(seen)

    def _edges(self) -> list[npt.NDArray[np.float64]]:
        """Inner borders of each metric's steps, geometric between its least value and the largest subnet's."""
        count = self._cells * self._steps_a_cell
        return [
            np.geomspace(max(self.costs.minimum(metric)[0], 1e-12), self.costs.of_largest(metric), count + 1)[1:-1]
            for metric in self.metrics
        ]

    def _steps(self, rows: Genotypes, edges: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.intp]:
        """Number of each row's step by each metric, (n, metrics)."""
        costs = self.costs.of(rows, self.metrics)
        return np.column_stack(
            [np.searchsorted(borders, costs[:, column], side="left") for column, borders in enumerate(edges)]
        )

    def _nearest_to_front(
        self, rows: Genotypes, scores: Scores, steps: npt.NDArray[np.intp], kept: float
    ) -> tuple[Genotypes, Scores, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Each cell's share of `kept` rows, those nearest to the front, sorted by cell; and their cells, (n,)."""
        dimensions = len(self.metrics)
        front = self._stepped_front(scores, steps)
        cells = np.ravel_multi_index(tuple((steps // self._steps_a_cell).T), (self._cells,) * dimensions)
        order = np.lexsort((front[tuple(steps.T)] - scores, cells))
        in_order = cells[order]
        starts = np.flatnonzero(np.diff(in_order, prepend=-1))
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
        order = order[rank < max(1, round(kept / self._cells**dimensions))]
        return rows[order], scores[order], steps[order], cells[order]

    def _stepped_front(self, scores: Scores, steps: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Best score up to each step, one axis a metric."""
        front = np.full((self._cells * self._steps_a_cell,) * len(self.metrics), -np.inf)
        np.maximum.at(front, tuple(steps.T), scores)
        for axis in range(front.ndim):
            np.maximum.accumulate(front, axis=axis, out=front)
        return front

    def _first_population(self, rng: np.random.Generator) -> Genotypes:
        """Random subnets, more or less of each taken from the cheapest ones and the largest."""
        rows = self.domain.random(rng, self.population)
        ends = np.stack([*(self.costs.minimum(metric)[1] for metric in self.metrics), self.domain.largest()])
        shares = rng.random((len(rows), 1))
        towards = ends[rng.integers(len(ends), size=len(rows))]
        return self.domain.canonical(np.concatenate([ends, np.where(rng.random(rows.shape) < shares, towards, rows)]))

    def _breed(self, parents: Genotypes, cells: npt.NDArray[np.intp], rng: np.random.Generator) -> Genotypes:
        """Children, canonical: half of them mutants, half crossings of parents from the same cell or the next.

        `parents` are sorted by cell; every cell has as many children as any other.
        """
        starts = np.flatnonzero(np.diff(cells, prepend=-1))
        counts = np.diff(starts, append=len(cells))
        place = rng.integers(len(starts), size=self.population)
        away = rng.integers(-1, 2, size=self.population) * rng.integers(2, size=self.population)
        near = np.clip(place + away, 0, len(starts) - 1)
        mothers, mates = (
            parents[starts[cell] + (rng.random(self.population) * counts[cell]).astype(np.intp)]
            for cell in (place, near)
        )
        half = self.population // 2
        mates[:half] = self.domain.random(rng, half)
        share = np.full((self.population, 1), 0.5, dtype=np.float32)
        share[:half, 0] = rng.uniform(*_MUTATION, size=half)
        taken = rng.random(mothers.shape, dtype=np.float32) < share
        return self.domain.canonical(np.where(taken, mates, mothers))


def _joined(parts: Sequence[_Scored]) -> _Scored:
    rows, scores, steps = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(scores), np.concatenate(steps)


def gaps(front: ParetoFront, search: EvolutionarySearch, count: int) -> list[dict[str, Any]]:
    """How far the front is from searches for one budget each.

    Args:
        front: the front.
        search: made for the same space, predictor and tables.
        count: budgets: limits on the front's first metric, in geometric steps between its least and greatest cost.

    Returns:
        For each its limit, both predicted accuracies and the gap, the search's less the front's: above 0 where the
        front is worse. `scored` is what the search scored for that one budget.
    """
    metric = front.metrics[0]
    least, greatest = float(front.costs[metric].min()), float(front.costs[metric].max())
    found = []
    for value in np.geomspace(least, greatest, count + 2)[1:-1].tolist():
        budget = Budget((Limit.on(metric, value),))
        looked_up, searched = front.look_up(budget), search.run(budget)
        found.append(
            {
                "budget": str(budget),
                "front": looked_up.predicted_accuracy,
                "search": searched.predicted_accuracy,
                "gap": searched.predicted_accuracy - looked_up.predicted_accuracy,
                "scored": searched.scored,
            }
        )
    return found
