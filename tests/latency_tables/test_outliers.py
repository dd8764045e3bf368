from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latency_tables import LatencyTable, Row, outliers
from supernet.errors import ConfigError
from supernet.spaces import SearchSpace


def scaled(table: LatencyTable, factors: dict[str, float]) -> LatencyTable:
    rows = {
        key: replace(row, median_ms=row.median_ms * factors.get(key, 1), count=row.count)
        for key, row in table.rows.items()
    }
    return replace(table, rows=rows)


def middle_layers(space: SearchSpace) -> list[str]:
    """Elastic blocks with many smaller and many larger neighbours."""
    return [s.key for s in space.all_layers() if s.op == "mbconv" and s.kernel == 5 and s.shortcut and s.in_size > 4]


def test_a_consistent_table_has_no_outliers(table: LatencyTable) -> None:
    assert outliers(table) == []


def test_noise_of_a_third_makes_no_outliers(table: LatencyTable) -> None:
    rng = np.random.default_rng(0)
    assert outliers(scaled(table, {key: rng.uniform(0.75, 1.33) for key in table.rows})) == []


@pytest.mark.parametrize(("factor", "word"), [(40.0, "slow"), (1 / 40, "fast")])
def test_one_wrong_row_is_blamed_and_its_neighbours_are_not(
    space: SearchSpace, table: LatencyTable, factor: float, word: str
) -> None:
    for key in middle_layers(space)[::5]:
        found = outliers(scaled(table, {key: factor}))
        assert [outlier.layer for outlier in found] == [key]
        assert f"{key}: {found[0].median_ms:.4g} ms is too {word}; {found[0].neighbour}, which has" in str(found[0])


def test_several_wrong_rows_are_told_worst_first(space: SearchSpace, table: LatencyTable) -> None:
    slow, worse = middle_layers(space)[3], middle_layers(space)[-1]
    found = outliers(scaled(table, {slow: 50.0, worse: 5000.0}))
    assert [outlier.layer for outlier in found] == [worse, slow]


def test_the_factor_is_the_tolerance(space: SearchSpace, table: LatencyTable) -> None:
    wrong = scaled(table, {middle_layers(space)[0]: 40.0})
    assert outliers(wrong, factor=3.0)
    assert not outliers(wrong, factor=1000.0)


def test_rows_that_the_space_does_not_know_are_not_judged(table: LatencyTable) -> None:
    assert outliers(replace(table, rows={**table.rows, "conv of nothing": Row(1e6, 1.0, 3)})) == []


def test_an_empty_table_has_no_outliers(table: LatencyTable) -> None:
    assert outliers(replace(table, rows={})) == []


def test_an_unknown_space_is_refused(table: LatencyTable) -> None:
    with pytest.raises(ConfigError, match="unknown search space 'nowhere'"):
        outliers(replace(table, space="nowhere"))
