"""Simulated annealing over a box, guided by experience: ask for a point, tell what it is worth.

The search of AutoCompress (Liu et al., AAAI 2020, algorithm 1) without anything that is particular to pruning. Points
are vectors in [0, 1]; values are in points (percentage points of accuracy there), and the highest is sought.

- After the start, the first points lie anywhere in the box; the search goes on from the best of all of them.
- A move adds uniform noise in +-m to some coordinates, m = m0 T/T0, and pulls them a little towards the prior: what
  experience says of a good point. The prior biases; it never rules.
- A better point is accepted, a worse one with probability exp(delta/T).
- T0 is measured: the median |delta| of the first moves over ln(50), so that a usual loss is accepted with probability
  0.02. T falls by a constant factor a proposal down to T0/100; if proposals are left then, it begins again from T0/2
  and the best point. The best point is always kept.

Measured on quadratic and rugged functions of 4 to 34 coordinates, medians of 20 seeds: 200 proposals end two to seven
times nearer the optimum than 1,000 random points (loss of 0.4 against 3.0 at 10 coordinates, 1.6 against 5.9 at 20;
rugged 3.1 against 6.9 and 5.0 against 9.9). Without explored points, and with usual losses accepted at odds of 4 to 1,
it was only as good as 149 random points in finding how LeNet-5 keeps 2 % of its parameters, where most points are no
better than chance (benchmarks/autocompress.py, search).

Where the paper cools from 100 to 20 with accuracies in [0, 1], every move is accepted: a random walk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.errors import ConfigError

Point = NDArray[np.float64]

_USUAL_ACCEPTANCE = 0.02
_COLDEST = 0.01
"""Of T0."""


@dataclass(frozen=True)
class AnnealingSettings:
    """How long and how far.

    Attributes:
        proposals: points asked for in all, the start, the explored and the calibrating ones included.
        explored: share of the proposals that lie anywhere in the box.
        calibration: first moves, all from the best point so far, that T0 is measured with.
        reach: m0, the greatest change of a coordinate at T0; coordinates lie in [0, 1].
        cooling: factor on T a proposal.
        pull: share of the way to the prior that a changed coordinate goes on average at T0; 0: no prior.
        share: share of the coordinates that a move changes on average; always at least one.
        reheat: where it begins again, share of T0.

    Raises:
        ConfigError: all that is out of range.
    """

    proposals: int = 200
    explored: float = 0.15
    calibration: int = 10
    reach: float = 0.35
    cooling: float = 0.95
    pull: float = 0.1
    share: float = 0.3
    reheat: float = 0.5

    def __post_init__(self) -> None:
        checks = [
            ("proposals", self.proposals, self.proposals >= 1, "at least 1"),
            ("explored", self.explored, 0 <= self.explored < 1, "0 up to below 1"),
            ("calibration", self.calibration, self.calibration >= 1, "at least 1"),
            ("reach", self.reach, 0 < self.reach <= 1, "above 0, at most 1"),
            ("cooling", self.cooling, 0 < self.cooling < 1, "above 0 and below 1"),
            ("pull", self.pull, 0 <= self.pull <= 1, "0 to 1"),
            ("share", self.share, 0 < self.share <= 1, "above 0, at most 1"),
            ("reheat", self.reheat, _COLDEST < self.reheat <= 1, f"above {_COLDEST}, at most 1"),
        ]
        faults = [f"{name} is {value!r}; allowed: {allowed}" for name, value, fine, allowed in checks if not fine]
        if faults:
            raise ConfigError(f"annealing: {'; '.join(faults)}")


class Annealing:
    """One search.

    Args:
        start: the first point, (n,) in [0, 1]; also the prior where none is given.
        seed: decides all moves.
        settings: how long and how far.
        prior: where experience says that good points are, (n,) in [0, 1].

    Attributes:
        told: points that have been told.
        best: the best point so far; the start before anything was told.
        best_value: its value, -inf before anything was told.

    Raises:
        ConfigError: the start or the prior is not a vector in [0, 1].
    """

    def __init__(
        self,
        start: Sequence[float] | Point,
        *,
        seed: int,
        settings: AnnealingSettings | None = None,
        prior: Sequence[float] | Point | None = None,
    ) -> None:
        self.settings = settings or AnnealingSettings()
        self.start = _checked(start, "start")
        self.prior = self.start if prior is None else _checked(prior, "prior")
        if self.prior.shape != self.start.shape:
            raise ConfigError(
                f"annealing: a prior of {len(self.prior)} coordinates for a start of {len(self.start)}; give as many"
            )
        self.told = 0
        self.best, self.best_value = self.start, -math.inf
        self._current, self._current_value = self.start, -math.inf
        self._losses: list[float] = []  # |delta| of the calibrating moves
        self._first = 0.0  # T0
        self._temperature = 0.0
        self._rng = np.random.default_rng(seed)

    @property
    def done(self) -> bool:
        """Whether all proposals have been told."""
        return self.told >= self.settings.proposals

    @property
    def temperature(self) -> float:
        """T; 0 while it is being measured."""
        return self._temperature

    def ask(self) -> Point:
        """The next point to value; the same one until it is told."""
        if self.told == 0:
            return self.start.copy()
        rng = np.random.default_rng()
        rng.bit_generator.state = self._rng.bit_generator.state  # a copy: asking twice must not move the search
        if self.told < self._anywhere:
            return rng.random(len(self.start))
        return self._moved(self._temperature / self._first if self._first else 1.0, rng)

    def tell(self, point: Point, value: float) -> None:
        """What a point is worth, in points; -inf: it is not allowed.

        Raises:
            ConfigError: NaN, which neither is better nor worse than anything.
        """
        if math.isnan(value):
            raise ConfigError("annealing: a point's value is NaN; tell -inf for a point that is not allowed")
        if self.told >= self._anywhere:
            self._moved(1.0, self._rng)  # as many draws as `ask` made from its copy
        elif self.told > 0:
            self._rng.random(len(self.start))
        draw = self._rng.random()
        self.told += 1
        if value > self.best_value:
            self.best, self.best_value = point.copy(), value
        if self.told <= self._anywhere:
            self._current, self._current_value = self.best.copy(), self.best_value
        elif not self._first:
            self._calibrate(value)
        else:
            self._decide(point, value, draw)

    def state_dict(self) -> dict[str, Any]:
        """JSON types; with the same start, seed and settings the search goes on from it."""
        return {
            "told": self.told,
            "best": self.best.tolist(),
            "best_value": _written(self.best_value),
            "current": self._current.tolist(),
            "current_value": _written(self._current_value),
            "losses": list(self._losses),
            "first": self._first,
            "temperature": self._temperature,
            "random": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.told = int(state["told"])
        self.best, self._current = np.array(state["best"], float), np.array(state["current"], float)
        self.best_value, self._current_value = _read(state["best_value"]), _read(state["current_value"])
        self._losses = [float(loss) for loss in state["losses"]]
        self._first, self._temperature = float(state["first"]), float(state["temperature"])
        self._rng.bit_generator.state = state["random"]

    @property
    def _anywhere(self) -> int:
        """Proposals up to the last explored one; the start is the first."""
        return 1 + round(self.settings.explored * self.settings.proposals)

    def _moved(self, warmth: float, rng: np.random.Generator) -> Point:
        origin, size = self._current, len(self._current)
        noise, strength = rng.uniform(-1, 1, size), rng.uniform(0, 2, size)
        changed = rng.random(size) < self.settings.share
        changed[rng.integers(size)] = True
        move = warmth * (self.settings.reach * noise + self.settings.pull * strength * (self.prior - origin))
        return np.clip(np.where(changed, origin + move, origin), 0, 1)

    def _calibrate(self, value: float) -> None:
        loss = abs(value - self._current_value)
        if math.isfinite(loss):
            self._losses.append(loss)
        if self.told >= self._anywhere + self.settings.calibration:
            usual = float(np.median(self._losses)) if self._losses else 0.0
            # Moves that change nothing, or lead to nothing that is allowed, say nothing; then a usual loss is one point
            self._first = (usual or 1.0) / math.log(1 / _USUAL_ACCEPTANCE)
            self._restart()

    def _decide(self, point: Point, value: float, draw: float) -> None:
        delta = value - self._current_value if value > -math.inf else -math.inf
        if delta > 0 or draw < math.exp(delta / self._temperature):
            self._current, self._current_value = point.copy(), value
        self._temperature *= self.settings.cooling
        if self._temperature < _COLDEST * self._first:
            self._restart()

    def _restart(self) -> None:
        self._temperature = self._first * self.settings.reheat ** (1 if self._temperature else 0)
        self._current, self._current_value = self.best.copy(), self.best_value


def _checked(point: Sequence[float] | Point, name: str) -> Point:
    found = np.array(point, np.float64)
    if found.ndim != 1 or not len(found) or not bool(((found >= 0) & (found <= 1)).all()):
        raise ConfigError(f"annealing: the {name} is {point!r}; allowed: at least one coordinate, each 0 to 1")
    return found


def _written(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity


def _read(value: float | None) -> float:
    return -math.inf if value is None else float(value)
