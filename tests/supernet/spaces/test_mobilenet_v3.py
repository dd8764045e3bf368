from __future__ import annotations

import pytest

from latency_tables import macs
from latency_tables.testing import CostedSpaceContract
from supernet import Supernet, get_space


class TestTiny(CostedSpaceContract):
    space = get_space("mobilenet_v3_tiny")
    image_side = 32


class TestW10(CostedSpaceContract):
    space = get_space("mobilenet_v3_w1.0")


class TestW12(CostedSpaceContract):
    space = get_space("mobilenet_v3_w1.2")


@pytest.mark.parametrize(
    ("name", "parameters", "largest_macs"),
    [("mobilenet_v3_w1.0", 7_678_880, 566_170_656), ("mobilenet_v3_w1.2", 10_715_752, 843_101_040)],
)
def test_the_imagenet_spaces_have_the_published_size(name: str, parameters: int, largest_macs: int) -> None:
    """Parameters: those of the authors' package; MACs of its largest network at 224 pixels, counted on its modules."""
    space = get_space(name)
    assert sum(parameter.numel() for parameter in Supernet(space).parameters()) == parameters
    assert macs(space.layers(space.largest())) == largest_macs


def test_widths_at_1_2_are_rounded_to_multiples_of_8() -> None:
    """By hand: 16, 24, 40, 80, 112, 160, 960, 1280 times 1.2; 19.2 would be 16, which is more than 10 % less, so 24."""
    space = get_space("mobilenet_v3_w1.2")
    widths = [spec.out_channels for spec in space.layers(space.smallest())]
    assert widths == [24, 24, 32, 32, 48, 48, 96, 96, 136, 136, 192, 192, 1152, 1152, 1536, 1000]


def test_squeeze_excite_and_activations_are_those_of_mobilenet_v3_large() -> None:
    space = get_space("mobilenet_v3_w1.0")
    blocks = [spec for name, spec in space.named_layers(space.largest()) if "_block1" in name and spec is not None]
    assert [(spec.se_channels, spec.activation, spec.stride) for spec in blocks] == [
        (0, "relu", 2),
        (40, "relu", 2),  # 24 channels x 6 / 4 = 36, to a multiple of 8
        (0, "h_swish", 2),
        (120, "h_swish", 1),
        (168, "h_swish", 2),
    ]
