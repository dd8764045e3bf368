from __future__ import annotations

from dataclasses import replace

import numpy as np

from supernet.spaces import SearchSpace, get_space
from supernet.training.recipes import SMALL_IMAGES, build_stages
from supernet.training.sampling import draw_subnets, largest_of, smallest_of


def test_a_stage_draws_subnets_from_its_choices_only(tiny: SearchSpace, rng: np.random.Generator) -> None:
    largest = build_stages("progressive", tiny, SMALL_IMAGES, epochs=10)[0]
    drawn = [draw_subnets(tiny, largest, 0, 0, step)[0] for step in range(50)]
    assert {(c.depths, c.kernels, c.expands) for c in drawn} == {((4,) * 3, (7,) * 12, (6,) * 12)}
    assert len({c.resolution for c in drawn}) == 5


def test_random_subnets_of_a_step_differ_but_share_a_resolution(tiny: SearchSpace) -> None:
    stage = build_stages("progressive", tiny, SMALL_IMAGES, epochs=10)[-1]
    for step in range(10):
        drawn = draw_subnets(tiny, stage, 0, 5, step)
        assert len(set(drawn)) == 4
        assert len({config.resolution for config in drawn}) == 1


def test_a_sandwich_is_the_largest_then_random_ones_then_the_smallest(tiny: SearchSpace) -> None:
    (stage,) = build_stages("sandwich", tiny, SMALL_IMAGES, epochs=10)
    drawn = [draw_subnets(tiny, stage, 0, 0, step) for step in range(10)]
    assert all(configs[0] == tiny.largest() and configs[-1] == tiny.smallest() for configs in drawn)
    assert len({config for configs in drawn for config in configs[1:-1]}) == 20


def test_a_sandwich_keeps_to_the_stages_choices(tiny: SearchSpace) -> None:
    (stage,) = build_stages("sandwich", tiny, SMALL_IMAGES, epochs=10)
    narrow = replace(stage, choices={"resolution": (20, 24), "kernel": (3, 5)})
    drawn = draw_subnets(tiny, narrow, 0, 0, 3)
    assert drawn[0] == largest_of(tiny, narrow)
    assert (drawn[0].resolution, set(drawn[0].kernels), set(drawn[0].expands)) == (24, {5}, {6})
    assert drawn[-1] == smallest_of(tiny, narrow)
    assert drawn[-1].resolution == 20


def test_a_sandwich_of_two_is_the_largest_and_the_smallest(tiny: SearchSpace) -> None:
    (stage,) = build_stages("sandwich", tiny, SMALL_IMAGES, epochs=10)
    assert draw_subnets(tiny, replace(stage, subnets_per_step=2), 0, 0, 0) == [tiny.largest(), tiny.smallest()]


def test_the_greatest_values_are_counted_in_each_dimension() -> None:
    """The stem of resnet50 has depths 0 and 2, its stages 0, 1 and 2; two widths of its stem are one network."""
    space = get_space("resnet50")
    stage = replace(build_stages("random", space, SMALL_IMAGES, epochs=1)[0], greatest={"depth": 2, "width": 2})
    drawn = [draw_subnets(space, stage, 0, 0, step)[0] for step in range(60)]
    assert {config.depths[0] for config in drawn} == {0, 2}
    assert {depth for config in drawn for depth in config.depths[1:]} == {1, 2}
    assert {width for config in drawn for width in config.widths[1:]} == {0.8, 1.0}
    assert smallest_of(space, stage).depths == (0, 1, 1, 1, 1)
    assert smallest_of(space, stage).widths[0] == min(config.widths[0] for config in drawn)


def test_the_draw_depends_on_seed_stage_and_step_alone(tiny: SearchSpace) -> None:
    (stage,) = build_stages("random", tiny, SMALL_IMAGES, epochs=10)
    assert draw_subnets(tiny, stage, 1, 2, 3) == draw_subnets(tiny, stage, 1, 2, 3)
    others = [draw_subnets(tiny, stage, *place)[0] for place in ((1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4))]
    assert len(set(others)) == 4
