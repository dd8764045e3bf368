"""What all searches share: the checks of their settings, the costs of the space, and the loop over generations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from latency_tables import COUNTS, CostModel, LatencyTable, SpaceCosts
from latency_tables.budget import latency_name
from search.domain import Domain, known_resolutions
from search.predictors.base import Predictor, require_space
from search.seen import Seen
from supernet.errors import ConfigError
from supernet.spaces import Genotypes, SearchSpace

Scores = npt.NDArray[np.floating]
Progress = Callable[[int, int], None]
Check = tuple[str, object, bool, str]
"""A setting's name, its value, whether that is allowed, and what is."""


@dataclass
class State:
    """Where a search stands after a generation; with its settings, all that the next one depends on.

    Attributes:
        rng: source of all random choices.
        seen: what was scored.
        rows: those of it that may breed, int8 (n, genes).
        scores: theirs, (n,).
        history: scores of all that was seen, in that order; a search for one budget needs none and leaves it empty.
        drawn: children to draw in the next generation, where a search adapts that.
        generation: how many generations are done.
        stale: how many of the last ones in a row scored nothing new.
    """

    rng: np.random.Generator
    seen: Seen
    rows: Genotypes
    scores: Scores
    history: list[Scores] = field(default_factory=list)
    drawn: int = 0
    generation: int = 0
    stale: int = 0


class GenerationalSearch:
    """Base of the searches.

    Args:
        space: where to search.
        predictor: fitted for that space.
        tables: device -> latency table.
        population: new subnets a generation, at most.
        generations: generations after the first population.
        seed: of all random choices.
        patience: generations in a row without a new subnet after which the search ends.

    Attributes:
        resolutions: those that the predictor and every table know, ascending; the search keeps to them.
        domain: the part of the space with these.
        costs: every count and latency over it.

    Raises:
        ConfigError: the predictor is for another space.
        TableError: a table is for another space, or no resolution is known by all.
    """

    def __init__(
        self,
        space: SearchSpace,
        predictor: Predictor,
        tables: Mapping[str, LatencyTable],
        *,
        population: int,
        generations: int,
        seed: int,
        patience: int,
    ) -> None:
        require_space(predictor, space)
        self.space = space
        self.predictor = predictor
        self.tables = dict(tables)
        self.resolutions = known_resolutions(space, predictor, tables)
        self.domain = Domain(space, {"resolution": self.resolutions})
        models: dict[str, CostModel] = {model.name: model for model in COUNTS}
        models |= {latency_name(device): table.cost_model() for device, table in tables.items()}
        self.costs = SpaceCosts(space, models, within={"resolution": self.resolutions})
        self.population = population
        self.generations = generations
        self.seed = seed
        self._patience = patience

    def _each_generation(self, state: State, progress: Progress | None) -> Iterator[int]:
        """The numbers of the generations that are left, while new subnets turn up.

        Args:
            state: the caller changes it in every generation; this counts.
            progress: called as (generations done, generations) after each.
        """
        while state.generation < self.generations and state.stale < self._patience:
            scored = len(state.seen)
            yield state.generation + 1
            state.generation += 1
            state.stale = 0 if len(state.seen) > scored else state.stale + 1
            if progress:
                progress(state.generation, self.generations)


def common_checks(population: int, generations: int, seed: int) -> list[Check]:
    """Of the settings that every search has."""
    return [
        ("population", population, population >= 2, "2 or more"),
        ("generations", generations, generations >= 0, "0 or more"),
        ("seed", seed, seed >= 0, "0 or more"),
    ]


def require_settings(search: str, checks: list[Check]) -> None:
    """Refuse settings outside of what is allowed.

    Raises:
        ConfigError: there are some; all are named.
    """
    faults = [f"{name} is {value!r}; allowed: {allowed}" for name, value, good, allowed in checks if not good]
    if faults:
        raise ConfigError(f"{search}: {'; '.join(faults)}")
