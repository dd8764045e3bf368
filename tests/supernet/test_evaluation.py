"""Counts of correct answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from supernet.evaluation import BATCH_SIZE, confidence_interval, count_correct, find_correct
from supernet.images import Normalisation


class Brightness(nn.Module):
    """Answers class 1 for a bright image, 0 for a dark one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean(dim=(1, 2, 3))
        return self.scale * torch.stack([-bright, bright], dim=1)


def test_correct_answers_are_found_image_by_image_across_batches() -> None:
    count = BATCH_SIZE + 7
    labels = torch.arange(count) % 2
    images = (labels * 255).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
    wrong = torch.tensor([0, 5, BATCH_SIZE - 1, BATCH_SIZE, count - 1])
    labels[wrong] = 1 - labels[wrong]
    plain = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    correct = find_correct(Brightness().eval(), images, labels, 8, plain)
    assert correct.dtype == torch.bool
    assert (~correct).nonzero().flatten().tolist() == wrong.tolist()
    assert count_correct(Brightness().eval(), images, labels, 8, plain) == count - 5


@pytest.mark.parametrize(
    ("correct", "low", "high"),
    [(8, 0.4902, 0.9433), (0, 0.0, 0.2775), (10, 0.7225, 1.0)],  # of 10; Wilson's formula by hand
)
def test_the_confidence_interval_is_wilsons(correct: int, low: float, high: float) -> None:
    assert confidence_interval(correct, 10) == pytest.approx((low, high), abs=1e-4)
