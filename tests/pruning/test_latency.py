from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.optim import SGD

from pruning import DHSPG, UnitLatencies, ZeroInvariantGroups, measure_unit_latencies
from supernet.errors import ConfigError, TableError
from tests.pruning.hand_built import ChainGroups, backward, chain

TABLE = UnitLatencies("board", 10.0, {"0": ((2, 8.0), (4, 7.0), (6, 10.0)), "3": ((4, 9.0), (8, 10.0))})
SETS = ChainGroups.of(chain()).sets


def keep(*counts: int) -> list[torch.Tensor]:
    return [torch.arange(unit_set.units) < count for unit_set, count in zip(SETS, counts, strict=True)]


@pytest.mark.parametrize(
    ("counts", "milliseconds"),
    [
        ((6, 8, 5), 10),
        ((6, 8, 1), 10),  # no rows for the last set
        ((4, 8, 5), 8),  # never less than with fewer units
        ((5, 8, 5), 9),
        ((1, 8, 5), 8),
        ((6, 6, 5), 9.5),
        ((2, 4, 5), 7),
    ],
)
def test_savings_are_interpolated_and_added(counts: tuple[int, ...], milliseconds: float) -> None:
    assert TABLE.of(SETS)(keep(*counts)) == pytest.approx(milliseconds)


def test_a_table_is_saved_and_loaded(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "table.json")
    assert UnitLatencies.load(tmp_path / "table.json") == TABLE


def test_wrong_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"'A B'.*whole_ms is 0.*'x' has rows for \[3, 2\].*times \[1, -1\]"):
        UnitLatencies("A B", 0, {"x": ((3, 1), (2, -1))})
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"format": "other"}))
    with pytest.raises(TableError, match="is no table of latencies of units"):
        UnitLatencies.load(path)
    with pytest.raises(TableError, match="set '0' has 5 units, in this model 6"):
        UnitLatencies("board", 1, {"0": ((5, 1),)}).of(SETS)


def test_a_limit_on_a_tables_latency_is_met() -> None:
    net = chain()
    groups = ChainGroups.of(net)
    optimizer = DHSPG(
        SGD(net.parameters(), lr=0.05),
        groups,
        target="latency_ms@board<=7.5",
        start_pruning_step=1,
        pruning_steps=5,
        latencies={"board": TABLE.of(groups.sets)},
    )
    for step in range(6):
        backward(net, step)
        optimizer.step()
    assert optimizer.costs["latency_ms@board"] <= 7.5
    assert optimizer.costs["units"] < 19


@pytest.mark.slow
def test_a_model_is_measured() -> None:
    net = chain(widths=(8, 12))
    groups = ZeroInvariantGroups(net, torch.randn(2, 3, 16, 16))
    seen: list[tuple[int, int]] = []
    table = measure_unit_latencies(groups, "here", repeats=3, progress=lambda done, total: seen.append((done, total)))
    assert {name: [kept for kept, _ in rows] for name, rows in table.rows.items()} == {
        "0": [2, 4, 6, 8],
        "3": [3, 6, 9, 12],
    }
    assert table.whole_ms > 0
    assert seen == [(1, 2), (2, 2)]
    assert table.of(groups.sets)([torch.ones(8, dtype=torch.bool), torch.ones(12, dtype=torch.bool)]) == table.whole_ms
    words = ZeroInvariantGroups(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.randn(2, 4))
    with pytest.raises(ConfigError, match="models that take one batch of images"):
        measure_unit_latencies(words, "here")
