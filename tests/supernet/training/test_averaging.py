from __future__ import annotations

import pytest
import torch
from torch import nn

from supernet.training.averaging import MovingAverage


def test_the_average_follows_its_formula_and_is_written_back() -> None:
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
        average = MovingAverage(net, 0.9)
        expected = 1.0
        for step, value in enumerate([3.0, 5.0, -1.0]):
            net.weight.fill_(value)
            average.update(step)
            decay = min(0.9, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * value
    average.write_back()
    assert net.weight.item() == pytest.approx(expected)


def test_the_state_survives_a_round_trip() -> None:
    net = nn.Linear(2, 2)
    average = MovingAverage(net, 0.5)
    with torch.no_grad():
        net.weight.add_(1)
    average.update(100)
    other = MovingAverage(net, 0.5)
    other.load_state_dict(average.state_dict())
    assert all(torch.equal(other.state_dict()[name], value) for name, value in average.state_dict().items())
