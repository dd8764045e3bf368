from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from pruning.annealing import Annealing, AnnealingSettings, Point
from supernet.errors import ConfigError

Function = Callable[[Point], float]


def hill(size: int, seed: int) -> Function:
    """A function with the known optimum 0, in percentage points below it."""
    rng = np.random.default_rng(seed)
    top, weights = rng.uniform(0.1, 0.9, size), rng.uniform(0.3, 3, size)
    return lambda x: -100 * float((weights * (x - top) ** 2).mean())


def climb(search: Annealing, value: Function) -> list[tuple[Point, float]]:
    steps = []
    while not search.done:
        point = search.ask()
        steps.append((point, value(point)))
        search.tell(*steps[-1])
    return steps


@pytest.mark.parametrize("size", [10, 20])
def test_200_proposals_come_nearer_the_optimum_than_1000_random_points(size: int) -> None:
    ours, random = [], []
    for seed in range(20):
        value = hill(size, 1000 + seed)
        search = Annealing([0.5] * size, seed=seed)
        climb(search, value)
        assert search.told == 200
        ours.append(search.best_value)
        random.append(max(value(x) for x in np.random.default_rng(seed).uniform(0, 1, (1000, size))))
    assert np.median(ours) > np.median(random)


def test_the_best_point_is_kept_and_the_start_is_the_first_proposal() -> None:
    search = Annealing([0.2, 0.8, 0.5], seed=1)
    steps = climb(search, hill(3, 4))
    assert steps[0][0].tolist() == [0.2, 0.8, 0.5]
    point, value = max(steps, key=lambda step: step[1])
    assert search.best_value == value
    assert search.best.tolist() == point.tolist()
    assert all(((x >= 0) & (x <= 1)).all() for x, _ in steps)


def test_the_same_seed_gives_the_same_search_and_asking_twice_changes_nothing() -> None:
    one, two = Annealing([0.5] * 4, seed=3), Annealing([0.5] * 4, seed=3)
    value = hill(4, 0)
    while not one.done:
        two.ask()
        point, again = one.ask(), two.ask()
        assert point.tolist() == again.tolist()
        one.tell(point, value(point))
        two.tell(again, value(again))
    assert Annealing([0.5] * 4, seed=4).ask().tolist() == [0.5] * 4
    other = Annealing([0.5] * 4, seed=4)
    climb(other, value)
    assert other.best.tolist() != one.best.tolist()


@pytest.mark.parametrize("at", [0, 1, 7, 21, 90, 199])
def test_a_search_goes_on_from_its_state_through_json(at: int) -> None:
    value = hill(5, 2)
    whole = Annealing([0.5] * 5, seed=9)
    expected = climb(whole, value)
    part = Annealing([0.5] * 5, seed=9)
    for _ in range(at):
        point = part.ask()
        part.tell(point, value(point))
    again = Annealing([0.5] * 5, seed=9)
    again.load_state_dict(json.loads(json.dumps(part.state_dict(), allow_nan=False)))
    rest = climb(again, value)
    assert [v for _, v in rest] == [v for _, v in expected[at:]]
    assert again.best.tolist() == whole.best.tolist()


def test_the_first_temperature_accepts_a_usual_loss_once_in_fifty() -> None:
    search = Annealing([0.5] * 6, seed=0, settings=AnnealingSettings(explored=0.0))
    value = hill(6, 1)
    losses = []
    start = search.ask()
    search.tell(start, value(start))
    for _ in range(10):
        point = search.ask()
        losses.append(abs(value(point) - value(start)))
        search.tell(point, value(point))
    assert math.exp(-float(np.median(losses)) / search.temperature) == pytest.approx(0.02)


def test_the_first_points_lie_anywhere_and_the_search_goes_on_from_the_best_of_them() -> None:
    search = Annealing([0.5] * 6, seed=2, settings=AnnealingSettings(proposals=40, explored=0.5, calibration=4))
    value = hill(6, 1)
    steps = climb(search, value)
    anywhere = np.array([point for point, _ in steps[1:21]])
    assert (anywhere.min(0) < 0.25).all()
    assert (anywhere.max(0) > 0.75).all()
    best = max(steps[:21], key=lambda step: step[1])[0]
    for point, _ in steps[21:25]:  # the calibrating moves
        assert np.abs(point - best).max() <= 0.35 + 0.2 * np.abs(best - 0.5).max()
        assert (point == best).any()


def test_it_cools_by_the_factor_to_a_hundredth_and_then_begins_again_warmer() -> None:
    search = Annealing([0.5] * 6, seed=0, settings=AnnealingSettings(proposals=250))
    seen = []
    value = hill(6, 1)
    while not search.done:
        point = search.ask()
        search.tell(point, value(point))
        if search.temperature:
            seen.append(search.temperature)
    ratios = [after / before for before, after in pairwise(seen)]
    assert {round(ratio, 6) for ratio in ratios if ratio < 1} == {0.95}
    assert any(ratio > 1 for ratio in ratios)
    assert min(seen) >= 0.01 * seen[0] * (1 - 1e-9)
    assert max(seen) == seen[0]


def test_points_that_are_not_allowed_are_never_taken() -> None:
    value = hill(4, 3)

    def half(point: Point) -> float:
        return value(point) if point[0] <= 0.5 else -math.inf

    search = Annealing([0.4] * 4, seed=5)
    climb(search, half)
    assert search.best[0] <= 0.5
    assert search.best_value > value(np.array([0.4] * 4))


def test_a_good_prior_helps_and_a_bad_one_does_not_rule() -> None:
    def ends(prior: float) -> float:
        found = []
        for seed in range(20):
            search = Annealing([0.5] * 20, seed=seed, prior=[prior] * 20)
            climb(search, lambda x: -100 * float(((x - 0.75) ** 2).mean()))
            found.append(search.best_value)
        return float(np.median(found))

    start = -100 * 0.25**2
    good, bad = ends(0.75), ends(0.1)
    assert good > bad
    assert bad > start


def test_a_flat_function_still_has_a_temperature() -> None:
    search = Annealing([0.5], seed=0)
    climb(search, lambda x: 1.0)
    assert search.temperature > 0
    assert search.best.tolist() == [0.5]


def test_values_settings_and_starts_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"proposals is 0; allowed: at least 1; cooling is 1"):
        AnnealingSettings(proposals=0, cooling=1)
    with pytest.raises(ConfigError, match="each 0 to 1"):
        Annealing([1.5], seed=0)
    with pytest.raises(ConfigError, match="a prior of 1 coordinates for a start of 2"):
        Annealing([0.5, 0.5], seed=0, prior=[0.1])
    search = Annealing([0.5], seed=0)
    with pytest.raises(ConfigError, match="NaN"):
        search.tell(search.ask(), math.nan)
