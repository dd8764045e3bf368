"""Rows of a latency table that cannot be right, found by comparing layers of which one has more work in every way.

A layer with no less of everything (size, channels, kernel, squeeze-excite) should not be much faster. Each pair that
breaks this by more than `FACTOR` is a conflict between its two rows. The row with the most conflicts is blamed and set
aside, until no conflict is left; so one absurdly fast row is told as one fault, not as the fault of all its neighbours.
A row without a comparable neighbour (the pool, the classifier) is never judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latency_tables.table import LatencyTable
from supernet.arch import LayerSpec
from supernet.spaces import get_space

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FACTOR = 3.0
"""Measured on mobilenet_v3_tiny (234 rows): at a factor of 1.3, six profiles had no outlier, and two that were
made while other work filled all cores had 1 and 4."""


@dataclass(frozen=True)
class Outlier:
    """A row that is blamed.

    Attributes:
        layer: its key.
        median_ms: its latency.
        neighbour: key of the comparable layer that contradicts it the most.
        neighbour_ms: that one's latency.
    """

    layer: str
    median_ms: float
    neighbour: str
    neighbour_ms: float

    def __str__(self) -> str:
        slow = self.median_ms > self.neighbour_ms
        return (
            f"{self.layer}: {self.median_ms:.4g} ms is too {'slow' if slow else 'fast'}; {self.neighbour}, which has "
            f"{'more' if slow else 'less'} work in every way, takes {self.neighbour_ms:.4g} ms"
        )


def outliers(table: LatencyTable, *, factor: float = FACTOR) -> list[Outlier]:
    """The table's doubtful rows, the worst first; rows that the table's space does not know are not judged.

    Args:
        table: the table.
        factor: how many times slower than a larger layer a row may be.

    Raises:
        ConfigError: the table's space is unknown.
    """
    known = {spec.key: spec for spec in get_space(table.space).with_num_classes(table.num_classes).all_layers()}
    groups: dict[tuple[object, ...], list[str]] = {}
    for key in table.rows:
        if key in known:
            groups.setdefault(_kind(known[key]), []).append(key)
    found: list[Outlier] = []
    for keys in groups.values():
        work = np.array([_work(known[key]) for key in keys])
        latency = np.array([table.rows[key].median_ms for key in keys])
        found += _blame(keys, work, latency, factor)
    return sorted(found, key=lambda o: (-abs(np.log(o.median_ms / o.neighbour_ms)), o.layer))


def _blame(keys: list[str], work: Integers, latency: Floats, factor: float) -> list[Outlier]:
    """Set rows aside, most conflicts first (of equals the slower one), until none contradict each other."""
    alive = np.ones(len(keys), dtype=bool)

    def conflicts(row: int) -> npt.NDArray[np.bool_]:
        larger_but_fast = (work >= work[row]).all(axis=1) & (latency * factor < latency[row])
        smaller_but_slow = (work <= work[row]).all(axis=1) & (latency > latency[row] * factor)
        both: npt.NDArray[np.bool_] = alive & (larger_but_fast | smaller_but_slow)
        return both

    counts = np.array([conflicts(row).sum() for row in range(len(keys))])
    found = []
    while counts.max(initial=0) > 0:
        worst = int(np.lexsort((latency, counts))[-1])
        against = np.flatnonzero(conflicts(worst))
        neighbour = against[np.abs(np.log(latency[against] / latency[worst])).argmax()]
        found.append(Outlier(keys[worst], float(latency[worst]), keys[neighbour], float(latency[neighbour])))
        counts[against] -= 1
        counts[worst] = 0
        alive[worst] = False
    return found


def _work(spec: LayerSpec) -> tuple[int, ...]:
    """Everything of which more means more work."""
    return (
        spec.in_size,
        spec.out_size,
        spec.in_channels,
        spec.mid_channels,
        spec.out_channels,
        spec.kernel,
        spec.se_channels,
        spec.shortcut,
        spec.batch_norm,
    )


def _kind(spec: LayerSpec) -> tuple[object, ...]:
    """Only layers that agree in these are compared."""
    return spec.op, spec.stride, spec.groups, spec.activation, spec.mid_channels == spec.in_channels
