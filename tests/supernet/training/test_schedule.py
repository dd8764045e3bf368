from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from supernet.errors import ConfigError
from supernet.spaces import SearchSpace
from supernet.training.schedule import (
    SMALL_IMAGE_RATES,
    STAGE_NAMES,
    Stage,
    progressive_shrinking,
    split_epochs,
)


def _plan(space: SearchSpace, **epochs: int) -> tuple[Stage, ...]:
    return progressive_shrinking(space, dict.fromkeys(STAGE_NAMES, 10) | epochs, SMALL_IMAGE_RATES)


def test_stages_open_kernel_depth_and_width_in_the_papers_order(tiny: SearchSpace) -> None:
    """Values: Cai et al., ICLR 2020, appendix B."""
    found = [
        (s.name, s.subnets_per_step, s.choices["kernel"], s.choices["depth"], s.choices["expand"], s.sort_channels)
        for s in _plan(tiny)
    ]
    assert found == [
        ("largest", 1, (7,), (4,), (6,), None),
        ("kernel", 1, (3, 5, 7), (4,), (6,), None),
        ("depth1", 2, (3, 5, 7), (3, 4), (6,), None),
        ("depth2", 2, (3, 5, 7), (2, 3, 4), (6,), None),
        ("width1", 4, (3, 5, 7), (2, 3, 4), (4, 6), (6,)),
        ("width2", 4, (3, 5, 7), (2, 3, 4), (3, 4, 6), (6, 4)),
    ]


def test_only_the_largest_network_trains_without_a_teacher(tiny: SearchSpace) -> None:
    assert [stage.distil for stage in _plan(tiny)] == [False] + [True] * 5


def test_a_stage_draws_subnets_from_its_choices_only(tiny: SearchSpace, rng: np.random.Generator) -> None:
    largest = _plan(tiny)[0]
    drawn = tiny.decode(tiny.sample_genotypes(rng, 50, within=largest.choices))
    assert {(c.depths, c.kernels, c.expands) for c in drawn} == {((4,) * 3, (7,) * 12, (6,) * 12)}
    assert len({c.resolution for c in drawn}) == 5


def test_the_learning_rate_warms_up_then_falls_as_a_cosine(tiny: SearchSpace) -> None:
    stage = _plan(tiny)[0]
    rates = [stage.learning_rate_at(step, 4) for step in range(40)]
    assert stage.warmup_epochs == 1
    short = _plan(tiny, depth1=1)[2]
    assert [short.learning_rate_at(step, 20) for step in (0, 1, 2)] == pytest.approx([0.01, 0.02, 0.02])
    assert short.learning_rate_at(19, 20) < 0.0005
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)
    assert rates[22] == pytest.approx(0.05)  # half way through the cosine
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert 0 < rates[-1] < 0.001


def test_a_stage_without_epochs_is_left_out(tiny: SearchSpace) -> None:
    assert [stage.name for stage in _plan(tiny, depth1=0, width1=0)] == ["largest", "kernel", "depth2", "width2"]


def test_stages_survive_json(tiny: SearchSpace) -> None:
    for stage in _plan(tiny):
        assert Stage.from_dict(json.loads(json.dumps(stage.to_dict()))) == stage


@pytest.mark.parametrize("total", [6, 7, 34, 100, 999])
def test_epochs_are_split_without_loss(total: int) -> None:
    epochs = split_epochs(total)
    assert sum(epochs.values()) == total
    assert min(epochs.values()) >= 1
    assert max(epochs, key=epochs.__getitem__) in ("largest", "width2")


def test_impossible_epochs_are_refused(tiny: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="5 epochs for 6 stages"):
        split_epochs(5)
    with pytest.raises(ConfigError, match=r"epochs are .*; allowed: 0 or more a stage"):
        _plan(tiny, kernel=-1)
    with pytest.raises(ConfigError, match=r"unknown \['kernels'\], missing \[\]; the stages are largest, kernel"):
        _plan(tiny, kernels=3)
