from __future__ import annotations

import numpy as np
import pytest
from search_truth import Oracle, all_genotypes, formula_table, true_accuracy

from latency_tables import Budget
from search import NSGA2
from search.nsga2 import crowding_distances, fronts
from supernet.errors import ConfigError
from supernet.spaces import SearchSpace


def searcher(space: SearchSpace, **options: object) -> NSGA2:
    options = {"tables": {"phone": formula_table(space)}, "metrics": ["macs"], "population": 200, **options}
    return NSGA2(space, Oracle(space), **{"generations": 60, **options})


def ranks_one_by_one(objectives: np.ndarray) -> list[int]:
    """By the definition: the number of times that the non-dominated rows are taken away before a row is one."""
    ranks = [-1] * len(objectives)
    while -1 in ranks:
        left = [row for row, rank in enumerate(ranks) if rank == -1]
        now = max(ranks) + 1
        for row in left:
            others = objectives[left]
            no_worse, better = (others <= objectives[row]).all(axis=1), (others < objectives[row]).any(axis=1)
            if not (no_worse & better).any():
                ranks[row] = now
    return ranks


@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize(("rows", "values"), [(1, 3), (40, 4), (200, 9), (200, 10**6)])
def test_fronts_are_those_of_the_definition(columns: int, rows: int, values: int) -> None:
    for seed in range(5):
        objectives = np.random.default_rng(seed).integers(0, values, size=(rows, columns)).astype(np.float64)
        found = list(fronts(objectives))
        assert sorted(np.concatenate(found).tolist()) == list(range(rows))
        rank_of = {int(row): rank for rank, front in enumerate(found) for row in front}
        assert [rank_of[row] for row in range(rows)] == ranks_one_by_one(objectives)


def test_crowding_is_the_distance_of_the_neighbours_relative_to_the_range() -> None:
    #  sorted by the first objective: 0, 1, 3, 10; by the second: 0, 2, 3, 4, the other way round
    objectives = np.array([[3.0, 2.0], [0.0, 4.0], [10.0, 0.0], [1.0, 3.0]])
    expected = [(10 - 1) / 10 + (3 - 0) / 4, np.inf, np.inf, (3 - 0) / 10 + (4 - 2) / 4]
    assert crowding_distances(objectives).tolist() == pytest.approx(expected)


def test_an_objective_in_which_all_are_equal_does_not_crowd() -> None:
    objectives = np.array([[5.0, 0.0], [5.0, 1.0], [5.0, 4.0]])
    assert crowding_distances(objectives)[1] == pytest.approx(1.0)
    assert crowding_distances(objectives[:1]).tolist() == [np.inf]


@pytest.mark.parametrize("metrics", [["macs"], ["latency_ms@phone"], ["macs", "params"]], ids=str)
def test_the_front_of_a_small_space_is_the_true_one(toy: SearchSpace, metrics: list[str]) -> None:
    search = searcher(toy, metrics=metrics, population=500, generations=300)
    found = search.run()
    rows = all_genotypes(toy)
    costs = search.costs.of(rows, metrics)
    truth = true_accuracy(toy, rows)
    for number in np.random.default_rng(0).choice(len(rows), size=40):
        limits = ", ".join(f"{name}<={value!r}" for name, value in zip(metrics, costs[number].tolist(), strict=True))
        best = truth[(costs <= costs[number]).all(axis=1)].max()
        assert found.look_up(Budget.parse(limits)).predicted_accuracy == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("metrics", [["macs"], ["latency_ms@phone", "macs"], ["macs", "params", "latency_ms@phone"]])
def test_no_point_of_the_front_is_dominated_by_any_subnet_that_was_scored(
    tiny: SearchSpace, metrics: list[str]
) -> None:
    oracle = Oracle(tiny)
    search = NSGA2(
        tiny, oracle, {"phone": formula_table(tiny)}, metrics=metrics, population=100, generations=15, seed=1
    )
    found = search.run()
    rows = np.stack([np.frombuffer(row, dtype=np.int8) for row in oracle.asked])
    scored = np.column_stack([-true_accuracy(tiny, rows), search.costs.of(rows, metrics)])
    on_front = np.column_stack([-found.accuracies, *(found.costs[metric] for metric in metrics)])
    for point in on_front:
        assert not ((scored <= point).all(axis=1) & (scored < point).any(axis=1)).any()
    assert len(found) == len(np.unique(scored[next(fronts(scored))], axis=0))


def test_no_subnet_is_scored_twice_and_equal_seeds_give_equal_fronts(tiny: SearchSpace) -> None:
    oracle = Oracle(tiny)
    first = NSGA2(tiny, oracle, metrics=["macs"], population=200, generations=40, seed=4).run()
    assert len(oracle.asked) == len(set(oracle.asked)) == first.details["scored"]
    second, other = (searcher(tiny, tables={}, generations=40, seed=seed).run() for seed in (4, 5))
    np.testing.assert_array_equal(first.genotypes, second.genotypes)
    assert not np.array_equal(first.genotypes, other.genotypes)


def test_the_search_ends_early_once_no_new_subnet_turns_up(toy: SearchSpace) -> None:
    calls: list[tuple[int, int]] = []
    found = searcher(toy, generations=100_000).run(lambda *state: calls.append(state))
    assert calls[0] == (1, 100_000)
    assert len(calls) < 2000
    assert found.details["scored"] <= toy.cardinality


def test_wrong_settings_are_named_together(tiny: SearchSpace, toy: SearchSpace) -> None:
    with pytest.raises(
        ConfigError, match=r"NSGA-II: population is 1; .*; seed is -1; .*; metrics is \(\); allowed: 1 to 3 "
    ):
        NSGA2(tiny, Oracle(tiny), metrics=[], population=1, seed=-1)
    with pytest.raises(ConfigError, match="unknown metric 'latency_ms@phone'; allowed: macs, params"):
        NSGA2(tiny, Oracle(tiny), metrics=["latency_ms@phone"])
    with pytest.raises(ConfigError, match="fitted for 'toy_for_search', not for 'mobilenet_v3_tiny'"):
        NSGA2(tiny, Oracle(toy), metrics=["macs"])
