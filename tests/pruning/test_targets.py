from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.targets import Order, Target, choose, costs_of
from supernet.errors import ConfigError, InfeasibleBudgetError
from tests.pruning.hand_built import ChainGroups, chain

GROUPS = ChainGroups.of(chain())


def random_scores(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(unit_set.units, generator=generator) for unit_set in GROUPS.sets]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("latency_ms@cpu<=500us", "latency_ms@cpu<=0.5ms"),  # without a unit it would be a share
        ("params<=0.001K", "params<=0.001K"),
        ("macs=0.5", "macs<=50%"),
        ("macs<=64%", "macs<=64%"),
        ("macs=3M,params<=2K", "macs<=3000000, params<=2000"),
        ("sparsity=0.6", "sparsity>=60%"),
        ("sparsity>=10%, latency_ms@note10<=20", "sparsity>=10%, latency_ms@note10<=20"),
        ("params=1", "params<=100%"),
    ],
)
def test_a_target_is_read_and_written(text: str, canonical: str) -> None:
    assert str(Target.parse(text)) == canonical
    assert Target.parse(canonical) == Target.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs", "'macs' is not NAME=VALUE"),
        ("", "'' is not NAME=VALUE"),
        ("sparsity<=0.5", "allowed: one sparsity"),
        ("sparsity=2", "allowed: one sparsity"),
        ("sparsity=1", "sparsity 1.0; allowed: 0 or more and below 1"),
        ("sparsity=0.1,sparsity=0.2", "allowed: one sparsity"),
        ("macs>=0.5", "only sparsity may be at least something"),
        ("flops=0.5", "unknown metric 'flops'"),
        ("macs=120%", "shares up to 100 % of the dense model"),
        ("size_bytes<=3MB", "allowed: sparsity, macs, params, latency_ms@DEVICE"),
        ("latency_ms@a<=3 p95", "without a percentile"),
    ],
)
def test_a_wrong_target_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Target.parse(text)


@settings(deadline=None)  # a busy machine
@given(st.integers(0, 1000), st.sampled_from(["macs", "params"]), st.integers(100, 1000))
def test_a_limit_is_met_with_as_few_units_as_possible(seed: int, metric: str, thousandths: int) -> None:
    order, share = Order(GROUPS.sets, random_scores(seed)), thousandths / 1000
    choice = choose(GROUPS, order, Target.parse(f"{metric}={share}"))
    assert choice.costs[metric] <= share * choice.dense[metric]
    assert choice.costs == costs_of(GROUPS, [~mask for mask in choice.redundant])
    if choice.cuts:
        fewer = [~mask for mask in order.cut(choice.cuts - 1)]
        assert costs_of(GROUPS, fewer)[metric] > share * choice.dense[metric]


@pytest.mark.parametrize(("share", "gone"), [(0, 0), (0.5, 10), (10 / 19, 10), (0.8, 16)])
def test_sparsity_counts_units(share: float, gone: int) -> None:
    choice = choose(GROUPS, Order(GROUPS.sets, random_scores(0)), Target(sparsity=share))
    assert sum(int(mask.sum()) for mask in choice.redundant) == gone


def test_several_limits_are_all_met() -> None:
    target = Target.parse("macs=0.9, params=0.3, sparsity=0.2")
    choice = choose(GROUPS, Order(GROUPS.sets, random_scores(0)), target)
    assert choice.costs["params"] <= 0.3 * choice.dense["params"]
    assert choice.costs["macs"] <= 0.9 * choice.dense["macs"]
    assert choice.costs["units"] <= 0.8 * choice.dense["units"]


def test_a_latency_is_a_function_of_the_kept_units() -> None:
    def milliseconds(keep: tuple[torch.Tensor, ...]) -> float:
        return 1 + 0.5 * sum(int(mask.sum()) for mask in keep)

    order = Order(GROUPS.sets, random_scores(0))
    choice = choose(GROUPS, order, Target.parse("latency_ms@board<=6"), {"board": milliseconds})
    assert choice.costs["latency_ms@board"] == 6
    assert choice.costs["units"] == 10
    with pytest.raises(ConfigError, match="no latencies are known for 'phone'; known: board"):
        choose(GROUPS, order, Target.parse("latency_ms@phone<=6"), {"board": milliseconds})


@settings(deadline=None)  # a busy machine
@given(st.integers(0, 1000), st.integers(1, 4), st.floats(0, 0.9))
def test_cuts_grow_and_keep_every_set_within_its_limits(seed: int, divisible: int, min_share: float) -> None:
    order = Order(GROUPS.sets, random_scores(seed), divisible=divisible, min_share=min_share, fixed=frozenset({1}))
    masks = [order.cut(count) for count in range(len(order) + 1)]
    assert not any(mask.any() for mask in masks[0])
    for before, after in itertools.pairwise(masks):
        assert all((old <= new).all() for old, new in zip(before, after, strict=True))
        assert any((old != new).any() for old, new in zip(before, after, strict=True))
    for mask in (mask for every in masks for mask in every if mask.any()):
        kept = int((~mask).sum())
        assert kept >= max(1, min_share * len(mask))
        assert kept % divisible == 0
    assert not any(every[1].any() for every in masks)


def test_the_most_redundant_units_go_first() -> None:
    scores = [torch.tensor([0.9, 0.1, 0.8, 0.2, 0.3, 0.4]), torch.zeros(8), torch.tensor([0.5, 0.85, 0.1, 0.1, 0.1])]
    redundant = Order(GROUPS.sets, scores).cut(4)
    assert [mask.nonzero()[:, 0].tolist() for mask in redundant] == [[0, 2], [], [0, 1]]


def test_a_target_out_of_reach_says_what_can_be_reached() -> None:
    order = Order(GROUPS.sets, random_scores(0), min_share=0.5)
    # 3, 4 and 3 units stay of 6, 8 and 5; 64 pixels
    least = 64 * 9 * (3 * 3 + 3 * 4 + 4 * 3) + 3 * 4
    with pytest.raises(InfeasibleBudgetError, match=rf"macs<=10% is out of reach.*macs {least} of 61076 \(31.1 %\)"):
        choose(GROUPS, order, Target.parse("macs=0.1"))
