from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from supernet.errors import ConfigError
from supernet.layers.elastic import ElasticDepthwise, ElasticMBConv
from supernet.network import Supernet
from supernet.spaces import SearchSpace


def _scale_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def test_the_extracted_subnet_computes_what_the_active_supernet_does(
    net: Supernet, tiny: SearchSpace, rng: np.random.Generator
) -> None:
    for config in (tiny.largest(), tiny.smallest(), *(tiny.sample(rng) for _ in range(20))):
        images = torch.randn(2, 3, config.resolution, config.resolution)
        net.activate(config)
        subnet = net.extract(config)
        with torch.no_grad():
            assert torch.equal(subnet(images), net(images))


def test_the_law_holds_in_training_mode_too(net: Supernet, tiny: SearchSpace, rng: np.random.Generator) -> None:
    config = tiny.sample(rng)
    images = torch.randn(4, 3, config.resolution, config.resolution)
    net.activate(config)
    subnet = net.extract(config).train()
    net.train()
    assert torch.equal(subnet(images), net(images))


def test_subnets_differ_so_that_the_law_means_something(
    net: Supernet, tiny: SearchSpace, images: torch.Tensor, rng: np.random.Generator
) -> None:
    outputs = []
    for config in (tiny.largest(), tiny.smallest(), tiny.sample(rng)):
        net.activate(config)
        with torch.no_grad():
            outputs.append(net(images))
    assert _scale_error(outputs[0], outputs[1]) > 0.05
    assert _scale_error(outputs[0], outputs[2]) > 0.05


def test_an_extracted_subnet_is_an_ordinary_module_that_shares_nothing(net: Supernet, tiny: SearchSpace) -> None:
    subnet = net.extract(tiny.smallest())
    assert not any(type(module).__module__.startswith("supernet.layers.elastic") for module in subnet.modules())
    assert all(parameter.requires_grad for parameter in subnet.parameters())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        for tensor in subnet.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_sorting_channels_does_not_change_the_largest_network(
    net: Supernet, tiny: SearchSpace, images: torch.Tensor
) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        expected = net(images)
        net.sort_channels()
        found = net(images)
    assert _scale_error(found, expected) < 1e-5
    assert any(not torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_sorting_puts_the_channels_that_matter_first(net: Supernet) -> None:
    net.sort_channels()
    block = net.layers["stage2_block2"]
    assert isinstance(block, ElasticMBConv)
    importance = block.project.conv.weight.abs().sum((0, 2, 3))
    assert (importance[:-1] >= importance[1:]).all()
    assert block.squeeze_excite is not None
    gate = block.squeeze_excite.expand.weight.abs().sum((0, 2, 3))
    assert (gate[:-1] >= gate[1:]).all()


def test_a_second_sorting_keeps_what_every_trained_width_computes(
    net: Supernet, tiny: SearchSpace, images: torch.Tensor
) -> None:
    narrow = tiny.config(resolution=24, depths=(4, 3, 2), kernels=[5] * 12, expands=[4] * 12)
    wide = tiny.config(resolution=24, depths=(4, 3, 2), kernels=[7] * 12, expands=[6] * 12)
    expected = {}
    with torch.no_grad():
        for config in (narrow, wide):
            net.activate(config)
            expected[config] = net(images)
        net.sort_channels([6, 4])
        for config in (narrow, wide):
            net.activate(config)
            assert _scale_error(net(images), expected[config]) < 1e-5
        net.sort_channels([6])
        net.activate(narrow)
        assert _scale_error(net(images), expected[narrow]) > 1e-3


def test_sorting_by_an_unknown_expand_ratio_is_refused(net: Supernet) -> None:
    with pytest.raises(ConfigError, match=r"trained_expands holds \[5\]; allowed: \[3, 4, 6\]"):
        net.sort_channels([5])


def test_a_smaller_kernel_is_the_centre_crop_while_transforms_are_the_identity() -> None:
    layer = ElasticDepthwise(4, (3, 5, 7), bn_eps=1e-5)
    nn.init.normal_(layer.conv.weight)
    with torch.no_grad():
        assert torch.equal(layer.kernel_weight(7, 4), layer.conv.weight)
        assert torch.equal(layer.kernel_weight(5, 4), layer.conv.weight[:, :, 1:6, 1:6])
        assert torch.equal(layer.kernel_weight(3, 3), layer.conv.weight[:3, :, 2:5, 2:5])


def test_kernel_transforms_are_chained_matrices_shared_by_all_channels() -> None:
    """Expected values by definition: w5 = M75 @ crop(w7), w3 = M53 @ crop(w5), pixels in row-major order."""
    layer = ElasticDepthwise(2, (3, 5, 7), bn_eps=1e-5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
        first, second = layer.transforms["7to5"], layer.transforms["5to3"]
        assert first.shape == (25, 25)
        assert second.shape == (9, 9)
        for channel in range(2):
            w5 = (first @ layer.conv.weight[channel, 0, 1:6, 1:6].reshape(25)).reshape(5, 5)
            w3 = (second @ w5[1:4, 1:4].reshape(9)).reshape(3, 3)
            assert torch.allclose(layer.kernel_weight(5, 2)[channel, 0], w5, atol=1e-5)
            assert torch.allclose(layer.kernel_weight(3, 2)[channel, 0], w3, atol=1e-4)


def test_a_step_on_a_small_subnet_leaves_the_other_channels_alone(net: Supernet, tiny: SearchSpace) -> None:
    net.train()
    net.activate(tiny.smallest())
    net(torch.randn(2, 3, 16, 16)).sum().backward()
    block = net.layers["stage3_block2"]
    assert isinstance(block, ElasticMBConv)
    gradient = block.project.conv.weight.grad
    assert gradient is not None
    assert gradient[:, :192].abs().sum() > 0  # 64 channels x 3
    assert gradient[:, 192:].abs().sum() == 0
    left_out = net.layers["stage3_block3"]
    assert all(parameter.grad is None for parameter in left_out.parameters())


def test_decay_spares_norms_biases_and_kernel_transforms(net: Supernet) -> None:
    decayed, spared = net.parameter_groups(3e-5)
    names = {parameter: name for name, parameter in net.named_parameters()}
    assert decayed["weight_decay"] == 3e-5
    assert spared["weight_decay"] == 0
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    assert all(names[p].endswith("weight") and ".bn." not in names[p] for p in decayed["params"])
    assert all(".bn." in names[p] or ".transforms." in names[p] or names[p].endswith("bias") for p in spared["params"])


def test_the_same_generator_gives_the_same_weights(tiny: SearchSpace) -> None:
    one, other, third = (Supernet(tiny, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), third.parameters(), strict=True))


def test_building_a_supernet_leaves_the_global_generator_alone(tiny: SearchSpace) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    net = Supernet(tiny, generator=torch.Generator().manual_seed(5))
    net.extract(tiny.smallest())
    assert torch.equal(torch.rand(1), expected)
