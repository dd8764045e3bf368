"""NSGA-II: the usual search for a front, beside `FrontSearch`.

Source: Deb, Pratap, Agarwal and Meyarivan, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE
Transactions on Evolutionary Computation 6, 2002. Where we differ: a subnet is scored once at most, so a generation can
have fewer children than parents; children are bred as in our other searches, by uniform crossing of two parents or of
one with a random subnet; the first population is the one of `FrontSearch`; parents of equal rank and crowding are told
apart by their order, not by a coin; and the front is that of all subnets that were scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from latency_tables import LatencyTable
from search.checkpoint import Checkpoint, Scores, State
from search.front_finder import FrontFinder
from search.generational import Progress
from search.pareto import dominated
from search.predictors.base import Predictor
from supernet.spaces import Genotypes, SearchSpace

Objectives = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


class NSGA2(FrontFinder):
    """Finds the front of predicted accuracy against some metrics. Equal arguments give equal fronts.

    Args:
        space: where to search; the search keeps to the resolutions that the predictor and every table know.
        predictor: fitted for that space.
        tables: device -> latency table.
        metrics: one to three costs that the front is about, as costs are named (``macs``, ``latency_ms@note10``).
        population: subnets that breed, and new ones a generation, at most.
        generations: generations after the first population.
        seed: of all random choices.

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
    ) -> None:
        super().__init__(
            "NSGA-II",
            space,
            predictor,
            tables,
            metrics=metrics,
            population=population,
            generations=generations,
            seed=seed,
        )

    def _evolve(self, state: State, progress: Progress | None, checkpoint: Checkpoint) -> None:
        for _ in self._each_generation(state, progress, checkpoint):
            state.rows, state.scores = self._survivors(state.rows, state.scores)
            mothers, mates = (self._tournament(state) for _ in range(2))
            children, scores = self._score_new(self._children(mothers, mates, state.rng), state)
            state.rows = np.concatenate([state.rows, children])
            state.scores = np.concatenate([state.scores, scores])

    def _survivors(self, rows: Genotypes, scores: Scores) -> tuple[Genotypes, Scores]:
        """The best `population` rows by rank, then by crowding, best first (section III-C)."""
        objectives = np.column_stack([-scores.astype(np.float64), self.costs.of(rows, self.metrics)])
        chosen: list[Places] = []
        left = self.population
        for front in fronts(objectives):
            chosen.append(front[np.argsort(-crowding_distances(objectives[front]), kind="stable")][:left])
            left -= len(chosen[-1])
            if not left:
                break
        best = np.concatenate(chosen)
        return rows[best], scores[best]

    def _tournament(self, state: State) -> Genotypes:
        """Of two random survivors the better one, `population` times; they are sorted, so it is the earlier one."""
        places = state.rng.integers(len(state.rows), size=(2, self.population))
        winners: Genotypes = state.rows[places.min(axis=0)]
        return winners


def fronts(objectives: Objectives) -> Iterator[Places]:
    """The non-dominated rows, those that are when the first are taken away, and so on (section III-A).

    A row dominates another that is no better in any objective and worse in one; equal rows are on one front.

    Args:
        objectives: (n, two or more), less is better.

    Yields:
        Each front's places among the rows.
    """
    order = np.lexsort(objectives.T[::-1])
    values = objectives[order]
    starts = np.flatnonzero(np.append(True, (values[1:] != values[:-1]).any(axis=1)))  # of runs of equal rows
    lengths = np.diff(starts, append=len(order))
    left = np.arange(len(starts))
    while len(left):
        # sorted by the first objective, so that only an earlier row can dominate, and the others decide
        is_dominated = dominated(values[starts[left], 1:])
        chosen = np.zeros(len(starts), dtype=bool)
        chosen[left[~is_dominated]] = True
        yield order[np.repeat(chosen, lengths)]
        left = left[is_dominated]


def crowding_distances(objectives: Objectives) -> npt.NDArray[np.float64]:
    """How far each row's neighbours on its front are apart, (n,): infinite at the ends (section III-B).

    Args:
        objectives: of one front, (n, objectives).
    """
    distances = np.zeros(len(objectives))
    for column in objectives.T:
        order = np.argsort(column, kind="stable")
        values = column[order]
        spread = values[-1] - values[0]
        distances[order[[0, -1]]] = np.inf
        if spread > 0:
            distances[order[1:-1]] += (values[2:] - values[:-2]) / spread
    return distances
