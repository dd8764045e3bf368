"""What the pages of latency tables show: devices with their tables, and two tables side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sqlalchemy.orm import Session

from latency_tables import LatencyTable, compare
from service import tables
from service.context import Context
from service.domain import Device, TableRecord
from service.errors import NotFoundError
from service.storage import devices
from supernet.spaces import SearchSpace, get_space

PAGE_SIZE = 50
_SHOWN_TABLES = 20
_SUBNETS = 60
"""Random subnets that are priced with both tables, beside the smallest and the largest."""


@dataclass(frozen=True)
class DeviceRow:
    """A device, its newest tables, and whether there are more of them."""

    device: Device
    tables: tuple[TableRecord, ...]
    more: bool


def browse(session: Session, cursor: str | None) -> dict[str, Any]:
    """Values of the page of devices and tables.

    Raises:
        ConfigError: a cursor of another list.
    """
    found = devices.device_page(session, PAGE_SIZE, cursor)
    rows = []
    for device in found.items:
        page = devices.table_page(session, device.name, _SHOWN_TABLES, None)
        rows.append(DeviceRow(device, page.items, page.next_cursor is not None))
    return {"rows": rows, "next_cursor": found.next_cursor}


@dataclass(frozen=True)
class Priced:
    """A subnet by two tables, milliseconds."""

    name: str
    first_ms: float
    second_ms: float

    @property
    def ratio(self) -> float:
        """Second over first."""
        return self.second_ms / self.first_ms


def compared(context: Context, first_id: str, second_id: str) -> dict[str, Any]:
    """Values of the page that sets two tables side by side: their common layers, and the same subnets by both.

    Raises:
        NotFoundError: one of the tables does not exist.
        TableError: they are for different spaces.
    """
    records = [_find(context, table_id) for table_id in (first_id, second_id)]
    first, second = (tables.load(context.artifacts, record) for record in records)
    found = compare(first, second)
    priced, why_not = _price(first, second)
    return {
        "first": records[0],
        "second": records[1],
        "found": found,
        "layers_rank": _rank([(row.first_ms, row.second_ms) for row in found.ratios]),
        "priced": priced,
        "why_not_priced": why_not,
        "subnets_rank": _rank([(row.first_ms, row.second_ms) for row in priced]),
        "subnets_ratio": float(np.median([row.ratio for row in priced])) if priced else None,
    }


def _price(first: LatencyTable, second: LatencyTable) -> tuple[list[Priced], str]:
    """The same subnets by both tables, by rising latency; none, and why, where a table lacks a resolution's rows."""
    if first.num_classes != second.num_classes:
        return [], "they were measured with different numbers of classes"
    space = get_space(first.space).with_num_classes(first.num_classes)
    common = set(first.covered_resolutions(space)) & set(second.covered_resolutions(space))
    if not common:
        return [], "no resolution is complete in both tables"
    found = []
    for name, config in _sample(space, common):
        found.append(Priced(name, first.estimate_ms(space, config), second.estimate_ms(space, config)))
    return sorted(found, key=lambda row: row.first_ms), ""


def _sample(space: SearchSpace, resolutions: set[int]) -> list[tuple[str, Any]]:
    """The smallest, the largest and random subnets of the space, the same for every pair of tables."""
    rng = np.random.default_rng(0)
    drawn = [("smallest", space.smallest()), ("largest", space.largest())]
    drawn += [(f"random {number}", space.sample(rng)) for number in range(1, _SUBNETS + 1)]
    return [(name, config) for name, config in drawn if config.resolution in resolutions]


def _rank(pairs: list[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation; None where it says nothing."""
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(np.array(pairs)).statistic)


def _find(context: Context, table_id: str) -> TableRecord:
    with context.database.session() as session:
        record = devices.get_table(session, table_id)
    if record is None:
        raise NotFoundError(f"no latency table {table_id[:80]!r}; choose two of those that are listed")
    return record
