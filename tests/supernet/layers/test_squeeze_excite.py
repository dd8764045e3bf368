from __future__ import annotations

import pytest
import torch
from torch import Tensor

from supernet import kernels
from supernet.layers.fixed import SqueezeExcite
from supernet.layers.squeeze_excite import squeeze_excite


def _inputs(channels: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, channels, 6, 3), (8, channels, 1, 1), (8,), (channels, 8, 1, 1), (channels,)]
    drawn = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    drawn[0] = drawn[0].contiguous(memory_format=torch.channels_last)
    return [tensor.requires_grad_() for tensor in drawn]


def _all(inputs: list[Tensor]) -> list[Tensor]:
    y = squeeze_excite(*inputs)
    drawn = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, inputs, drawn)]


@pytest.mark.parametrize("channels", [8, 16, 40])
def test_value_and_gradients_equal_autograd_in_double_precision(channels: int) -> None:
    for one, other in zip(_all(_inputs(channels)), _all(_inputs(channels, torch.float64)), strict=True):
        assert one.shape == other.shape
        assert float((one - other).norm() / other.norm()) < 2e-6


def test_it_computes_what_the_fixed_layer_computes() -> None:
    inputs = _inputs(16)
    fixed = SqueezeExcite(16, 8)
    names = ["reduce.weight", "reduce.bias", "expand.weight", "expand.bias"]
    fixed.load_state_dict(dict(zip(names, inputs[1:], strict=True)))
    assert torch.allclose(squeeze_excite(*inputs), fixed(inputs[0]), atol=1e-6)


def test_without_numba_results_are_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = _all(_inputs(24))
    monkeypatch.setattr(kernels, "installed", lambda: False)
    for one, other in zip(_all(_inputs(24)), compiled, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-5
