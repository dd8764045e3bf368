"""Evolutionary search: the subnet of greatest predicted accuracy within a budget.

Source: Cai et al., "Once-for-All", ICLR 2020, section 3 and appendix; after Real et al., "Regularized Evolution for
Image Classifier Architecture Search", AAAI 2019. Where we differ: every limit of the budget is hard and kept by
construction; a subnet is scored once at most; whole generations are numpy matrices; the search ends early where no new
subnet within the budget turns up; and the best ten populations breed at first, fewer and fewer later: a quarter of one
population throughout, as published, settles on one depth and resolution too soon.

Measured with MIT's predictor and Note10 tables (benchmarks/search_quality.py) at as many subnets, and no better:
hill climbing by pairs of changes for the last fifth, simulated annealing, exact minima of the predictor's linear
approximation as a start, crossing by whole stages, a cap on parents of equal depths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import ROUND_CEILING, Context, Decimal
from pathlib import Path
from types import MappingProxyType

import numpy as np

from latency_tables import Budget, LatencyTable, SpaceCosts
from search.candidate import Candidate, NoSubnetError, TightestLimit, with_whole_counts
from search.checkpoint import Checkpoint, Scores, State
from search.generational import GenerationalSearch, Progress
from search.limits import Limits, Start, nearest_to_budget, require_tables
from search.predictors.base import Predictor
from search.seen import Seen
from search.threads import one_blas_thread
from supernet.spaces import Genotypes, SearchSpace

_MOST_DRAWN = 8  # times the population: bounds the work of a generation where few children are new and within budget
_PATIENCE = 10  # generations in a row without a new subnet after which the search ends
_LEAST_MUTATION = 0.2  # a mutant's rate is drawn between this share of the greatest and the greatest
_MOST_SHOWN = 1e4  # of how often a limit is exceeded
_TOWARDS_START = (0.0, 0.25, 0.5, 0.7, 0.85, 0.95)  # shares of genes taken from the known feasible subnet


class EvolutionarySearch(GenerationalSearch):
    """Finds subnets for budgets. Equal budgets give equal results, whatever was searched before.

    Args:
        space: where to search. The search keeps to the resolutions that the predictor and every table know; they are
            its attribute `resolutions`.
        predictor: fitted for that space.
        tables: device -> latency table; a budget may limit the latency on each.
        population: new subnets a generation, at most.
        generations: generations after the first population.
        seed: of all random choices.
        parent_shares: how many of the best subnets so far breed, relative to `population`: in the first generation
            and in the last; between them the number falls geometrically.
        mutation_share: share of the children that are mutants; the others are crossings of two parents.
        mutation_probability: greatest chance of each gene of a mutant to be drawn anew; each mutant has a chance of
            its own, a fifth of this or more.

    Raises:
        ConfigError: a setting is outside of what is allowed (all are named), or the predictor is for another space.
        TableError: a table is for another space or number of classes, or no resolution is known by all.
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
        parent_shares: tuple[float, float] = (10.0, 0.3),
        mutation_share: float = 0.5,
        mutation_probability: float = 0.1,
    ) -> None:
        super().__init__(
            "evolutionary search",
            space,
            predictor,
            tables,
            population=population,
            generations=generations,
            seed=seed,
            settings=[
                ("parent_shares", parent_shares, all(0 < share <= 1000 for share in parent_shares), "two above 0"),
                ("mutation_share", mutation_share, 0 <= mutation_share <= 1, "0 to 1"),
                ("mutation_probability", mutation_probability, 0 < mutation_probability <= 1, "above 0, at most 1"),
            ],
            patience=_PATIENCE,
        )
        self.parent_shares = parent_shares
        self._most_drawn = _MOST_DRAWN * population
        rows = np.arange(self._most_drawn + 1)
        # mutants and crossings alternate in the wanted ratio, so that any first few children have it too
        self._mutant_rows = np.flatnonzero(np.diff(np.floor(rows * mutation_share + 1e-9)) > 0)
        self._rates = (_LEAST_MUTATION * mutation_probability, mutation_probability)
        self._with_quantiles: dict[tuple[str, ...], SpaceCosts] = {}

    def absolute(self, budget: Budget) -> Budget:
        """The budget with shares of the largest subnet's cost (of those that are searched) multiplied out.

        Raises:
            ConfigError: a limit is on a device without a latency table.
            TableError: a percentile is asked for of a table without spreads.
        """
        return budget.absolute(self._costs_for(budget).of_largest)

    def check(self, budget: Budget) -> None:
        """Whether `run` would find a subnet, without the search; milliseconds.

        Raises:
            NoSubnetError: no subnet meets the budget (an InfeasibleBudgetError).
            ConfigError: a limit is on a device without a latency table.
        """
        self._start(budget)

    def run(self, budget: Budget, progress: Progress | None = None, *, checkpoint: Path | None = None) -> Candidate:
        """Search.

        Args:
            budget: limits that must all hold.
            progress: called as (generations done, generations) after each; may raise to stop the search.
            checkpoint: file to save the search to every 10 seconds, and to go on from if it is there; the result is
                that of an uninterrupted search. It is removed at the end.

        Returns:
            The subnet of greatest predicted accuracy among all that were scored; its `excess` is empty.

        Raises:
            NoSubnetError: no subnet meets the budget (an InfeasibleBudgetError).
            ConfigError: a limit is on a device without a latency table.
            CheckpointError: the checkpoint is damaged, something else, or of another search.
            StorageError: the checkpoint cannot be written.
        """
        kept = self._checkpoint(checkpoint, budget=str(budget))
        with one_blas_thread():
            found = self._run(budget, progress, kept)
        kept.remove()
        return found

    def _run(self, budget: Budget, progress: Progress | None, checkpoint: Checkpoint) -> Candidate:
        limits, start, rng = self._start(budget)
        state = checkpoint.load() or self._first(limits, start.genotype, rng)
        for generation in self._each_generation(state, progress, checkpoint):
            children = self._breed(state.rows, min(state.drawn, self._most_drawn), state.rng)
            rows, looked_at = state.seen.first_new(children, limits.met(children), self.population)
            if len(rows):
                scores = np.concatenate([state.scores, self.predictor.rank_genotypes(rows)])
                state.rows, state.scores = self._best(np.concatenate([state.rows, rows]), scores, generation)
            needed = self.population * (looked_at + 1) / (len(rows) + 1)  # at this generation's yield
            state.drawn = max(self.population, round(0.5 * state.drawn + 0.6 * needed))
        return self._candidate(state.rows[0], limits, len(state.seen))

    def _start(self, budget: Budget) -> tuple[Limits, Start, np.random.Generator]:
        costs = self._costs_for(budget)
        limits = Limits(budget.absolute(costs.of_largest), costs)
        rng = np.random.default_rng(self.seed)
        start = nearest_to_budget(limits, self.domain, rng)
        if start.excess > 0:
            raise self._no_subnet(limits, start)
        return limits, start, rng

    def _costs_for(self, budget: Budget) -> SpaceCosts:
        """All costs, and the percentiles that the budget asks for."""
        require_tables(budget, self.tables)
        wanted = {(limit.device, limit.quantile) for limit in budget.limits if limit.device and limit.quantile}
        if not wanted:
            return self.costs
        models = [self.tables[device].cost_model(quantile) for device, quantile in sorted(wanted)]
        key = tuple(model.name for model in models)
        if key not in self._with_quantiles:
            more = SpaceCosts(self.space, dict(zip(key, models, strict=True)), within={"resolution": self.resolutions})
            self._with_quantiles[key] = self.costs.with_metrics(more)
        return self._with_quantiles[key]

    def _first(self, limits: Limits, feasible: Genotypes, rng: np.random.Generator) -> State:
        """The first population: of rows which the later are surer to meet the budget; the very first surely does.

        Random subnets rarely meet a tight budget, but one that takes most genes from a subnet that does, does.
        """
        seen = Seen()
        rows = self.domain.random(rng, self.population)
        shares = [np.where(rng.random(rows.shape) < share, feasible, rows) for share in _TOWARDS_START]
        rows = np.concatenate([feasible[None], *shares, self.domain.one_gene_changes(feasible)])
        rows = self.domain.canonical(rows)
        rows, _ = seen.first_new(rows, limits.met(rows), self.population)
        rows, scores = self._best(rows, self.predictor.rank_genotypes(rows), 0)
        return State(rng, seen, rows, scores, drawn=2 * self.population)

    def _breed(self, parents: Genotypes, count: int, rng: np.random.Generator) -> Genotypes:
        """Children, canonical int8 (count, genes): a mutant is a parent crossed at a low rate with a random subnet."""
        mothers, mates = (parents[rng.integers(len(parents), size=count)] for _ in range(2))
        mutants = self._mutant_rows[: np.searchsorted(self._mutant_rows, count)]
        return self.domain.children(mothers, mates, mutants, self._rates, rng)

    def _best(self, rows: Genotypes, scores: Scores, generation: int) -> tuple[Genotypes, Scores]:
        """The parents after a generation, the best first."""
        first, last = self.parent_shares
        share = first * (last / first) ** (generation / max(1, self.generations))
        order = np.argsort(-scores, kind="stable")[: max(1, round(share * self.population))]
        return rows[order], scores[order]

    def _candidate(self, genotype: Genotypes, limits: Limits, scored: int) -> Candidate:
        row = genotype[None]
        costs = with_whole_counts(dict(zip(limits.costs.metrics, limits.costs.of(row)[0].tolist(), strict=True)))
        accuracy = float(self.predictor.predict_genotypes(row)[0])
        return Candidate(self.space.decode(row)[0], accuracy, costs, limits.budget.violations(costs), scored)

    def _no_subnet(self, limits: Limits, start: Start) -> NoSubnetError:
        nearest = self._candidate(start.genotype, limits, scored=1)
        least = [TightestLimit(limit, value) for limit, value in start.least]
        tightest = max(least, key=lambda one: one.excess)
        if tightest.excess > 0:
            name = tightest.limit.name
            reason = f"{tightest.limit} cannot be met: the least {name} of the space is {_at_most(tightest.least):.12g}"
        else:
            tightest = max(least, key=lambda one: nearest.excess.get(one.limit.name, 0))
            reason = f"each limit of {limits.budget} can be met alone, but no subnet that meets all was found"
        met = Budget(
            tuple(
                replace(limit, max=_at_most(nearest.costs[limit.name])) if limit.name in nearest.excess else limit
                for limit in limits.budget.limits
            )
        )
        over = ", ".join(f"{name} by {_percent(excess)}" for name, excess in nearest.excess.items())
        return NoSubnetError(
            f"no subnet of {self.space.name!r} meets the budget: {reason}; the nearest subnet exceeds {over}; "
            f"ask for {met}, which it meets, or use a smaller search space",
            tightest,
            nearest,
        )


def _at_most(value: float) -> float:
    """The value, rounded up to three decimals: a limit that is raised to it can be met."""
    return float(Decimal(value).quantize(Decimal("0.001"), ROUND_CEILING, Context(prec=400)))


def _percent(excess: float) -> str:
    if excess >= _MOST_SHOWN:
        return f"more than {100 * _MOST_SHOWN:,.0f} %"
    return f"{100 * excess:.3g} %" if excess < 1 else f"{100 * excess:,.0f} %"
