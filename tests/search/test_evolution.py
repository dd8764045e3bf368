from __future__ import annotations

import json
import pickle
import time

import numpy as np
import pytest
from search_truth import Oracle, all_genotypes, formula_table, true_accuracy

from latency_tables import MACS, PARAMS, Budget, Limit, SpaceCosts, macs, params, size_bytes
from search import AccuracyPredictor, EvolutionarySearch, NoSubnetError
from search.evolution import _at_most
from search.predictors import DenseStack
from supernet import SubnetConfig
from supernet.errors import ConfigError, InfeasibleBudgetError, TableError
from supernet.spaces import SearchSpace


def searcher(space: SearchSpace, **options: object) -> EvolutionarySearch:
    options = {"tables": {"phone": formula_table(space)}, "population": 50, "generations": 60, **options}
    return EvolutionarySearch(space, Oracle(space), **options)


def costs_at(space: SearchSpace, share: float, metric: str) -> float:
    """The metric's value that this share of random subnets stays below."""
    rows = space.sample_genotypes(np.random.default_rng(8), 2000)
    values = searcher(space).costs.of(rows)[:, searcher(space).costs.metrics.index(metric)]
    return float(np.quantile(values, share))


@pytest.mark.parametrize(
    "shares",
    [{"macs": 0.5}, {"macs": 0.02}, {"params": 0.2}, {"latency_ms@phone": 0.5, "macs": 0.3}, {"macs": 1.0}],
    ids=str,
)
def test_the_result_is_the_best_of_all_subnets_within_the_budget(toy: SearchSpace, shares: dict[str, float]) -> None:
    search = searcher(toy, population=100, generations=100)
    limits = []
    for name, share in shares.items():
        metric, _, device = name.partition("@")
        limits.append(Limit(metric, device or None, costs_at(toy, share, name)))
    budget = Budget(tuple(limits))
    rows = all_genotypes(toy)
    costs = search.costs.of(rows)
    feasible = np.ones(len(rows), dtype=bool)
    for limit in budget.limits:
        feasible &= costs[:, search.costs.metrics.index(limit.name)] <= limit.max
    best = true_accuracy(toy, rows[feasible]).max()
    assert search.run(budget).predicted_accuracy == pytest.approx(best, abs=1e-12)


def test_every_limit_holds_and_costs_are_those_of_the_layers(tiny: SearchSpace) -> None:
    table = formula_table(tiny)
    budget = Budget.parse("macs<=3M, params<=400K, latency_ms@phone<=1.9, size_bytes<=1700kB")
    found = searcher(tiny, tables={"phone": table, "other": formula_table(tiny, "other")}).run(budget)
    layers = tiny.layers(found.config)
    assert found.excess == budget.violations(found.costs) == {}
    assert found.costs["macs"] == macs(layers)
    assert found.costs["params"] == params(layers)
    assert found.costs["size_bytes"] == size_bytes(layers)
    assert found.costs["latency_ms@phone"] == pytest.approx(table.estimate_ms(tiny, found.config))
    assert found.costs["latency_ms@other"] == pytest.approx(found.costs["latency_ms@phone"])
    assert isinstance(found.costs["macs"], int)
    assert found.to_dict()["config"] == found.config.to_dict()


def test_it_beats_random_search_of_as_many_subnets_within_the_budget(tiny: SearchSpace) -> None:
    budget = Budget.parse("macs<=2500K")
    search = searcher(tiny)
    found = search.run(budget)
    rows = tiny.sample_genotypes(np.random.default_rng(0), 10 * found.scored)
    feasible = rows[search.costs.of(rows)[:, 0] <= 2_500_000][: found.scored]
    assert found.predicted_accuracy > true_accuracy(tiny, feasible).max() + 0.002


def test_no_subnet_is_scored_twice_and_none_above_the_budget(tiny: SearchSpace) -> None:
    oracle = Oracle(tiny)
    search = EvolutionarySearch(tiny, oracle, generations=80)
    found = search.run(Budget.parse("macs<=3M"))
    assert len(oracle.asked) == len(set(oracle.asked)) == found.scored
    assert 4000 < found.scored <= 100 * 81
    rows = np.stack([np.frombuffer(row, dtype=np.int8) for row in oracle.asked])
    np.testing.assert_array_equal(rows, tiny.canonical_genotypes(rows))
    assert search.costs.of(rows)[:, 0].max() <= 3_000_000
    assert true_accuracy(tiny, rows).max() == pytest.approx(found.predicted_accuracy)


def test_equal_seeds_give_equal_results_in_any_order_of_runs(tiny: SearchSpace) -> None:
    budget, other = Budget.parse("macs<=3M"), Budget.parse("params<=300K")
    search = searcher(tiny, seed=3)
    first = search.run(budget)
    search.run(other)
    assert search.run(budget) == first
    assert searcher(tiny, seed=3).run(budget) == first


def test_more_generations_are_never_worse(tiny: SearchSpace) -> None:
    budget = Budget.parse("macs<=3M")
    found = [searcher(tiny, generations=count).run(budget).predicted_accuracy for count in (0, 5, 20, 60)]
    assert found == sorted(found)


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_a_budget_of_exactly_the_least_cost_gives_that_subnet(tiny: SearchSpace, metric: str) -> None:
    search = searcher(tiny, generations=500)
    least, genotype = search.costs.minimum(metric)
    found = search.run(Budget((Limit(metric, None, least),)))
    assert found.costs[metric] == least
    if metric == "macs":  # parameters are the same at every resolution
        assert found.config == tiny.decode(genotype[None])[0]
        assert found.scored == 1


def test_a_budget_for_a_handful_of_subnets_finds_the_best_of_them(toy: SearchSpace) -> None:
    search = searcher(toy)
    rows = all_genotypes(toy)
    values = search.costs.of(rows)[:, search.costs.metrics.index("latency_ms@phone")]
    order = np.argsort(values)
    for count in (1, 2, 3, 6):
        limit = float(values[order[count - 1]])
        best = true_accuracy(toy, rows[values <= limit]).max()
        found = search.run(Budget((Limit("latency_ms", "phone", limit),)))
        assert found.predicted_accuracy == pytest.approx(best, abs=1e-12)


def test_the_search_ends_early_once_all_subnets_are_scored(toy: SearchSpace) -> None:
    budget = Budget.parse("macs<=1G")
    started = time.perf_counter()
    oracle = Oracle(toy)
    calls: list[tuple[int, int]] = []
    found = EvolutionarySearch(toy, oracle, generations=100_000).run(budget, lambda *state: calls.append(state))
    assert time.perf_counter() - started < 20
    assert found.scored <= toy.cardinality
    assert calls[0] == (1, 100_000)
    assert len(calls) < 2000
    assert found.predicted_accuracy == pytest.approx(true_accuracy(toy, all_genotypes(toy)).max())


def test_a_limit_that_cannot_be_met_is_explained_at_once(tiny: SearchSpace) -> None:
    search = searcher(tiny)
    budget = Budget.parse("macs<=329200, latency_ms@phone<=50, params<=1M")
    started = time.perf_counter()
    with pytest.raises(InfeasibleBudgetError) as caught:
        search.run(budget)
    assert time.perf_counter() - started < 1
    error = caught.value
    assert isinstance(error, NoSubnetError)
    assert error.tightest.limit == Limit("macs", None, 329200)
    assert error.tightest.least == search.costs.minimum("macs")[0] == 658400
    assert error.tightest.excess == pytest.approx(1.0)
    assert error.nearest.config == tiny.smallest()
    assert error.nearest.excess == {"macs": pytest.approx(1.0)}
    assert error.nearest.costs["macs"] == 658400
    assert str(error) == (
        "no subnet of 'mobilenet_v3_tiny' meets the budget: macs<=329200 cannot be met: the least macs of the space is "
        "658400; the nearest subnet exceeds macs by 100 %; ask for latency_ms@phone<=50, macs<=658400, params<=1000000"
        ", which it meets, or use a smaller search space"
    )
    assert search.run(Budget.parse("macs<=658400")).costs["macs"] == 658400


def advised(error: NoSubnetError) -> Budget:
    """The budget that the refusal tells to ask for."""
    return Budget.parse(str(error).split("; ask for ")[1].split(", which it meets")[0])


@pytest.mark.parametrize(
    "text",
    ["latency_ms@phone<=0.1 p95", "latency_ms@phone<=1% p99.9, macs<=1K", "macs<=1e-300", "macs<=5e-324, params<=1"],
)
def test_what_a_refusal_advises_can_be_asked_for_and_is_met(tiny: SearchSpace, text: str) -> None:
    search = searcher(tiny)
    with pytest.raises(NoSubnetError) as caught:
        search.check(Budget.parse(text))
    assert " inf " not in str(caught.value)
    assert "e+" not in str(caught.value)
    json.dumps(caught.value.to_dict(), allow_nan=False)
    search.check(advised(caught.value))


def test_a_limit_is_rounded_up_to_what_can_be_met() -> None:
    for value in (10.555, float(np.nextafter(10.555, 11)), 1e-9, 658400.0, 1e15 + 0.5, 1e300):
        assert value <= _at_most(value) <= value + 0.001 + value * 1e-15
    assert _at_most(10.555) == 10.555  # the double is a little below, its neighbour above
    assert _at_most(float(np.nextafter(10.555, 11))) == 10.556
    assert _at_most(10.5) == 10.5


def test_the_tightest_of_several_impossible_limits_is_named(tiny: SearchSpace) -> None:
    with pytest.raises(NoSubnetError, match="params<=1000 cannot be met") as caught:
        searcher(tiny).check(Budget.parse("macs<=600K, params<=1K"))
    assert caught.value.tightest.limit.metric == "params"
    assert set(caught.value.nearest.excess) == {"macs", "params"}


def opposed_table(space: SearchSpace):
    """A device on which small resolutions are slow, so that low MACs and low latency exclude each other."""
    table = formula_table(space)
    rows = {
        spec.key: type(row)(2.0 / spec.in_size if spec.in_size > 3 else 0.001, row.spread_ms, row.count)
        for spec in space.all_layers()
        for row in [table.rows[spec.key]]
    }
    return type(table)(table.device, table.space, table.num_classes, rows, table.provenance)


def test_limits_that_exclude_each_other_are_reported_with_the_nearest_subnet_of_all(toy: SearchSpace) -> None:
    search = searcher(toy, tables={"phone": opposed_table(toy)})
    columns = [search.costs.metrics.index(name) for name in ("macs", "latency_ms@phone")]
    costs = search.costs.of(all_genotypes(toy))[:, columns]
    limits = costs.min(axis=0) * 1.05  # each can be met alone
    excess = (costs / limits).max(axis=1) - 1
    assert excess.min() > 0.01
    budget = Budget((Limit("macs", None, limits[0]), Limit("latency_ms", "phone", limits[1])))
    with pytest.raises(NoSubnetError, match="can be met alone, but no subnet that meets all was found") as caught:
        search.run(budget)
    assert max(caught.value.nearest.excess.values()) == pytest.approx(excess.min())
    assert caught.value.tightest.excess <= 0
    assert search.run(advised(caught.value)).excess == {}


def test_limits_that_nearly_exclude_each_other_are_met_together(toy: SearchSpace) -> None:
    search = searcher(toy, tables={"phone": opposed_table(toy)})
    columns = [search.costs.metrics.index(name) for name in ("macs", "latency_ms@phone")]
    costs = search.costs.of(all_genotypes(toy))[:, columns]
    least = costs.min(axis=0)
    ratio = (costs / least).max(axis=1).min() * 1.001
    budget = Budget((Limit("macs", None, least[0] * ratio), Limit("latency_ms", "phone", least[1] * ratio)))
    found = search.run(budget)
    assert found.excess == {}
    feasible = (costs <= least * ratio).all(axis=1)
    assert 0 < feasible.sum() < 100
    best = true_accuracy(toy, all_genotypes(toy)[feasible]).max()
    assert found.predicted_accuracy == pytest.approx(best)


def test_the_explanation_survives_pickling(tiny: SearchSpace) -> None:
    with pytest.raises(NoSubnetError) as caught:
        searcher(tiny).check(Budget.parse("macs<=1"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.tightest, copy.nearest) == (str(caught.value), caught.value.tightest, caught.value.nearest)


def test_check_agrees_with_run_on_a_budget_that_can_be_met(tiny: SearchSpace) -> None:
    oracle = Oracle(tiny)
    EvolutionarySearch(tiny, oracle).check(Budget.parse("macs<=658400"))
    assert oracle.asked == []


def test_a_device_without_a_table_is_refused_with_the_known_ones(tiny: SearchSpace) -> None:
    with pytest.raises(ConfigError, match=r"no latency table for 'pixel6'; known tables: phone; .* onceforall profile"):
        searcher(tiny).run(Budget.parse("latency_ms@pixel6<=3"))
    with pytest.raises(ConfigError, match="known tables: none"):
        EvolutionarySearch(tiny, Oracle(tiny)).run(Budget.parse("latency_ms@pixel6<=3"))


def test_a_predictor_or_table_of_another_space_is_refused(tiny: SearchSpace, toy: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="fitted for 'toy_for_search', not for 'mobilenet_v3_tiny'"):
        EvolutionarySearch(tiny, Oracle(toy))
    with pytest.raises(TableError, match=r"'toy_for_search'.*'mobilenet_v3_tiny'"):
        EvolutionarySearch(tiny, Oracle(tiny), {"phone": formula_table(toy)})
    more = tiny.with_num_classes(100)
    with pytest.raises(TableError, match=r"of 'phone' is for 10 classes, not for the 100 of 'mobilenet_v3_tiny' here"):
        EvolutionarySearch(more, Oracle(more), {"phone": formula_table(tiny)})


def test_all_wrong_settings_are_named_together(tiny: SearchSpace) -> None:
    with pytest.raises(
        ConfigError, match=r"population is 1; allowed: 2 to 100,000; seed is -1; .*parent_shares is \(0, 1\);"
    ):
        EvolutionarySearch(tiny, Oracle(tiny), population=1, parent_shares=(0, 1), seed=-1)


def test_progress_may_stop_the_search(tiny: SearchSpace) -> None:
    class StoppedError(Exception):
        pass

    def progress(done: int, total: int) -> None:
        assert total == 60
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        searcher(tiny).run(Budget.parse("macs<=3M"), progress)


def test_a_fitted_predictor_drives_the_search(tiny: SearchSpace) -> None:
    weight = np.linspace(0, 0.02, 77, dtype=np.float32)[:, None]
    predictor = AccuracyPredictor(tiny, "ridge", (DenseStack((weight,), (np.zeros(1, np.float32),)),))
    found = EvolutionarySearch(tiny, predictor, generations=30).run(Budget.parse("macs<=1G"))
    assert found.predicted_accuracy == pytest.approx(float(predictor.predict([found.config])[0]))
    assert found.predicted_accuracy > float(predictor.predict([tiny.smallest()])[0])
    assert isinstance(found.config, SubnetConfig)


def test_a_default_search_costs_far_less_than_a_reference_search(tiny: SearchSpace) -> None:
    class Free(Oracle):
        def rank_genotypes(self, genotypes):
            return genotypes.sum(axis=1)

    search = EvolutionarySearch(tiny, Free(tiny))
    budget = Budget.parse("macs<=3M")
    times = []
    for _ in range(2):
        started = time.perf_counter()
        found = search.run(budget)
        times.append(time.perf_counter() - started)
    assert found.scored > 40_000
    assert min(times) < 2.5  # 0.25 s on an idle core; the published implementation takes 9 to 16 s


def test_costs_are_priced_for_the_space_s_number_of_classes(tiny: SearchSpace) -> None:
    wide = tiny.with_num_classes(100)
    expected = SpaceCosts(wide, {"macs": MACS, "params": PARAMS}).minimum("params")[0]
    assert EvolutionarySearch(wide, Oracle(wide)).costs.minimum("params")[0] == expected
