from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from supernet.layers.depthwise import MOST_PAIRS, depthwise_conv2d


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (3, 3), (1, 1), (5, 9), (20, 20)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_value_and_gradients_equal_autograd(
    kernel: int, stride: int, height: int, width: int, channels_last: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 16, height, width, generator=generator)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(16, 1, kernel, kernel, generator=generator)
    found = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    expected = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    y = depthwise_conv2d(*found, stride)
    reference = F.conv2d(*expected, None, stride, kernel // 2, 1, 16)
    assert torch.equal(y, reference)
    gradient = torch.randn(y.shape, generator=generator)
    y.backward(gradient)
    reference.backward(gradient)
    for one, other in zip(found, expected, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert float((one.grad - other.grad).abs().max()) <= 1e-5 * float(other.grad.abs().max())


def test_both_ways_are_covered_by_the_sizes_above() -> None:
    assert 8 * 8 * 8 * 8 <= MOST_PAIRS < 20 * 20 * 20 * 20


def test_gradients_equal_finite_differences() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: depthwise_conv2d(a, b, 2), (x, weight))


def test_a_frozen_input_or_weight_gets_no_gradient() -> None:
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(3, 1, 5, 5, requires_grad=True)
    depthwise_conv2d(x, weight, 1).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
