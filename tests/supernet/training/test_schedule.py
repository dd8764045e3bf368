from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from supernet.errors import ConfigError
from supernet.training.schedule import Stage

PLAIN = Stage("plain", epochs=10, warmup_epochs=1, learning_rate=0.1, subnets_per_step=1, greatest={"kernel": 1})
SANDWICH = replace(PLAIN, sampling="sandwich", subnets_per_step=4, teacher="in-place", ramp_epochs=2)


def test_the_learning_rate_warms_up_then_falls_as_a_cosine() -> None:
    rates = [PLAIN.learning_rate_at(step, 4) for step in range(40)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)
    assert rates[22] == pytest.approx(0.05)  # half way through the cosine
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert 0 < rates[-1] < 0.001


def test_a_warm_up_may_be_a_part_of_an_epoch() -> None:
    short = replace(PLAIN, epochs=1, warmup_epochs=0.1, learning_rate=0.02)
    assert [short.learning_rate_at(step, 20) for step in (0, 1, 2)] == pytest.approx([0.01, 0.02, 0.02])
    assert short.learning_rate_at(19, 20) < 0.0005


def test_two_stages_can_share_one_cosine() -> None:
    whole = [replace(PLAIN, warmup_epochs=0).learning_rate_at(step, 4) for step in range(40)]
    first = replace(PLAIN, warmup_epochs=0, epochs=4, cosine=(0.0, 0.4))
    second = replace(PLAIN, warmup_epochs=0, epochs=6, cosine=(0.4, 1.0))
    halves = [first.learning_rate_at(step, 4) for step in range(16)]
    halves += [second.learning_rate_at(step, 4) for step in range(24)]
    assert halves == pytest.approx(whole)


def test_subnets_fade_in_over_the_ramp() -> None:
    assert [SANDWICH.subnet_weight_at(step, 4) for step in (0, 3, 7, 8, 30)] == pytest.approx([1 / 8, 0.5, 1, 1, 1])
    assert PLAIN.subnet_weight_at(0, 4) == 1


@pytest.mark.parametrize(
    "stage",
    [
        PLAIN,
        SANDWICH,
        replace(
            PLAIN,
            label_ratio=0.5,
            taught_dropout=False,
            sort_channels=(6, 4),
            trained_widths=(1.0,),
            choices={"resolution": (16, 20)},
            cosine=(0.5, 1.0),
        ),
    ],
)
def test_stages_survive_json(stage: Stage) -> None:
    assert Stage.from_dict(json.loads(json.dumps(stage.to_dict()))) == stage


def test_a_stage_stored_before_taught_subnets_were_treated_apart_trains_as_it_did() -> None:
    stored = SANDWICH.to_dict()
    del stored["label_ratio"], stored["taught_dropout"]
    found = Stage.from_dict(stored)
    assert (found.label_ratio, found.taught_dropout) == (0, True)


def test_rules_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"stage 'plain': unknown teacher 'wise'; allowed: none, frozen, in-place"):
        replace(PLAIN, teacher="wise")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"has 1 subnet\(s\) a step; a sandwich is 2 or more"):
        replace(PLAIN, sampling="sandwich")
    with pytest.raises(ConfigError, match="a teacher in place needs sampling 'sandwich'"):
        replace(PLAIN, teacher="in-place")
