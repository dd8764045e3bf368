from __future__ import annotations

import math

import pytest
import torch

from supernet.training.distillation import subnet_loss


def test_without_a_teacher_it_is_cross_entropy() -> None:
    """By hand: logits (ln 3, 0) give probabilities 3/4 and 1/4."""
    logits = torch.tensor([[math.log(3), 0.0]])
    loss = subnet_loss(logits, torch.tensor([1]), None, label_smoothing=0, kd_ratio=1)
    assert float(loss) == pytest.approx(math.log(4))


def test_the_teachers_probabilities_are_a_second_target() -> None:
    """By hand: with a teacher that says 1/2, 1/2 the second term is the mean of -ln 3/4 and -ln 1/4."""
    logits = torch.tensor([[math.log(3), 0.0]])
    loss = subnet_loss(logits, torch.tensor([1]), torch.zeros(1, 2), label_smoothing=0, kd_ratio=2)
    assert float(loss) == pytest.approx(math.log(4) + 2 * (math.log(4) + math.log(4 / 3)) / 2)


def test_label_smoothing_spreads_the_first_target() -> None:
    """By hand: targets 0.05 and 0.95 of two classes with smoothing 0.1."""
    logits = torch.tensor([[math.log(3), 0.0]])
    loss = subnet_loss(logits, torch.tensor([1]), None, label_smoothing=0.1, kd_ratio=1)
    assert float(loss) == pytest.approx(0.95 * math.log(4) + 0.05 * math.log(4 / 3))
