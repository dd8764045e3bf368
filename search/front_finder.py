"""What searches for a front share: their metrics, a first population that spans them, and the front of all scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latency_tables import LatencyTable
from search.checkpoint import Checkpoint, Scores, State
from search.generational import GenerationalSearch, Progress, Setting
from search.pareto import ParetoFront
from search.predictors.base import Predictor
from search.seen import Seen
from search.threads import one_blas_thread
from supernet.errors import ConfigError, one_of
from supernet.spaces import Genotypes, SearchSpace

Steps = npt.NDArray[np.intp]
STEPS = {1: 512, 2: 48, 3: 16}
"""Steps into which the range of a metric is cut, by the number of metrics."""
_PATIENCE = 20  # generations in a row without a new subnet after which the search ends
_MUTATION = (0.02, 0.1)  # chance of each gene of a mutant to be drawn anew: each mutant's own, between these
_ROWS_AT_ONCE = 65536


class FrontFinder(GenerationalSearch, ABC):
    """Base of the searches for a front of predicted accuracy against one to three metrics.

    Args:
        metrics: costs that the front is about.

    The others are `GenerationalSearch`'s.

    Raises:
        ConfigError: a setting is outside of what is allowed (all are named), an unknown metric, or the predictor is
            for another space.
        TableError: a table is for another space, or no resolution is known by all.
    """

    def __init__(
        self,
        called: str,
        space: SearchSpace,
        predictor: Predictor,
        tables: Mapping[str, LatencyTable],
        *,
        metrics: Sequence[str],
        population: int,
        generations: int,
        seed: int,
        settings: Sequence[Setting] = (),
    ) -> None:
        different = 1 <= len(set(metrics)) == len(metrics) <= 3
        super().__init__(
            called,
            space,
            predictor,
            tables,
            population=population,
            generations=generations,
            seed=seed,
            settings=[("metrics", tuple(metrics), different, "1 to 3 different ones"), *settings],
            patience=_PATIENCE,
        )
        for metric in metrics:
            if metric not in self.costs.metrics:
                raise ConfigError(one_of("metric", metric, list(self.costs.metrics)))
        self.metrics = tuple(metrics)
        # inner borders of the steps, geometric between a metric's least value and the largest subnet's
        self._borders = [
            np.geomspace(
                max(self.costs.minimum(metric)[0], 1e-12), self.costs.of_largest(metric), STEPS[len(metrics)] + 1
            )[1:-1]
            for metric in metrics
        ]

    def run(self, progress: Progress | None = None, *, checkpoint: Path | None = None) -> ParetoFront:
        """Search.

        Args:
            progress: called as (generations done, generations) after each; may raise to stop the search.
            checkpoint: file to save the search to every 10 seconds, and to go on from if it is there; the result is
                that of an uninterrupted search. It is removed at the end.

        Returns:
            The front of all subnets that were scored, with all metrics' costs of each subnet on it.

        Raises:
            CheckpointError: the checkpoint is damaged, something else, or of another search.
            StorageError: the checkpoint cannot be written.
        """
        kept = self._checkpoint(checkpoint)
        with one_blas_thread():
            state = kept.load() or self._first()
            self._evolve(state, progress, kept)
            found = self._front(state)
        kept.remove()
        return found

    @abstractmethod
    def _evolve(self, state: State, progress: Progress | None, checkpoint: Checkpoint) -> None:
        """Breed and score the generations that are left."""

    def _first(self) -> State:
        """Random subnets, more or less of each taken from the cheapest ones and the largest; and these."""
        rng, seen = np.random.default_rng(self.seed), Seen()
        rows = self.domain.random(rng, self.population)
        ends = np.stack([*(self.costs.minimum(metric)[1] for metric in self.metrics), self.domain.largest()])
        shares = rng.random((len(rows), 1))
        towards = ends[rng.integers(len(ends), size=len(rows))]
        mixed = np.where(rng.random(rows.shape) < shares, towards, rows)
        rows = seen.new(self.domain.canonical(np.concatenate([ends, mixed])))
        scores = self.predictor.rank_genotypes(rows)
        return State(rng, seen, rows, scores, [scores])

    def _score_new(self, children: Genotypes, state: State) -> tuple[Genotypes, Scores]:
        """The children that were not scored before, and their scores."""
        rows = state.seen.new(children)
        state.history.append(self.predictor.rank_genotypes(rows))
        return rows, state.history[-1]

    def _children(self, mothers: Genotypes, mates: Genotypes, rng: np.random.Generator) -> Genotypes:
        """The first half are mutants of their mothers, the others crossings."""
        mutants = np.arange(len(mothers) // 2)
        return self.domain.children(mothers, mates, mutants, _MUTATION, rng)

    def _front(self, state: State) -> ParetoFront:
        rows, scores = state.seen.rows(), np.concatenate(state.history)
        parts = np.split(rows, range(_ROWS_AT_ONCE, len(rows), _ROWS_AT_ONCE))
        steps = np.concatenate([self._steps(part) for part in parts])
        lower = np.pad(self._stepped_front(scores, steps), [(1, 0)] * len(self.metrics), constant_values=-np.inf)
        candidates = scores > lower[tuple(steps.T)]  # no subnet that costs less by every metric is as good
        rows, scores = rows[candidates], scores[candidates]
        return ParetoFront.of(
            self.space,
            rows,
            self.predictor.predict_genotypes(rows),
            scores,
            dict(zip(self.costs.metrics, self.costs.of(rows).T, strict=True)),
            self.metrics,
            scored=len(state.seen),
            of_largest={name: self.costs.of_largest(name) for name in self.costs.metrics},
            predictor=getattr(self.predictor, "digest", None),
            tables={device: table.digest for device, table in self.tables.items()},
            resolutions=list(self.resolutions),
            not_searched={str(side): reason for side, reason in self.not_searched.items()},
        )

    def _steps(self, rows: Genotypes) -> Steps:
        """Number of each row's step by each metric, (n, metrics)."""
        costs = self.costs.of(rows, self.metrics)
        return np.column_stack(
            [np.searchsorted(borders, costs[:, column], side="left") for column, borders in enumerate(self._borders)]
        )

    def _stepped_front(self, scores: Scores, steps: Steps) -> npt.NDArray[np.float64]:
        """Best score up to each step, one axis a metric."""
        front = np.full((STEPS[len(self.metrics)],) * len(self.metrics), -np.inf)
        np.maximum.at(front, tuple(steps.T), scores)
        for axis in range(front.ndim):
            np.maximum.accumulate(front, axis=axis, out=front)
        return front
