"""Evolutionary search: the subnet of greatest predicted accuracy within a budget.

Source: Cai et al., "Once-for-All", ICLR 2020, section 3 and appendix; after Real et al., "Regularized Evolution for
Image Classifier Architecture Search", AAAI 2019. Where we differ: every limit of the budget is hard and kept by
construction; a subnet is scored once at most; whole generations are numpy matrices; the search ends early where no new
subnet within the budget turns up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from latency_tables import MACS, PARAMS, SIZE_BYTES, Budget, CostModel, LatencyTable, SpaceCosts
from search.candidate import Candidate, NoSubnetError, TightestLimit
from search.encoding import GenotypeEncoder
from search.limits import Limits, Start, nearest_to_budget, one_gene_changes, random_genotypes
from search.predictors.base import Predictor, require_space
from search.threads import one_blas_thread
from supernet.errors import ConfigError
from supernet.spaces import Genotypes, SearchSpace

Scores = npt.NDArray[np.floating]
_COUNTS = ("macs", "params", "size_bytes")
_MOST_DRAWN = 8  # times the population: bounds the work of a generation where few children are new and within budget
_PATIENCE = 10  # generations in a row without a new subnet after which the search ends
_TOWARDS_START = (0.0, 0.25, 0.5, 0.7, 0.85, 0.95)  # shares of genes taken from the known feasible subnet


class EvolutionarySearch:
    """Finds subnets for budgets. Holds no state between runs: equal budgets give equal results.

    Args:
        space: where to search.
        predictor: fitted for that space.
        tables: device -> latency table; a budget may limit the latency on each.
        population: new subnets a generation, at most.
        generations: generations after the first population.
        seed: of all random choices.
        parent_share: best subnets so far that breed, relative to `population`.
        mutation_share: share of the children that are mutants; the others are crossings of two parents.
        mutation_probability: chance of each gene of a mutant to be drawn anew.

    Raises:
        ConfigError: a setting is outside of what is allowed (all are named), or the predictor is for another space.
        TableError: a table is for another space, or lacks layers.
    """

    def __init__(
        self,
        space: SearchSpace,
        predictor: Predictor,
        tables: Mapping[str, LatencyTable] = MappingProxyType({}),
        *,
        population: int = 100,
        generations: int = 500,
        seed: int = 0,
        parent_share: float = 0.25,
        mutation_share: float = 0.5,
        mutation_probability: float = 0.1,
    ) -> None:
        faults = [
            f"{name} is {value!r}; allowed: {allowed}"
            for name, value, good, allowed in (
                ("population", population, population >= 2, "2 or more"),
                ("generations", generations, generations >= 0, "0 or more"),
                ("seed", seed, seed >= 0, "0 or more"),
                ("parent_share", parent_share, 0 < parent_share <= 1, "above 0, at most 1"),
                ("mutation_share", mutation_share, 0 <= mutation_share <= 1, "0 to 1"),
                ("mutation_probability", mutation_probability, 0 < mutation_probability <= 1, "above 0, at most 1"),
            )
            if not good
        ]
        if faults:
            raise ConfigError(f"evolutionary search: {'; '.join(faults)}")
        require_space(predictor, space)
        models: dict[str, CostModel] = {model.name: model for model in (MACS, PARAMS, SIZE_BYTES)}
        models |= {f"latency_ms@{device}": table.cost_model() for device, table in tables.items()}
        self.space = space
        self.predictor = predictor
        self.costs = SpaceCosts(space, models)
        self.population = population
        self.generations = generations
        self.seed = seed
        self.parents = max(1, round(parent_share * population))
        self._encoder = GenotypeEncoder(space)
        rows = np.arange(_MOST_DRAWN * population + 1)
        # mutants and crossings alternate in the wanted ratio, so that any first few children have it too
        self._mutant_rows = np.flatnonzero(np.diff(np.floor(rows * mutation_share + 1e-9)) > 0)
        self._taken_from_mate = np.full((len(rows) - 1, 1), 0.5, dtype=np.float32)
        self._taken_from_mate[self._mutant_rows] = mutation_probability

    def check(self, budget: Budget) -> None:
        """Whether `run` would find a subnet, without the search; milliseconds.

        Raises:
            NoSubnetError: no subnet meets the budget (an InfeasibleBudgetError).
            ConfigError: a limit is on a device without a latency table.
        """
        self._start(budget)

    def run(self, budget: Budget, progress: Callable[[int, int], None] | None = None) -> Candidate:
        """Search.

        Args:
            budget: limits that must all hold.
            progress: called as (generations done, generations) after each; may raise to stop the search.

        Returns:
            The subnet of greatest predicted accuracy among all that were scored; its `excess` is empty.

        Raises:
            NoSubnetError: no subnet meets the budget (an InfeasibleBudgetError).
            ConfigError: a limit is on a device without a latency table.
        """
        with one_blas_thread():
            return self._run(budget, progress)

    def _run(self, budget: Budget, progress: Callable[[int, int], None] | None) -> Candidate:
        limits, start, rng = self._start(budget)
        seen: set[bytes] = set()
        first = self._first_population(limits, start.genotype, rng)
        rows, _ = _take_new(first, limits.met(self.costs.of(first)), seen, self.population)
        parents, scores = self._best(rows, self.predictor.rank_genotypes(rows))
        drawn, stale = 2 * self.population, 0
        for generation in range(1, self.generations + 1):
            children = self._breed(parents, min(drawn, len(self._taken_from_mate)), rng)
            rows, looked_at = _take_new(children, limits.met(self.costs.of(children)), seen, self.population)
            if len(rows):
                parents, scores = self._best(
                    np.concatenate([parents, rows]), np.concatenate([scores, self.predictor.rank_genotypes(rows)])
                )
            stale = 0 if len(rows) else stale + 1
            needed = self.population * (looked_at + 1) / (len(rows) + 1)  # at this generation's yield
            drawn = max(self.population, round(0.5 * drawn + 0.6 * needed))
            if progress:
                progress(generation, self.generations)
            if stale == _PATIENCE:
                break
        return self._candidate(parents[0], budget, len(seen))

    def _start(self, budget: Budget) -> tuple[Limits, Start, np.random.Generator]:
        limits = Limits.of(budget, self.costs)
        rng = np.random.default_rng(self.seed)
        start = nearest_to_budget(limits, self.costs, self._encoder, rng)
        if start.excess > 0:
            raise self._no_subnet(budget, start)
        return limits, start, rng

    def _first_population(self, limits: Limits, feasible: Genotypes, rng: np.random.Generator) -> Genotypes:
        """Rows of which the earlier are more random and the later surer to meet the budget; the first surely does.

        Random subnets rarely meet a tight budget, but one that takes most genes from a subnet that does, does.
        """
        rows = random_genotypes(self._encoder, rng, self.population)
        shares = [np.where(rng.random(rows.shape) < share, feasible, rows) for share in _TOWARDS_START]
        return self._encoder.canonical(
            np.concatenate([feasible[None], *shares, one_gene_changes(self._encoder, feasible)])
        )

    def _breed(self, parents: Genotypes, count: int, rng: np.random.Generator) -> Genotypes:
        """Children, canonical int8 (count, genes): a mutant is a parent crossed at a low rate with a random subnet."""
        mothers = parents[rng.integers(len(parents), size=count)]
        mates = parents[rng.integers(len(parents), size=count)]
        mutants = self._mutant_rows[: np.searchsorted(self._mutant_rows, count)]
        mates[mutants] = random_genotypes(self._encoder, rng, len(mutants))
        taken = rng.random(mothers.shape, dtype=np.float32) < self._taken_from_mate[:count]
        return self._encoder.canonical(np.where(taken, mates, mothers))

    def _best(self, rows: Genotypes, scores: Scores) -> tuple[Genotypes, Scores]:
        order = np.argsort(-scores, kind="stable")[: self.parents]
        return rows[order], scores[order]

    def _candidate(self, genotype: Genotypes, budget: Budget, scored: int) -> Candidate:
        row = genotype[None]
        values = dict(zip(self.costs.metrics, self.costs.of(row)[0].tolist(), strict=True))
        costs = {name: int(value) if name in _COUNTS else value for name, value in values.items()}
        accuracy = float(self.predictor.predict_genotypes(row)[0])
        return Candidate(self.space.decode(row)[0], accuracy, costs, budget.violations(costs), scored)

    def _no_subnet(self, budget: Budget, start: Start) -> NoSubnetError:
        nearest = self._candidate(start.genotype, budget, scored=1)
        limits = [TightestLimit(limit, least) for limit, least in start.least]
        tightest = max(limits, key=lambda one: one.excess)
        if tightest.excess > 0:
            name = tightest.limit.name
            reason = f"{tightest.limit} cannot be met: the least {name} of the space is {_enough(tightest.least)}"
            step = f"raise {name} to {_enough(tightest.least)} or more"
        else:
            tightest = max(limits, key=lambda one: nearest.excess.get(one.limit.name, 0))
            reason = f"each limit of {budget} can be met alone, but no subnet that meets all was found"
            step = f"raise {tightest.limit.name} to {_enough(nearest.costs[tightest.limit.name])} or more"
        over = ", ".join(f"{name} by {100 * excess:.3g} %" for name, excess in nearest.excess.items())
        return NoSubnetError(
            f"no subnet of {self.space.name!r} meets the budget: {reason}; the nearest subnet exceeds {over}; "
            f"{step}, or use a smaller search space",
            tightest,
            nearest,
        )


def _enough(value: float) -> str:
    """The value, rounded up to three decimals: a limit that is raised to it can be met."""
    return f"{math.ceil(value * 1000) / 1000:.12g}"


def _take_new(rows: Genotypes, allowed: npt.NDArray[np.bool_], seen: set[bytes], most: int) -> tuple[Genotypes, int]:
    """The first `most` allowed rows that were not seen before, and how many rows were looked at; marks them as seen."""
    places = np.flatnonzero(allowed)
    found = np.ascontiguousarray(rows[places])
    # a row as one opaque value: a set of bytes is exact, and faster than np.unique
    keys: list[bytes] = found.view(np.dtype((np.void, found.shape[1])))[:, 0].tolist()
    new = []
    for place, key in enumerate(keys):
        if key not in seen:
            seen.add(key)
            new.append(place)
            if len(new) == most:
                return found[new], int(places[place]) + 1
    return found[new], len(rows)
