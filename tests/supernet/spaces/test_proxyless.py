from __future__ import annotations

from latency_tables import macs
from latency_tables.testing import CostedSpaceContract
from supernet import Supernet, get_space

SPACE = get_space("proxyless_w1.3")


class TestW13(CostedSpaceContract):
    space = SPACE


def test_the_space_has_the_published_size() -> None:
    """Parameters: those of the authors' package; MACs of its largest network at 224 pixels, counted on its modules."""
    assert sum(parameter.numel() for parameter in Supernet(SPACE).parameters()) == 7_956_882
    assert macs(SPACE.layers(SPACE.largest())) == 1_004_908_032


def test_widths_at_1_3_are_rounded_to_multiples_of_8() -> None:
    """By hand: 32, 16, 24, 40, 80, 96, 192, 320, 1280 times 1.3."""
    widths = [spec.out_channels for spec in SPACE.layers(SPACE.smallest())]
    assert widths == [40, 24, 32, 32, 56, 56, 104, 104, 128, 128, 248, 248, 416, 1664, 1664, 1000]


def test_the_last_stage_is_one_block_of_which_only_kernel_and_expand_ratio_are_elastic() -> None:
    largest, smallest = SPACE.largest(), SPACE.smallest()
    assert largest.depths == (4, 4, 4, 4, 4, 1)
    assert smallest.depths == (2, 2, 2, 2, 2, 1)
    assert len(largest.kernels) == len(largest.expands) == 21
    assert smallest.kernels[-1] == 3


def test_there_is_relu6_only_no_squeeze_excite_and_no_shortcut_around_the_first_block() -> None:
    layers = SPACE.layers(SPACE.largest())
    assert {spec.activation for spec in layers[:-2]} == {"relu6"}
    assert not any(spec.se_channels for spec in layers)
    assert not layers[1].shortcut
    assert sum(spec.shortcut for spec in layers) == 15  # all but the first block of each stage


def test_every_batch_norm_has_the_published_epsilon() -> None:
    from torch import nn

    norms = [part for part in Supernet(SPACE).extract(SPACE.smallest()).modules() if isinstance(part, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
