from __future__ import annotations

import math

import pytest
import torch

from supernet.training.distillation import alpha_divergence, label_loss, teacher_loss

LOGITS = torch.tensor([[math.log(3), 0.0]])
"""Probabilities 3/4 and 1/4."""


def test_the_label_loss_is_cross_entropy_with_smoothing() -> None:
    """By hand: targets 0.05 and 0.95 of two classes with smoothing 0.1."""
    assert float(label_loss(LOGITS, torch.tensor([1]), label_smoothing=0)) == pytest.approx(math.log(4))
    smooth = label_loss(LOGITS, torch.tensor([1]), label_smoothing=0.1)
    assert float(smooth) == pytest.approx(0.95 * math.log(4) + 0.05 * math.log(4 / 3))


def test_the_teachers_probabilities_are_a_target() -> None:
    """By hand: with a teacher that says 1/2, 1/2 the loss is the mean of -ln 3/4 and -ln 1/4."""
    assert float(teacher_loss(LOGITS, torch.zeros(1, 2))) == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 1.0, 2.0])
def test_the_alpha_divergence_is_its_definition_in_value_and_gradient(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    p, q = teacher.softmax(1), logits.softmax(1)
    if alpha == 1:
        expected = (p * (p / q).log()).sum(1)
    else:
        expected = ((p**alpha * q ** (1 - alpha)).sum(1) - 1) / (alpha * (alpha - 1))
    found = alpha_divergence(logits, teacher, (alpha,), math.inf)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(values.sum(), logits, retain_graph=True)[0] for values in (found, expected))
    )


def test_a_subnet_that_agrees_with_its_teacher_has_no_loss_and_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_(True)
    loss = teacher_loss(logits, LOGITS, "alpha")
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert float(torch.autograd.grad(loss, logits)[0].abs().max()) == pytest.approx(0, abs=1e-6)


def test_the_greater_divergence_of_each_image_counts() -> None:
    sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.5, 0.0]])
    both = torch.cat([sure, unsure])
    teacher = torch.cat([unsure, sure])
    each = torch.stack([alpha_divergence(both, teacher, (alpha,)) for alpha in (-1.0, 1.0)])
    torch.testing.assert_close(alpha_divergence(both, teacher), each.max(0).values)
    assert each.argmax(0).tolist() == [1, 0]


def test_a_subnet_that_is_surely_wrong_learns_from_its_teacher() -> None:
    """By hand: at alpha = 1 the gradient is q - p, here nearly (1, -1, 0, 0)."""
    logits = torch.tensor([[8.0, 0.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 8.0, 0.0, 0.0]])
    (gradient,) = torch.autograd.grad(teacher_loss(logits, teacher, "alpha"), logits)
    torch.testing.assert_close(gradient, logits.detach().softmax(1) - teacher.softmax(1))
    assert gradient[0, 0] > 0.99


def test_large_ratios_are_cut_in_value_and_gradient() -> None:
    """At alpha = -1 the ratio is q / p: for q = (1, 0) and p = (0, 1) it is cut at 5, so the value is (5 - 1) / 2."""
    logits = torch.tensor([[20.0, 0.0]], requires_grad=True)
    found = alpha_divergence(logits, torch.tensor([[0.0, 20.0]]), (-1.0,))
    assert found.item() == pytest.approx(2.0, rel=1e-4)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert float(gradient.abs().max()) < 5
