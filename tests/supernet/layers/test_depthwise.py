from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from supernet import kernels
from supernet.layers.depthwise import depthwise_conv2d

SIZES = [(8, 8), (7, 7), (3, 3), (1, 1), (5, 9), (20, 20), (2, 33), (112, 13)]


def _gradients(x: Tensor, weight: Tensor, stride: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Value, input gradient and weight gradient of `depthwise_conv2d`."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = depthwise_conv2d(x, weight, stride)
    drawn = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return y.detach(), *torch.autograd.grad(y, [x, weight], drawn.to(y.dtype))


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [8, 16, 40])
def test_value_and_gradients_equal_autograd_in_double_precision(
    kernel: int, stride: int, height: int, width: int, channels_last: bool, channels: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, height, width, generator=generator)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator)
    found = _gradients(x, weight, stride)
    assert torch.equal(found[0], F.conv2d(x, weight, None, stride, kernel // 2, 1, channels))
    for one, other in zip(found, _gradients(x.double(), weight.double(), stride), strict=True):
        assert one.shape == other.shape
        tolerance = 1e-5 if kernel == 3 else 2e-6  # at 3 the gradients are torch's, which are less exact
        assert float((one - other).abs().max()) <= tolerance * float(other.abs().max())


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_input_gradient_is_laid_out_as_the_input(channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 16, 6, 6).contiguous(memory_format=layout)
    _, x_gradient, _ = _gradients(x, torch.randn(16, 1, 5, 5), 1)
    assert x_gradient.is_contiguous(memory_format=layout)


def test_without_numba_the_gradients_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(4, 32, 9, 9), torch.randn(32, 1, 7, 7)
    compiled = _gradients(x, weight, 2)
    monkeypatch.setattr(kernels, "installed", lambda: False)
    plain = _gradients(x, weight, 2)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    y = F.conv2d(x, weight, None, 2, 3, 1, 32)
    drawn = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    for one, other, mine in zip(plain[1:], torch.autograd.grad(y, [x, weight], drawn), compiled[1:], strict=True):
        assert torch.equal(one, other)
        assert float((one - mine).abs().max()) <= 1e-5 * float(other.abs().max())


def test_gradients_equal_finite_differences() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: depthwise_conv2d(a, b, 2), (x, weight))


def test_a_frozen_input_or_weight_gets_no_gradient() -> None:
    x, weight = torch.randn(2, 16, 4, 4), torch.randn(16, 1, 5, 5, requires_grad=True)
    depthwise_conv2d(x, weight, 1).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    x.requires_grad_()
    depthwise_conv2d(x, weight.detach(), 1).sum().backward()
    assert x.grad is not None
