from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latency_tables import LatencyTable, compare
from supernet.errors import TableError


def scaled(table: LatencyTable, factors: dict[str, float]) -> LatencyTable:
    rows = {key: replace(row, median_ms=row.median_ms * factors.get(key, 1.0)) for key, row in table.rows.items()}
    return replace(table, rows=rows)


def test_a_table_compared_with_itself_differs_in_nothing(table: LatencyTable) -> None:
    found = compare(table, table)
    assert (found.only_first, found.only_second, found.differences) == ([], [], {})
    assert found.median_ratio == 1.0
    assert {row.ratio for row in found.ratios} == {1.0}


def test_ratios_are_second_over_first_and_the_most_different_stands_first(table: LatencyTable) -> None:
    a, b, c = list(table.rows)[10:13]
    found = compare(table, scaled(table, dict.fromkeys(table.rows, 2.0) | {a: 40.0, b: 1 / 50, c: 30.0}))
    assert [row.layer for row in found.ratios[:3]] == [b, a, c]
    assert [row.ratio for row in found.ratios[:3]] == pytest.approx([1 / 50, 40, 30])
    assert found.median_ratio == pytest.approx(2.0)
    assert found.ratios[0].second_ms == pytest.approx(found.ratios[0].first_ms / 50)


def test_the_other_way_round_everything_is_inverted(table: LatencyTable) -> None:
    rng = np.random.default_rng(0)
    other = scaled(table, {key: rng.uniform(0.1, 10) for key in table.rows})
    there, back = compare(table, other), compare(other, table)
    assert {row.layer: row.ratio for row in there.ratios} == pytest.approx(
        {row.layer: 1 / row.ratio for row in back.ratios}
    )


def test_rows_that_only_one_table_has_are_named(table: LatencyTable) -> None:
    keys = list(table.rows)
    first = replace(table, rows={key: table.rows[key] for key in keys[2:]})
    second = replace(table, rows={key: table.rows[key] for key in keys[:-1]})
    found = compare(first, second)
    assert (found.only_first, found.only_second) == (keys[-1:], keys[:2])
    assert len(found.ratios) == len(keys) - 3
    nothing = compare(replace(table, rows={keys[0]: table.rows[keys[0]]}), first)
    assert nothing.ratios == []
    assert nothing.median_ratio is None


def test_differences_of_the_measurement_are_named_one_by_one(table: LatencyTable) -> None:
    changed = replace(
        table.provenance, hardware={"cpu": "other", "clock": "1 GHz"}, threads=None, statistic="mean", batch=4
    )
    found = compare(table, replace(table, device="pixel7", num_classes=5, provenance=changed))
    assert found.differences == {
        "num_classes": (10, 5),
        "hardware.cpu": ("formula", "other"),
        "hardware.cores": (2, None),
        "hardware.clock": (None, "1 GHz"),
        "threads": (1, None),
        "batch": (1, 4),
        "statistic": ("median", "mean"),
    }


def test_tables_of_different_spaces_are_not_compared(table: LatencyTable) -> None:
    with pytest.raises(TableError) as caught:
        compare(table, replace(table, device="tx2", space="resnet50"))
    assert str(caught.value) == (
        "the table of 'pixel6' is for space 'mobilenet_v3_tiny', that of 'tx2' for 'resnet50'; "
        "compare tables of one space"
    )
