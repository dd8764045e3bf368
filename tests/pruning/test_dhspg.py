from __future__ import annotations

import math

import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from pruning import DHSPG, FixedPenalty
from pruning.dhspg import _fixed
from supernet.errors import ConfigError
from tests.pruning.hand_built import ChainGroups, backward, chain


def penalty_of(x: list[float], d: list[float], penalty: FixedPenalty) -> float:
    """lambda_g by algorithm 2 of the paper, with plain numbers."""
    xd = sum(a * b for a, b in zip(x, d, strict=True))
    norm, slope = math.sqrt(sum(a * a for a in x)), math.sqrt(sum(b * b for b in d))
    if xd >= 0:
        return penalty.strength
    low, high = -xd / norm, -(slope**2) * norm / xd
    found = min(max(penalty.amplify * low, penalty.strength), penalty.ceiling * penalty.strength)
    return (low + high) / 2 if found >= high else found


@pytest.mark.parametrize(
    ("x", "d", "expected"),
    [
        ([3.0, 4.0], [1.0, 0.0], 0.1),  # the direction shrinks the unit: lambda
        ([3.0, 4.0], [-1.0, 0.0], 1.0),  # lo = 0.6, hi = 5/3; 2 lo = 1.2 is above the ceiling of 1
        ([3.0, 4.0], [-0.5, 0.0], 0.6),  # lo = 0.3: 2 lo
        ([3.0, 4.0], [-0.05, 0.0], (0.03 + 0.0025 * 5 / 0.15) / 2),  # hi = 1/12 is below lambda: (lo + hi)/2
        ([3.0, 4.0], [-0.3, -0.4], 0.5),  # straight outwards: lo = hi = 0.5
    ],
)
def test_fixed_penalties_are_the_papers(x: list[float], d: list[float], expected: float) -> None:
    penalty, lr = FixedPenalty(strength=0.1, amplify=2.0, ceiling=10.0), 0.25
    by_hand = penalty_of(x, d, penalty)
    assert by_hand == pytest.approx(expected)
    unit, step = torch.tensor(x, dtype=torch.float64), lr * torch.tensor(d, dtype=torch.float64)
    rate = torch.tensor([lr], dtype=torch.float64)
    found = _fixed(penalty, rate, (unit @ unit)[None], (unit @ step)[None], (step @ step)[None])
    assert float(found * unit.norm() / lr) == pytest.approx(by_hand)


def test_published_penalties_follow_the_optimiser() -> None:
    parameters = [torch.nn.Parameter(torch.ones(1))]
    assert FixedPenalty.published(SGD(parameters, lr=0.1)) == FixedPenalty(1e-3, 2.0, 10.0)
    for kind in (Adam, AdamW):
        assert FixedPenalty.published(kind(parameters)) == FixedPenalty(1e-2, 20.0, 1e3)


def test_wrong_penalties_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"strength is 0; .* amplify is 1; allowed: above 1; ceiling is 0\.5"):
        FixedPenalty(0, 1, 0.5)
    net = chain()
    with pytest.raises(ConfigError, match=r"epsilon is 1; allowed: 0 or more and below 1"):
        DHSPG(
            SGD(net.parameters(), lr=0.1),
            ChainGroups.of(net),
            target="macs=0.5",
            start_pruning_step=0,
            pruning_steps=5,
            epsilon=1,
        )


def test_a_units_component_along_itself_falls_by_one_over_the_steps_left() -> None:
    net = chain()
    optimizer = DHSPG(
        SGD(net.parameters(), lr=1e-3), ChainGroups.of(net), target="macs=0.5", start_pruning_step=0, pruning_steps=8
    )
    sets = optimizer.groups.sets
    for step in range(7):
        before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
        backward(net, step)
        optimizer.step()
        after = dict(net.named_parameters())
        for unit_set, redundant in zip(sets, optimizer.redundant, strict=True):
            for unit in redundant.nonzero()[:, 0].tolist():
                x = torch.cat([before[entries.name][unit].flatten() for entries in unit_set.variables]).double()
                y = torch.cat([after[entries.name][unit].detach().flatten() for entries in unit_set.variables]).double()
                left = float(x @ y / (x @ x))
                assert left <= 1 - 1 / (8 - step) + 1e-6
                assert left == pytest.approx(1 - 1 / (8 - step), abs=2e-3)  # SGD alone moves it little
    assert any(mask.any() for mask in optimizer.redundant)
