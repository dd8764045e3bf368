from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.groups import ZeroInvariantGroups
from pruning.rates import Rates
from pruning.weights import DIMENSIONS, WeightMatrices, energies_of
from supernet.errors import ConfigError, InfeasibleBudgetError


class Residual(nn.Module):
    """Coupled filters, a depthwise convolution, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(24, 16, 1), nn.BatchNorm2d(16))
        self.head = nn.Linear(16 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.two(self.deep(self.one(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def matrices(seed: int = 0) -> WeightMatrices:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Residual().eval()
    return WeightMatrices(ZeroInvariantGroups(net, torch.zeros(2, 3, 8, 8)))


MATRICES = matrices()
DENSE = MATRICES.groups.count()


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize("cost", ["params", "macs"])
@given(seed=st.integers(0, 10_000), share=st.floats(0.12, 0.95))
@settings(deadline=None, max_examples=15)
def test_every_point_meets_the_target_by_exact_count(dimensions: str, cost: str, seed: int, share: float) -> None:
    limit = share * getattr(DENSE, cost)
    rates = Rates(MATRICES, {cost: limit}, dimensions)
    counts = rates.counts(np.random.default_rng(seed).uniform(0, 1, rates.size))
    energies = energies_of(MATRICES.matrices(dict(MATRICES.groups.model.named_parameters())))
    kept = MATRICES.project(energies, counts, dimensions)
    found = getattr(MATRICES.cost(kept), cost)
    assert found == rates.cost_of(counts)[cost]
    assert found <= limit
    assert [int(mask.sum()) for mask in kept.units] == list(counts.units)
    if dimensions in ("combined", "weights") and cost == "params":
        # of so small a network 0.5 % can be less than a column, the finest step there is
        column = min(int(mask.any(1).sum()) for mask in kept.weights.values()) if dimensions == "combined" else 0
        assert limit - found <= max(0.005 * limit, column)


@pytest.mark.parametrize("dimensions", ["filters", "channels"])
@given(seed=st.integers(0, 10_000), share=st.floats(0.12, 0.95))
@settings(deadline=None, max_examples=10)
def test_nothing_more_fits_below_the_target(dimensions: str, seed: int, share: float) -> None:
    rates = Rates(MATRICES, {"params": share * DENSE.params}, dimensions)
    counts = rates.counts(np.random.default_rng(seed).uniform(0, 1, rates.size))
    for place, group in enumerate(MATRICES.groups.sets):
        if counts.units[place] < group.units:
            more = (*counts.units[:place], counts.units[place] + 1, *counts.units[place + 1 :])
            assert rates.cost_of(replace(counts, units=more))["params"] > share * DENSE.params


def test_whole_filters_that_are_too_coarse_are_traded_for_columns() -> None:
    """This point prunes filters alone, whose steps leave a gap below the target; combined, columns fill it."""
    rates = Rates(MATRICES, {"macs": 0.5 * DENSE.macs})
    point = rates.uniform()
    point[len(MATRICES.layers) :] = 1.0
    alone = Rates(MATRICES, {"macs": 0.5 * DENSE.macs}, "filters")
    assert alone.cost_of(alone.counts(point))["macs"] < 0.5 * DENSE.macs
    assert 0.995 * 0.5 * DENSE.macs <= rates.cost_of(rates.counts(point))["macs"] <= 0.5 * DENSE.macs


def test_less_of_a_layer_is_kept_where_its_number_is_lower() -> None:
    rates = Rates(MATRICES, {"params": 0.3 * DENSE.params})
    point = rates.uniform()
    names = [layer.name for layer in MATRICES.layers]
    place = names.index("one.0.weight")
    shares = []
    for value in (0.2, 0.5, 0.8):
        point[place] = value
        shares.append(next(row.share for row in rates.table(rates.counts(point)) if row.name == names[place]))
    assert all(less < more for less, more in pairwise(shares))


def test_the_split_moves_pruning_from_columns_to_filters() -> None:
    rates = Rates(MATRICES, {"params": 0.3 * DENSE.params})
    point = rates.uniform()
    place = [layer.name for layer in MATRICES.layers].index("one.0.weight")
    seen = []
    for split in (0.0, 1.0):
        point[len(MATRICES.layers) + place] = split
        row = rates.table(rates.counts(point))[place]
        seen.append((row.rows[0], row.columns[0] / row.columns[1]))
    assert seen[0][0] > seen[1][0]
    assert seen[0][1] < seen[1][1]


def test_depthwise_layers_lose_no_columns_and_filters_alone_none_at_all() -> None:
    deep = next(layer for layer in MATRICES.layers if layer.name == "deep.0.weight")
    assert not deep.splits
    rates = Rates(MATRICES, {"params": 0.3 * DENSE.params})
    assert "deep.0.weight" not in rates.counts(rates.prior()).inner
    alone = Rates(MATRICES, {"params": 0.3 * DENSE.params}, "filters")
    assert alone.counts(alone.prior()).inner == {}


def test_experience_prunes_larger_layers_more() -> None:
    rates = Rates(MATRICES, {"params": 0.3 * DENSE.params})
    rows = rates.table(rates.counts(rates.prior()))
    largest, smallest = rows[1], rows[0]
    assert largest.name == "one.0.weight"
    assert largest.share < smallest.share


def test_a_limit_on_another_cost_is_met_too() -> None:
    def latency(units: list[Tensor]) -> float:
        return float(sum(int(mask.sum()) for mask in units))

    rates = Rates(MATRICES, {"latency_ms@x": 20.0, "params": 0.9 * DENSE.params}, "channels", {"latency_ms@x": latency})
    counts = rates.counts(rates.prior())
    assert sum(counts.units) <= 20
    assert rates.cost_of(counts)["params"] <= 0.9 * DENSE.params
    assert sum(counts.units) == 20


def test_a_removed_unit_costs_its_rows_and_its_readers_columns() -> None:
    whole = MATRICES.whole()
    units = [mask.clone() for mask in whole.units]
    units[1][3] = False
    by_hand = MATRICES.groups.count(units)
    assert MATRICES.cost(MATRICES.whole(units)) == by_hand
    assert MATRICES.cost(whole) == DENSE
    # 9 columns of the 3x3 convolution and the rows that stay of them
    kept = MATRICES.whole()
    kept.weights["one.0.weight"][:, :9] = False
    assert MATRICES.cost(kept).params == DENSE.params - 24 * 9
    assert MATRICES.cost(kept).macs == DENSE.macs - 24 * 9 * 64
    assert MATRICES.storage_bytes(kept) == 4 * (DENSE.params - 24 * 9) + 16 * 9 // 8


def test_what_cannot_be_met_is_refused_with_what_remains() -> None:
    rates = Rates(MATRICES, {"params": 50}, "filters")
    with pytest.raises(InfeasibleBudgetError, match=r"params \d+ of 50 remain; choose a higher limit"):
        rates.counts(rates.prior())
    with pytest.raises(ConfigError, match="allowed: combined, filters, channels, weights"):
        Rates(MATRICES, {"params": 50}, "rows")
    with pytest.raises(ConfigError, match="limits on energy; allowed: params, macs"):
        Rates(MATRICES, {"energy": 50})
