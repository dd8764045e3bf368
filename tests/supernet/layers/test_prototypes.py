from __future__ import annotations

import pytest
import torch

from supernet.arch import LayerSpec
from supernet.layers import build_layer, layer_with_weights

SPEC = LayerSpec("mbconv", 8, 8, 16, 16, mid_channels=48, kernel=5, se_channels=16, activation="h_swish", shortcut=True)


def test_the_layer_computes_what_the_built_one_does() -> None:
    built = build_layer(SPEC).eval()
    made = layer_with_weights(SPEC, built.state_dict())
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(made(x), built(x))
    assert repr(made) == repr(built)
    assert not any(module.training for module in made.modules())
    assert list(made.state_dict()) == list(built.state_dict())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in made.parameters())


def test_copies_share_neither_weights_nor_hooks() -> None:
    state = build_layer(SPEC).state_dict()
    one, other = layer_with_weights(SPEC, state), layer_with_weights(SPEC, state)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    for module in one.modules():
        module.register_forward_hook(lambda *_: pytest.fail("the other's hook was called"))
    one.train()
    one.extra = torch.nn.Identity()  # type: ignore[assignment]
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    assert not any(module.training for module in other.modules())
    other(torch.randn(2, 16, 8, 8))


def test_copies_share_no_container() -> None:
    state = build_layer(SPEC).state_dict()
    one, other = layer_with_weights(SPEC, state), layer_with_weights(SPEC, state)
    for module, twin in zip(one.modules(), other.modules(), strict=True):
        for name, value in vars(module).items():
            if isinstance(value, (dict, set, list)):
                assert value is not vars(twin)[name], name
    one.register_buffer("count", torch.zeros(1), persistent=False)
    assert list(other.state_dict()) == list(state)
    other.register_buffer("count", torch.zeros(1))
    assert "count" in other.state_dict()


def test_weights_that_do_not_fit_are_a_programmers_error() -> None:
    state = build_layer(SPEC).state_dict()
    with pytest.raises(KeyError):
        layer_with_weights(SPEC, {})
    with pytest.raises(AssertionError, match="has no"):
        layer_with_weights(SPEC, state | {"more": torch.zeros(1)})
    with pytest.raises(AssertionError, match="needed"):
        layer_with_weights(SPEC, state | {"depthwise.conv.weight": torch.zeros(48, 1, 3, 3)})
