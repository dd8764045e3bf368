from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from latency_tables import macs
from latency_tables.testing import CostedSpaceContract
from supernet import Supernet, get_space, registry
from supernet.errors import ConfigError
from supernet.layers.elastic import ElasticBottleneck
from supernet.spaces import SearchSpace
from supernet.spaces.resnet50 import Plan, Stage, resnet_space
from supernet.testing import randomise

SPACE = get_space("resnet50")


class TestResNet50(CostedSpaceContract):
    space = SPACE
    subnets = 2


@pytest.fixture(scope="module")
def small() -> Iterator[SearchSpace]:
    """Two stages of at most three blocks, of 64 and 128 channels."""
    plan = Plan(stem_width=32, stages=(Stage(64, 1, 1), Stage(128, 2, 1)))
    space = registry.register(resnet_space("small_resnet", plan, resolutions=(16, 20, 32), num_classes=4))
    yield space
    del registry._spaces[space.name]


def test_the_space_has_the_published_size() -> None:
    """Parameters: those of the authors' package; MACs of its largest network at 224 pixels, counted on its modules."""
    assert sum(parameter.numel() for parameter in Supernet(SPACE).parameters()) == 48_105_992
    assert macs(SPACE.layers(SPACE.largest())) == 7_491_643_904


def test_configs_list_values_as_the_published_settings_do() -> None:
    largest, smallest = SPACE.largest(), SPACE.smallest()
    assert largest.depths == (2, 2, 2, 2, 2)
    assert smallest.depths == (0, 0, 0, 0, 0)
    assert largest.kernels == ()
    assert largest.expands == (0.35,) * 18
    assert largest.widths == (1.0,) * 6
    assert smallest.widths == (0.65,) * 6


def test_depths_count_the_blocks_beyond_the_least_of_each_stage() -> None:
    """Least numbers 2, 2, 4, 2; the stem's entry is 2 with its residual convolution and 0 without."""
    config = SPACE.config(resolution=160, depths=(0, 1, 0, 2, 0), expands=[0.25] * 18, widths=[0.8] * 6)
    names = [name for name, spec in SPACE.named_layers(config) if spec is not None]
    assert "stem_residual" not in names
    assert [sum(f"stage{s}_" in name for name in names) for s in (1, 2, 3, 4)] == [3, 2, 6, 2]
    assert config.expands == (*(0.25,) * 3, 0, *(0.25,) * 2, 0, 0, *(0.25,) * 6, *(0.25,) * 2, 0, 0)
    assert SPACE.layers(SPACE.largest())[1].shortcut


def test_a_stem_depth_of_1_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"depths\[0\] is 1; allowed: 0, 2"):
        SPACE.config(resolution=160, depths=(1, 1, 0, 2, 0), expands=[0.25] * 18, widths=[0.8] * 6)


def test_channels_follow_the_width_multipliers() -> None:
    """By hand: stem 64, stages 256 to 2048; inside of the stem half, where 40 / 2 and 48 / 2 both become 24."""
    config = SPACE.config(
        resolution=128, depths=(2, 0, 0, 0, 0), expands=[0.2] * 18, widths=[1.0, 0.65, 0.8, 1.0, 0.65, 0.8]
    )
    layers = {name: spec for name, spec in SPACE.named_layers(config) if spec is not None}
    assert [layers[name].out_channels for name in ("stem_first", "stem_residual", "stem_last")] == [32, 32, 40]
    assert [layers[f"stage{s}_block1"].out_channels for s in (1, 2, 3, 4)] == [208, 512, 664, 1640]
    assert [layers[f"stage{s}_block1"].mid_channels for s in (1, 2, 3, 4)] == [40, 104, 136, 328]
    assert [layers[f"stage{s}_block1"].in_channels for s in (1, 2, 3, 4)] == [40, 208, 512, 664]


def test_two_multipliers_that_round_to_the_same_stem_are_one_subnet() -> None:
    narrow, middle = (
        SPACE.config(resolution=128, depths=[0] * 5, expands=[0.2] * 18, widths=[stem, *[0.65] * 5])
        for stem in (0.65, 0.8)
    )
    assert narrow == middle
    assert narrow.digest == middle.digest
    assert middle.widths[0] == 0.65


def test_sampling_within_knows_the_second_name_of_a_multiplier(rng: np.random.Generator) -> None:
    configs = SPACE.decode(SPACE.sample_genotypes(rng, 40, within={"width": (0.8, 1.0)}))
    assert {config.widths[0] for config in configs} == {0.65, 1.0}
    assert {value for config in configs for value in config.widths[1:]} == {0.8, 1.0}


def test_sorting_puts_the_middle_channels_that_matter_first(small: SearchSpace) -> None:
    net = Supernet(small)
    net.sort_channels()
    block = net.layers["stage2_block2"]
    assert isinstance(block, ElasticBottleneck)
    read = block.restore.input_importance()
    assert (read[:-1] >= read[1:]).all()


def test_sorting_keeps_the_channel_sets_of_every_trained_middle_width(small: SearchSpace) -> None:
    """Expand ratio 0.35 of 128, 104 and 80 channels: 48, 40 and 32 (44.8, 36.4 and 28 to multiples of 8)."""
    net = Supernet(small)
    block = net.layers["stage2_block2"]
    assert isinstance(block, ElasticBottleneck)
    before = block.restore.conv.weight.detach().clone()
    net.sort_channels([0.35])
    after = block.restore.conv.weight.detach()
    for start, stop in ((0, 32), (32, 40), (40, 48)):
        found = {tuple(column) for column in after[:, start:stop, 0, 0].T.tolist()}
        assert found == {tuple(column) for column in before[:, start:stop, 0, 0].T.tolist()}
    assert not torch.equal(before, after)


def test_the_shortcut_of_a_strided_block_averages_the_pixels_that_exist(small: SearchSpace) -> None:
    """With all-zero restoration and an identity projection the block is relu(mean over 2x2), also at an odd edge."""
    net = Supernet(small)
    randomise(net, 0)
    block = net.layers["stage2_block1"]
    assert isinstance(block, ElasticBottleneck)
    assert block.downsample is not None
    config = small.largest()
    spec = dict(small.named_layers(config))["stage2_block1"]
    assert spec is not None
    with torch.no_grad():
        for part in (block.restore, block.downsample):
            part.conv.weight.zero_()
            for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                getattr(part.bn, name).fill_(value)
        block.downsample.conv.weight[: spec.in_channels, :, 0, 0] = torch.eye(spec.in_channels)
        x = torch.rand(1, spec.in_channels, 5, 5)
        y = net.eval().layers["stage2_block1"](x, spec)[:, : spec.in_channels]
    assert y.shape[-2:] == (3, 3)
    assert torch.allclose(y[..., 0, 0], x[..., :2, :2].mean((-2, -1)), rtol=1e-4)
    assert torch.allclose(y[..., 2, 0], x[..., 4, :2].mean(-1), rtol=1e-4)
    assert torch.allclose(y[..., 2, 2], x[..., 4, 4], rtol=1e-4)
