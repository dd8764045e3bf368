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

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_tables import Budget, LatencyTable, Limit
from search.checkpoint import Checkpoint, Scores, State
from search.evolution import EvolutionarySearch
from search.front_finder import STEPS, FrontFinder, Steps
from search.generational import Progress
from search.pareto import ParetoFront
from search.predictors.base import Predictor
from supernet.spaces import Genotypes, SearchSpace

_CELLS = {1: 8, 2: 6, 3: 4}
"""Cells a metric, by the number of metrics; each is some of the steps in which the front is known."""


class FrontSearch(FrontFinder):
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
        TableError: a table is for another space or number of classes, or no resolution is known by all.
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
        super().__init__(
            "front search",
            space,
            predictor,
            tables,
            metrics=metrics,
            population=population,
            generations=generations,
            seed=seed,
            settings=[("kept", kept, all(1 <= number <= 10**6 for number in kept), "two of 1 to 1,000,000")],
        )
        self.kept = kept
        self._cells = _CELLS[len(metrics)]
        self._steps_a_cell = STEPS[len(metrics)] // self._cells

    def _evolve(self, state: State, progress: Progress | None, checkpoint: Checkpoint) -> None:
        first, last = self.kept
        steps = self._steps(state.rows)
        for generation in self._each_generation(state, progress, checkpoint):
            kept = first * (last / first) ** (generation / self.generations)
            rows, scores, steps, cells = self._nearest_to_front(state.rows, state.scores, steps, kept)
            children, new_scores = self._score_new(self._breed(rows, cells, state.rng), state)
            state.rows, state.scores = np.concatenate([rows, children]), np.concatenate([scores, new_scores])
            steps = np.concatenate([steps, self._steps(children)])

    def _nearest_to_front(
        self, rows: Genotypes, scores: Scores, steps: Steps, kept: float
    ) -> tuple[Genotypes, Scores, Steps, npt.NDArray[np.intp]]:
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
        return self._children(mothers, mates, rng)


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
