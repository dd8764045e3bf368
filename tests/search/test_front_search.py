from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_truth import Oracle, all_genotypes, formula_table, true_accuracy

from latency_tables import Budget
from search import NSGA2, EvolutionarySearch, FrontSearch, ParetoFront
from search.pareto import dominated
from supernet.errors import CheckpointError, ConfigError, InfeasibleBudgetError, StorageError, TableError
from supernet.spaces import SearchSpace

SMALL = {"population": 200, "generations": 60, "kept": (400, 100)}


def searcher(space: SearchSpace, **options: object) -> FrontSearch:
    options = {"tables": {"phone": formula_table(space)}, "metrics": ["macs"], **SMALL, **options}
    return FrontSearch(space, Oracle(space), **options)


@pytest.fixture(scope="module")
def small_front(tiny: SearchSpace) -> ParetoFront:
    return searcher(tiny, generations=5).run()


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


def test_no_subnet_is_scored_twice_and_equal_seeds_give_equal_fronts(tiny: SearchSpace) -> None:
    oracle = Oracle(tiny)
    first = FrontSearch(tiny, oracle, metrics=["macs"], **SMALL).run()
    assert len(oracle.asked) == len(set(oracle.asked)) == first.details["scored"]
    second = FrontSearch(tiny, Oracle(tiny), metrics=["macs"], **SMALL).run()
    np.testing.assert_array_equal(first.genotypes, second.genotypes)


def test_only_resolutions_that_all_know_are_searched(tiny: SearchSpace) -> None:
    oracle = Oracle(tiny)
    oracle.resolutions = (20, 24)
    found = FrontSearch(tiny, oracle, metrics=["macs"], **SMALL).run()
    assert {config.resolution for config in found.configs} <= {20, 24}
    oracle.resolutions = (17,)
    with pytest.raises(
        TableError,
        match=r"no resolution of 'mobilenet_v3_tiny' is known by all: 16, 20, 24, 28, 32 .the predictor does not",
    ):
        FrontSearch(tiny, oracle, metrics=["macs"])


def test_wrong_settings_are_named_together(tiny: SearchSpace) -> None:
    with pytest.raises(ConfigError, match=r"population is 1; .*; seed is -1; .*; metrics is \(\); allowed: 1 to 3 "):
        FrontSearch(tiny, Oracle(tiny), metrics=[], population=1, seed=-1)
    for search in (EvolutionarySearch, partial(FrontSearch, metrics=["macs"]), partial(NSGA2, metrics=["macs"])):
        with pytest.raises(ConfigError, match="population is 100000000; allowed: 2 to 100,000"):
            search(tiny, Oracle(tiny), population=10**8)
    with pytest.raises(ConfigError, match="unknown metric 'latency_ms@phone'"):
        FrontSearch(tiny, Oracle(tiny), metrics=["latency_ms@phone"])


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_what_is_dominated_is_what_an_earlier_row_is_no_worse_than(columns: int) -> None:
    costs = np.random.default_rng(columns).integers(0, 12, size=(300, columns)).astype(np.float64)
    expected = [bool((costs[:number] <= costs[number]).all(axis=1).any()) for number in range(len(costs))]
    assert dominated(costs).tolist() == expected


def front_of(space: SearchSpace, accuracies: list[float], costs: dict[str, list[float]]) -> ParetoFront:
    genotypes = space.sample_genotypes(np.random.default_rng(0), len(accuracies))
    columns = {name: np.array(values, dtype=np.float64) for name, values in costs.items()}
    return ParetoFront.of(space, genotypes, np.array(accuracies), np.array(accuracies), columns, tuple(costs))


def test_hypervolume_is_that_of_the_dominated_boxes(tiny: SearchSpace) -> None:
    one = front_of(tiny, [0.5, 0.8, 0.7], {"macs": [1, 3, 3]})
    assert len(one) == 2
    assert one.hypervolume({"macs": 4}) == pytest.approx(0.5 * 3 + 0.3 * 1)
    assert one.hypervolume({"macs": 4}, least_accuracy=0.6) == pytest.approx(0.2)
    assert one.hypervolume({"macs": 0.5}) == 0
    two = front_of(tiny, [0.5, 0.8], {"macs": [1, 3], "params": [2, 1]})
    assert two.hypervolume({"macs": 4, "params": 3}) == pytest.approx(0.5 * 3 * 1 + 0.8 * 1 * 2 - 0.5 * 1 * 1)
    with pytest.raises(ConfigError, match="the reference point lacks params"):
        two.hypervolume({"macs": 4})


def test_a_saved_front_answers_as_before_and_a_damaged_one_is_refused(tiny: SearchSpace, tmp_path: Path) -> None:
    front = searcher(tiny, generations=5).run()
    path = tmp_path / "front.json"
    front.save(path)
    loaded = ParetoFront.load(path)
    budget = Budget.parse("macs<=50%")
    assert loaded.look_up(budget) == front.look_up(budget)
    path.write_text(path.read_text().replace('"metrics"', '"metric"'))
    with pytest.raises(CheckpointError, match="is not a front"):
        ParetoFront.load(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(details=[]), r"its details are \[\], not an object"),
        (lambda d: d.update(details=None), "its details are None"),
        (lambda d: d["details"].update(of_largest=[]), r"of_largest is \[\]"),
        (lambda d: d["details"].update(of_largest={"macs": "1"}), "of_largest is"),
        (lambda d: d["details"].update(of_largest={"macs": 10**400}), "int too large"),
        (lambda d: d["details"].update(scored="x"), "scored is 'x', not a number of subnets"),
        (lambda d: d["details"].update(tables=[]), r"tables is \[\]"),
        (lambda d: d["details"].update(not_searched={"32": []}), "not_searched is"),
        (lambda d: d["subnets"][0]["costs"].update({"latency_ms@phone": float("nan")}), "phone is negative or not fin"),
        (lambda d: d["subnets"][1]["costs"].update(macs=1), r"subnet 1 has macs 1, counted: \d+"),
        (lambda d: d["subnets"][1]["costs"].update(params=7), "subnet 1 has params 7, counted"),
        (lambda d: d.update(num_classes=100), "subnet 0 has macs"),
        (lambda d: d["subnets"][0].update(predicted_accuracy=7.0), "an accuracy is outside of 0 to 1"),
        (lambda d: d["subnets"][1].update(predicted_accuracy=1.0), "the accuracies do not fall"),
        (lambda d: d["subnets"].insert(0, None), "is not a front"),
        (lambda d: d["subnets"][0].update(config=[]), "is not a front"),
    ],
)
def test_a_front_whose_figures_cannot_be_right_is_refused(
    small_front: ParetoFront, tmp_path: Path, change: Callable[[Any], None], text: str
) -> None:
    path = tmp_path / "front.json"
    small_front.save(path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=text):
        ParetoFront.load(path)


def test_accuracies_that_were_rounded_otherwise_than_ranks_fall_and_load_again(
    tiny: SearchSpace, tmp_path: Path
) -> None:
    low, high = np.float32(0.7), np.nextafter(np.float32(0.7), np.float32(1))
    rows = tiny.sample_genotypes(np.random.default_rng(0), 3)
    costs = {"latency_ms@phone": np.array([3.0, 2.0, 1.0])}
    accuracies, ranks = np.array([low, high, low]), np.array([high, low, low])
    found = ParetoFront.of(tiny, rows, accuracies, ranks, costs, list(costs))
    assert found.accuracies.tolist() == [high, low]
    assert found.costs["latency_ms@phone"].tolist() == [2, 1]
    found.save(tmp_path / "front.json")
    np.testing.assert_array_equal(ParetoFront.load(tmp_path / "front.json").accuracies, found.accuracies)


def test_a_picture_is_whole_or_absent_and_what_cannot_be_drawn_is_refused(
    small_front: ParetoFront, tmp_path: Path
) -> None:
    small_front.draw(tmp_path / "new" / "front.PNG")
    assert (tmp_path / "new" / "front.PNG").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["front.PNG"]
    with pytest.raises(ConfigError, match=r"ends in '\.abc'; allowed: \.png, \.svg, \.pdf"):
        small_front.draw(tmp_path / "front.abc")
    with pytest.raises(StorageError, match="cannot write"):
        small_front.draw("/proc/none/front.svg")


def test_a_front_says_that_it_knows_no_percentiles(small_front: ParetoFront) -> None:
    text = "percentiles, asked for: latency_ms@phone:p95; leave them out, or search for .* without the front"
    with pytest.raises(ConfigError, match=text):
        small_front.look_up(Budget.parse("latency_ms@phone<=20 p95"))


def test_a_budget_below_the_front_or_on_another_metric_is_refused(tiny: SearchSpace) -> None:
    front = searcher(tiny, generations=5).run()
    with pytest.raises(InfeasibleBudgetError, match="no subnet of the front meets macs<=1; the least on the front"):
        front.look_up(Budget.parse("macs<=1"))
    with pytest.raises(ConfigError, match="the front knows no latency_ms@tv; known: macs"):
        front.look_up(Budget.parse("latency_ms@tv<=1"))
