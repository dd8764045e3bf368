"""What all searches share: the checks of their settings, the costs of the space, and the loop over generations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from latency_tables import COUNTS, CostModel, LatencyTable, SpaceCosts
from latency_tables.budget import latency_name
from search.checkpoint import Checkpoint, State
from search.domain import Domain, known_resolutions
from search.predictors.base import Predictor, require_space
from supernet.errors import ConfigError
from supernet.spaces import SearchSpace

Progress = Callable[[int, int], None]
_LARGEST = 100_000
"""Population whose generations still take little memory: 0.3 GB on an ImageNet space."""
Setting = tuple[str, object, bool, str]
"""A name, the value, whether that is allowed, and what is."""


class GenerationalSearch:
    """Base of the searches.

    Args:
        called: how the search is named in a refusal.
        space: where to search.
        predictor: fitted for that space.
        tables: device -> latency table.
        population: new subnets a generation, at most.
        generations: generations after the first population.
        seed: of all random choices.
        settings: those that the search has of its own.
        patience: generations in a row without a new subnet after which the search ends.

    Attributes:
        resolutions: those that the predictor and every table know, ascending; the search keeps to them.
        not_searched: the other resolutions -> what is unknown of them.
        domain: the part of the space with these.
        costs: every count and latency over it.

    Raises:
        ConfigError: a setting is outside of what is allowed (all are named), or the predictor is for another space.
        TableError: a table is for another space, or no resolution is known by all.
    """

    def __init__(
        self,
        called: str,
        space: SearchSpace,
        predictor: Predictor,
        tables: Mapping[str, LatencyTable],
        *,
        population: int,
        generations: int,
        seed: int,
        settings: Sequence[Setting],
        patience: int,
    ) -> None:
        settings = [
            ("population", population, 2 <= population <= _LARGEST, f"2 to {_LARGEST:,}"),
            ("generations", generations, generations >= 0, "0 or more"),
            ("seed", seed, seed >= 0, "0 or more"),
            *settings,
        ]
        faults = [f"{name} is {value!r}; allowed: {allowed}" for name, value, good, allowed in settings if not good]
        if faults:
            raise ConfigError(f"{called}: {'; '.join(faults)}")
        require_space(predictor, space)
        self.space = space
        self.predictor = predictor
        self.tables = dict(tables)
        self.resolutions, self.not_searched = known_resolutions(space, predictor, tables)
        self.domain = Domain(space, {"resolution": self.resolutions})
        models: dict[str, CostModel] = {model.name: model for model in COUNTS}
        models |= {latency_name(device): table.cost_model() for device, table in tables.items()}
        self.costs = SpaceCosts(space, models, within={"resolution": self.resolutions})
        self.population = population
        self.generations = generations
        self.seed = seed
        self._settings = {name: value for name, value, _, _ in settings}
        self._patience = patience

    def _checkpoint(self, path: Path | None, **asked: object) -> Checkpoint:
        """The file from which this search goes on, bound to all that its result depends on and to what is `asked`."""
        if path is None:
            return Checkpoint(None, {})
        known = {
            "search": type(self).__name__,
            "space": self.space.name,
            "num_classes": self.space.num_classes,
            "encoding": self.domain.encoder.digest,
            "resolutions": self.resolutions,
            "predictor": getattr(self.predictor, "digest", None),
        }
        tables = {f"the table of {device!r}": table.digest for device, table in self.tables.items()}
        return Checkpoint(Path(path), known | tables | self._settings | asked)

    def _each_generation(self, state: State, progress: Progress | None, checkpoint: Checkpoint) -> Iterator[int]:
        """The numbers of the generations that are left, while new subnets turn up.

        Args:
            state: the caller changes it in every generation; this counts, and saves it.
            progress: called as (generations done, generations) after each.
            checkpoint: where to save.
        """
        while state.generation < self.generations and state.stale < self._patience:
            scored = len(state.seen)
            yield state.generation + 1
            state.generation += 1
            state.stale = 0 if len(state.seen) > scored else state.stale + 1
            checkpoint.save(state)
            if progress:
                progress(state.generation, self.generations)
