"""Two latency tables of one space side by side: what each has alone, and how their common rows differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from latency_tables.table import LatencyTable
from supernet.errors import TableError

Fact = str | int | float | None
"""What a table states beside its rows."""


@dataclass(frozen=True)
class RowRatio:
    """A layer that both tables have.

    Attributes:
        layer: its key.
        first_ms, second_ms: its latency in each.
    """

    layer: str
    first_ms: float
    second_ms: float

    @property
    def ratio(self) -> float:
        """How many times longer the second table says that it takes; below 1: it says less."""
        return self.second_ms / self.first_ms


@dataclass(frozen=True)
class TableComparison:
    """How a second table differs from a first.

    Attributes:
        only_first, only_second: keys of the rows that the other lacks.
        ratios: the common rows, those first whose ratio is the farthest from 1 in either direction.
        differences: what else they state differently, by name (``num_classes``, ``threads``, ``hardware.cpu``): the
            first's and the second's value; None where one does not know.
    """

    only_first: list[str]
    only_second: list[str]
    ratios: list[RowRatio]
    differences: Mapping[str, tuple[Fact, Fact]]

    @property
    def median_ratio(self) -> float | None:
        """Median over the common rows of second / first; None where there are none."""
        return statistics.median(row.ratio for row in self.ratios) if self.ratios else None


def compare(first: LatencyTable, second: LatencyTable) -> TableComparison:
    """Compare two tables, of one device or of two.

    Raises:
        TableError: they are for different spaces, whose rows have nothing to do with each other.
    """
    if first.space != second.space:
        raise TableError(
            f"the table of {first.device!r} is for space {first.space!r}, that of {second.device!r} for "
            f"{second.space!r}; compare tables of one space"
        )
    common = first.rows.keys() & second.rows.keys()
    ratios = [RowRatio(key, first.rows[key].median_ms, second.rows[key].median_ms) for key in sorted(common)]
    stated = [_stated(table) for table in (first, second)]
    names = dict.fromkeys([*stated[0], *stated[1]])
    pairs = {name: (stated[0].get(name), stated[1].get(name)) for name in names}
    return TableComparison(
        sorted(first.rows.keys() - common),
        sorted(second.rows.keys() - common),
        sorted(ratios, key=lambda row: -abs(math.log(row.ratio))),
        {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
    )


def _stated(table: LatencyTable) -> dict[str, Fact]:
    """What the table says beside its rows, one value a name."""
    found: dict[str, Fact] = {"num_classes": table.num_classes}
    for field, value in asdict(table.provenance).items():
        if isinstance(value, Mapping):
            found.update({f"{field}.{name}": inner for name, inner in value.items()})
        elif value is not None or field != "correction":
            found[field] = value
    return found
