"""How AutoCompress works on a model: all that decides its result besides the model, its data and the target."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from pruning.admm import AdmmSettings
from pruning.annealing import AnnealingSettings
from pruning.weights import DIMENSIONS
from supernet.errors import ConfigError, one_of


@dataclass(frozen=True)
class CompressionSettings:
    """Defaults follow the paper; the switches turn parts of it off, to see what they are worth.

    Attributes:
        dimensions: what goes: "combined" (whole filters and single columns; the smallest models), "channels" (filters
            and whole channels; what a device computes shrinks by as much as is counted), "filters", or "weights"
            (without structure).
        factor: how many times less of the limited costs every round leaves, until the target is reached.
        search: settings of the search of per-layer rates.
        admm: settings of ADMM.
        admm_epochs: epochs of each W-step.
        purify: settings of the search of thresholds.
        purify_passes: purifications a round at most.
        purify_epochs: of masked training before each.
        allowed_drop: accuracy that a purification may cost, percentage points.
        retrain_epochs: of masked training at the end of the last round.
        round_epochs: of masked training at the end of each round before; None: as many.
        uniform: every layer keeps the same share; no search.
        anneal: search the rates; False: those of experience.
        one_shot: no ADMM; what is small goes at once.
        purification: False: none.
        seed: decides everything that is random.
        save_every: quick evaluations between two saved states.

    Raises:
        ConfigError: all that is out of range.
    """

    dimensions: str = "combined"
    factor: float = 2.0
    search: AnnealingSettings = field(default_factory=AnnealingSettings)
    admm: AdmmSettings = field(default_factory=AdmmSettings)
    admm_epochs: int = 2
    purify: AnnealingSettings = field(default_factory=lambda: AnnealingSettings(proposals=60, explored=0.0))
    purify_passes: int = 2
    purify_epochs: int = 2
    allowed_drop: float = 0.5
    retrain_epochs: int = 10
    round_epochs: int | None = None
    uniform: bool = False
    anneal: bool = True
    one_shot: bool = False
    purification: bool = True
    seed: int = 0
    save_every: int = 10

    def __post_init__(self) -> None:
        faults = []
        if self.dimensions not in DIMENSIONS:
            faults.append(one_of("dimensions", self.dimensions, list(DIMENSIONS)))
        if not 1 < self.factor < math.inf:
            faults.append(f"factor is {self.factor!r}; allowed: above 1")
        if not 0 <= self.allowed_drop <= 100:
            faults.append(f"allowed_drop is {self.allowed_drop!r}; allowed: 0 to 100 percentage points")
        for name, least in (
            ("admm_epochs", 1),
            ("purify_passes", 1),
            ("purify_epochs", 0),
            ("retrain_epochs", 0),
            ("round_epochs", 0),
            ("seed", 0),
            ("save_every", 1),
        ):
            if (value := getattr(self, name)) is not None and value < least:
                faults.append(f"{name} is {value}; allowed: at least {least}")
        if faults:
            raise ConfigError(f"AutoCompress: {'; '.join(faults)}")

    def with_proposals(self, search: int, purify: int) -> CompressionSettings:
        """The same with so many quick evaluations.

        Args:
            search: of each round's search; 0: none, the rates are those of experience.
            purify: of each purification; 0: none.

        Raises:
            ConfigError: one is below 0.
        """
        return replace(
            self,
            search=replace(self.search, proposals=search or 1),
            anneal=search != 0,
            purify=replace(self.purify, proposals=purify or 1),
            purification=purify != 0,
        )
