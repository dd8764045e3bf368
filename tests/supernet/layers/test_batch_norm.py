from __future__ import annotations

import pytest
import torch
from torch import Tensor

from supernet import kernels
from supernet.arch import Activation
from supernet.layers import batch_norm as module
from supernet.layers.batch_norm import batch_norm, normalise_by_own_statistics

ACTIVATIONS: list[Activation] = ["none", "relu", "relu6", "h_swish"]


@pytest.fixture(autouse=True)
def kernels_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_NUMBERS", 0)


def _images(channels: int, *, mean: float = 0.5, shape: tuple[int, int, int] = (6, 9, 7)) -> Tensor:
    n, height, width = shape
    x = torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(0)) * 3 + mean
    return x.contiguous(memory_format=torch.channels_last)


def _all(x: Tensor, activation: Activation, *, training: bool = True) -> list[Tensor]:
    """Output, gradients of input, weight and bias, running statistics."""
    channels, dtype = x.shape[1], x.dtype
    generator = torch.Generator().manual_seed(1)
    weight = (torch.rand(channels, generator=generator) + 0.5).to(dtype).requires_grad_()
    bias = torch.randn(channels, generator=generator).to(dtype).requires_grad_()
    running_mean, running_var = torch.full((channels,), 0.3, dtype=dtype), torch.full((channels,), 2.0, dtype=dtype)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = batch_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        training=training,
        momentum=0.1,
        eps=1e-5,
        activation=activation,
    )
    drawn = torch.randn(y.shape, generator=generator).to(dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, weight, bias], drawn), running_mean, running_var]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("channels", [8, 16, 24, 72])
def test_value_gradients_and_running_statistics_equal_torchs_in_double_precision(
    activation: Activation, channels: int
) -> None:
    x = _images(channels)
    for one, other in zip(_all(x, activation), _all(x.double(), activation), strict=True):
        assert one.shape == other.shape
        # the relative norm: a kink moves a single number by much
        assert float((one - other).norm() / other.norm()) < 2e-6


def test_a_mean_far_above_the_deviation_keeps_the_variances_digits() -> None:
    x = _images(16, mean=3000.0, shape=(64, 16, 16))
    _, exact = torch.var_mean(x.double(), (0, 2, 3))
    variance = torch.var(x.double(), (0, 2, 3), correction=0)
    mean, found, _ = normalise_by_own_statistics(x, None, None, eps=1e-5, activation="none", out=torch.empty_like(x))
    assert torch.allclose(mean, exact, rtol=1e-9)
    assert torch.allclose(found, variance, rtol=1e-5)


@pytest.mark.parametrize("channels", [16, 24, 40])
def test_the_result_may_overwrite_the_input(channels: int) -> None:
    x = _images(channels)
    apart, y = torch.empty_like(x), x.clone()
    normalise_by_own_statistics(x, None, None, eps=1e-5, activation="h_swish", out=apart)
    normalise_by_own_statistics(y, None, None, eps=1e-5, activation="h_swish", out=y)
    assert torch.equal(y, apart)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_number_that_is_none_stays_one(activation: Activation) -> None:
    x = _images(16)
    x[0, 3, 0, 0] = float("nan")
    y = _all(x, activation)[0]
    assert y[:, 3].isnan().all()
    assert not y[:, :3].isnan().any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_without_numba_results_are_torchs_own(activation: Activation, monkeypatch: pytest.MonkeyPatch) -> None:
    x = _images(24)
    compiled = _all(x, activation)
    monkeypatch.setattr(kernels, "installed", lambda: False)
    for one, other in zip(_all(x, activation), compiled, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-5


def test_evaluation_uses_the_running_statistics_and_leaves_them() -> None:
    x = _images(16)
    y, *_, running_mean, running_var = _all(x, "none", training=False)
    assert torch.equal(running_mean, torch.full((16,), 0.3))
    assert torch.equal(running_var, torch.full((16,), 2.0))
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.rand(16, generator=generator) + 0.5, torch.randn(16, generator=generator)
    expected = (x - 0.3) / (2 + 1e-5) ** 0.5 * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)
    assert torch.allclose(y, expected, atol=1e-5)


def test_small_inputs_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert _images(16).numel() < module.LEAST_NUMBERS
    monkeypatch.setattr(module._BatchNorm, "apply", lambda *_: pytest.fail("a kernel was called"))
    _all(_images(16), "relu")
