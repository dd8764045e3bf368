"""Latency of compact models on one device, from a table: by set of units, the whole model's time with fewer of them.

What each set saves is added up. That is a model of the device, not a measurement: layers share caches, and times do not
quite add up; measure the compact model itself in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from latency_tables import measure_module_ms
from latency_tables.budget import device_fault
from pruning.construct import construct_kept
from pruning.groups import ZeroInvariantGroups
from pruning.trace import copy_of
from pruning.units import Masks, UnitSet, all_kept
from supernet.errors import ConfigError, TableError
from supernet.files import read_json, write_json

FORMAT = "onceforall-unit-latencies"
VERSION = 1


@dataclass(frozen=True)
class UnitLatencies:
    """Measured times of a model with fewer units of one set at a time.

    Attributes:
        device: name of the device.
        whole_ms: of the model with all its units, a batch as it was measured, ms.
        rows: by set of units, (units kept, ms) in rising order of the units; the last has all of them.

    Raises:
        TableError: a set without rows, rows out of order, or times that are not above 0.
    """

    device: str
    whole_ms: float
    rows: Mapping[str, tuple[tuple[int, float], ...]]

    def __post_init__(self) -> None:
        faults = [fault] if (fault := device_fault(self.device)) else []
        if not 0 < self.whole_ms < np.inf:
            faults.append(f"whole_ms is {self.whole_ms}; allowed: above 0")
        for name, rows in self.rows.items():
            if not rows or any(few[0] >= many[0] for few, many in pairwise(rows)) or rows[0][0] < 1:
                faults.append(f"set {name!r} has rows for {[kept for kept, _ in rows]} units; allowed: rising from 1")
            if not all(0 < ms < np.inf for _, ms in rows):
                faults.append(f"set {name!r} has times {[ms for _, ms in rows]}; allowed: above 0")
        if faults:
            raise TableError(f"latencies of units: {'; '.join(faults[:5])}; measure with: onceforall prune latencies")

    def of(self, sets: Sequence[UnitSet]) -> Callable[[Masks], float]:
        """Latency in ms as a function of the kept units, which never rises when one goes.

        Between two rows a straight line, below the first its time. A set without rows takes what it takes.

        Raises:
            TableError: a set's most units are not the table's.
        """
        curves = []
        for number, unit_set in enumerate(sets):
            if unit_set.name not in self.rows:
                continue
            kept, ms = zip(*self.rows[unit_set.name], strict=True)
            if kept[-1] != unit_set.units:
                raise TableError(
                    f"latencies of units on {self.device!r}: set {unit_set.name!r} has {kept[-1]} units, in this model "
                    f"{unit_set.units}; measure them for it with: onceforall prune latencies"
                )
            saved = self.whole_ms - np.minimum(np.maximum.accumulate(ms), self.whole_ms)
            curves.append((number, np.array(kept), saved - saved[-1]))

        def milliseconds(keep: Masks) -> float:
            savings = (np.interp(int(keep[number].sum()), kept, saved) for number, kept, saved in curves)
            return float(max(self.whole_ms - sum(savings), 0.0))

        return milliseconds

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        rows = {name: [list(row) for row in rows] for name, rows in self.rows.items()}
        return {
            "format": FORMAT, "version": VERSION, "device": self.device, "whole_ms": self.whole_ms, "rows": rows,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Any, source: str = "the table") -> UnitLatencies:
        """The inverse of `to_dict`.

        Raises:
            TableError: something else.
        """
        try:
            if data["format"] != FORMAT or data["version"] != VERSION:
                raise ValueError(f"format {data['format']!r}, version {data['version']!r}")
            rows = {str(name): tuple((int(n), float(ms)) for n, ms in rows) for name, rows in data["rows"].items()}
            return cls(str(data["device"]), float(data["whole_ms"]), rows)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TableError(
                f"{source} is no table of latencies of units ({error}); measure one with: onceforall prune latencies"
            ) from None

    def save(self, path: Path) -> None:
        """Write the table as JSON."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> UnitLatencies:
        """The inverse of `save`.

        Raises:
            CheckpointError: absent, or no JSON.
            TableError: something else.
        """
        return cls.from_dict(read_json(path), repr(str(path)))


def measure_unit_latencies(
    groups: ZeroInvariantGroups,
    device: str,
    *,
    shares: Sequence[float] = (0.25, 0.5, 0.75),
    threads: int = 1,
    repeats: int = 20,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> UnitLatencies:
    """Time the model, one image at a time on this machine's CPU, with fewer units of each set in turn.

    Args:
        groups: of a model that takes one batch of images.
        device: what to call this machine.
        shares: of each set's units that stay, at least one; all of them are timed once for all sets.
        threads: torch's threads.
        repeats: timed passes a round.
        progress: told of measurements done and in all.

    Raises:
        ConfigError: the model's input is something else than one batch of images.
        TableError: the device's name is not allowed.
    """
    example = groups.example_inputs[0]
    if len(groups.example_inputs) != 1 or example.ndim != 4:
        raise ConfigError("latencies of units are measured on models that take one batch of images (n, c, h, w)")
    shape = (1, *example.shape[1:])

    def timed(model: nn.Module) -> float:
        return measure_module_ms(model, shape, threads=threads, repeats=repeats).median_ms

    whole = timed(groups.model)
    rows: dict[str, tuple[tuple[int, float], ...]] = {}
    for number, unit_set in enumerate(groups.sets):
        own: dict[int, float] = {}
        beside = timed(groups.model)  # again for every set: a machine's speed drifts by more than one layer's share
        for count in sorted({max(1, round(share * unit_set.units)) for share in shares} - {unit_set.units}):
            kept = list(all_kept(groups.sets))
            kept[number] = torch.arange(unit_set.units) < count
            model = copy_of(groups.model)
            groups.zero(model, tuple(~mask for mask in kept))
            compact, _ = construct_kept(model, groups, kept)
            own[count] = whole * timed(compact) / beside
        rows[unit_set.name] = (*own.items(), (unit_set.units, whole))
        progress(number + 1, len(groups.sets))
    return UnitLatencies(device, whole, rows)
