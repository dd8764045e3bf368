from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from search_truth import all_genotypes, true_accuracy
from test_evaluations import Evaluator, Killed, without_seconds, write_manifest
from test_shared_evaluations import Evaluators, collect, lines

from latency_tables import MACS, SpaceCosts
from search import collect_evaluations, propose_near_front
from search.evaluations import plan_subnets
from supernet.errors import ConfigError
from supernet.spaces import SearchSpace


def test_proposals_are_near_the_front_and_new(toy: SearchSpace) -> None:
    configs = plan_subnets(toy, count=60, seed=0)
    accuracies = true_accuracy(toy, toy.encode(configs))
    found = propose_near_front(toy, configs, accuracies.tolist(), count=36, seed=1)
    assert found == propose_near_front(toy, configs, accuracies.tolist(), count=36, seed=1)
    assert len({*found, *configs}) == 96
    costs = SpaceCosts(toy, {"macs": MACS})
    rows = all_genotypes(toy)
    prices, truth = costs.of(rows)[:, 0], true_accuracy(toy, rows)

    def regret(subnets: list) -> float:
        """How much less accurate than the best of all subnets with no more MACs, in the mean."""
        mine = toy.encode(subnets)
        best = [truth[prices <= price].max() for price in costs.of(mine)[:, 0]]
        return float(np.mean(best - true_accuracy(toy, mine)))

    assert regret(found) < 0.5 * regret(configs)


def test_a_space_that_is_nearly_all_measured_is_proposed_to_the_end(toy: SearchSpace) -> None:
    every = toy.decode(all_genotypes(toy))
    order = np.random.default_rng(0).permutation(len(every))
    left, known = [every[i] for i in order[:5]], [every[i] for i in order[5:]]
    found = propose_near_front(toy, known, [0.5] * len(known), count=5, seed=0)
    assert {*found} == {*left}


def test_a_share_near_the_front_is_measured_and_a_killed_run_goes_on_with_the_same_subnets(
    tiny: SearchSpace, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_manifest(tmp_path / name)
    whole = collect_evaluations(tmp_path / "a", Evaluator(tiny), space=tiny, count=40, seed=4, front_share=0.4)
    configs = [one.config for one in whole]
    assert configs[:24] == plan_subnets(tiny, count=24, seed=4)
    assert len({*configs}) == 40
    with pytest.raises(Killed):
        collect_evaluations(tmp_path / "b", Evaluator(tiny, 31), space=tiny, count=40, seed=4, front_share=0.4)
    rest = Evaluator(tiny)
    resumed = collect_evaluations(tmp_path / "b", rest, space=tiny, count=40, seed=4, front_share=0.4)
    assert rest.calls == 9
    assert without_seconds(resumed) == without_seconds(whole)


def test_several_processes_propose_the_same(tiny: SearchSpace, tmp_path: Path) -> None:
    shared = collect(tmp_path / "shared", tiny, Evaluators(tiny), 40, front_share=0.4)
    assert shared[0] == shared[1] == shared[2]
    collect(tmp_path / "alone", tiny, Evaluators(tiny), 40, threads=1, front_share=0.4)
    assert lines(tmp_path / "shared") == lines(tmp_path / "alone")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, r"front_share is 1.0; allowed: 0 to below 1"),
        (-0.1, r"front_share is -0.1"),
        (float("nan"), r"front_share is nan"),
        (0.6, r"front_share 0.6 of 40 leaves 16 random subnets; at least 20 are needed.*; measure more, or take a"),
    ],
)
def test_a_share_that_leaves_too_few_random_subnets_is_refused(
    tiny: SearchSpace, tmp_path: Path, share: float, text: str
) -> None:
    write_manifest(tmp_path)
    with pytest.raises(ConfigError, match=text):
        collect_evaluations(tmp_path, Evaluator(tiny), space=tiny, count=40, front_share=share)
