from __future__ import annotations

import pytest
import torch
from reference import MISSING, reference
from torch import nn

from supernet import kernels
from supernet.calibration import calibrate
from supernet.errors import ConfigError
from supernet.network import Supernet
from supernet.spaces import SearchSpace


def test_pooled_statistics_are_those_of_all_images_together() -> None:
    norm = nn.BatchNorm2d(3).eval()
    images = torch.randn(10, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 + 1
    images[6:] += 3  # batches that differ, so that the spread between them matters
    calibrate(norm, [images[:6], images[6:]])
    pixels = images.transpose(0, 1).flatten(1)
    assert torch.allclose(norm.running_mean, pixels.mean(1), atol=1e-6)
    assert torch.allclose(norm.running_var, pixels.var(1), rtol=1e-6)


def test_unpooled_statistics_are_those_of_the_reference(net: Supernet, tiny: SearchSpace) -> None:
    pytest.importorskip("ofa", reason=MISSING)
    set_running_statistics = reference("imagenet_classification.elastic_nn.utils").set_running_statistics
    images = torch.randn(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[6:] += 3  # batches that differ
    batches = [images[:6], images[6:8], images[8:]]
    found, expected = net.extract(tiny.smallest()).double(), net.extract(tiny.smallest()).double()
    calibrate(found, [batch.double() for batch in batches], pooled=False)
    set_running_statistics(expected, [(batch.double(), None) for batch in batches])
    for (name, one), other in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12), name


def test_a_second_calibration_changes_nothing(net: Supernet, tiny: SearchSpace) -> None:
    subnet = net.extract(tiny.smallest())
    images = torch.randn(8, 3, 16, 16)
    calibrate(subnet, [images])
    first = {name: value.clone() for name, value in subnet.state_dict().items()}
    calibrate(subnet, [images])
    assert all(torch.equal(first[name], value) for name, value in subnet.state_dict().items())


def test_calibration_leaves_the_supernet_and_the_weights_alone(net: Supernet, tiny: SearchSpace) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    subnet = net.extract(tiny.smallest())
    weights = {name: value.clone() for name, value in subnet.named_parameters()}
    calibrate(subnet, [torch.randn(8, 3, 16, 16)])
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(torch.equal(weights[name], value) for name, value in subnet.named_parameters())


def test_a_norm_of_one_channel_is_calibrated() -> None:
    norm = nn.BatchNorm2d(1)
    calibrate(norm, [torch.full((2, 1, 1, 1), 3.0) + torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)])
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [3.0]
    assert norm.training


def test_no_images_and_single_values_are_refused() -> None:
    norm = nn.BatchNorm2d(2).eval()
    with pytest.raises(ConfigError, match="calibration got no images"):
        calibrate(norm, [])
    with pytest.raises(ConfigError, match="use batches of at least 2 images"):
        calibrate(norm, [torch.zeros(1, 2, 1, 1)])
    assert norm.momentum == 0.1
    assert torch.equal(norm.running_mean, torch.zeros(2))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_refused_and_leave_the_statistics(
    net: Supernet, tiny: SearchSpace, wrong: float
) -> None:
    subnet = net.extract(tiny.smallest())
    before = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    images = torch.randn(4, 3, 16, 16)
    images[2, 1, 5, 5] = wrong
    with pytest.raises(
        ConfigError, match=r"batch norm 0 of \d+ got values that are not finite; the images or the weights"
    ):
        calibrate(subnet, [images])
    for name, tensor in subnet.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("pooled", [True, False])
def test_statistics_are_the_same_to_rounding_with_and_without_kernels(
    pooled: bool, net: Supernet, tiny: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(n, 3, 16, 16, generator=generator) for n in (8, 5)]
    found = net.extract(tiny.largest())
    calibrate(found, images, pooled=pooled)
    monkeypatch.setattr(kernels, "installed", lambda: False)
    expected = net.extract(tiny.largest())
    calibrate(expected, images, pooled=pooled)
    for (name, one), other in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5), name


def test_calibration_equals_that_of_a_plain_training_pass_in_double_precision(net: Supernet, tiny: SearchSpace) -> None:
    images = torch.randn(12, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    subnet = net.extract(tiny.largest())
    plain = net.extract(tiny.largest()).double().train()
    norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    plain(images.double())
    calibrate(subnet, [images])
    assert not subnet.training
    found = [module for module in subnet.modules() if isinstance(module, nn.BatchNorm2d)]
    for one, other in zip(found, norms, strict=True):
        assert one.running_mean is not None
        assert one.running_var is not None
        assert torch.allclose(one.running_mean.double(), other.running_mean, rtol=1e-4, atol=1e-5)
        assert torch.allclose(one.running_var.double(), other.running_var, rtol=1e-4)


def test_a_calibrated_network_computes_with_its_own_layers_again(net: Supernet, tiny: SearchSpace) -> None:
    subnet = net.extract(tiny.smallest())
    images = torch.randn(8, 3, 16, 16)
    before = [sorted(vars(module)) for module in subnet.modules()]
    calibrate(subnet, [images])
    assert [sorted(vars(module)) for module in subnet.modules()] == before
    with pytest.raises(RuntimeError):
        calibrate(subnet, [images[:, :2]])
    assert [sorted(vars(module)) for module in subnet.modules()] == before
    fresh = net.extract(tiny.smallest())
    fresh.load_state_dict(subnet.state_dict())
    assert torch.equal(subnet(images), fresh(images))


def test_activations_outside_of_our_layers_stay_where_they_are() -> None:
    shared = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 16, 3), shared, nn.BatchNorm2d(16), shared, nn.Conv2d(16, 16, 1), shared)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    calibrate(network.eval(), [images])
    norm = network[2]
    assert isinstance(norm, nn.BatchNorm2d)
    values = network[1](network[0](images)).transpose(0, 1).flatten(1)
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, values.mean(1), atol=1e-5)
