from __future__ import annotations

import pytest
import torch
from torch import nn

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


def test_unpooled_variance_is_the_mean_over_batches_as_in_the_reference() -> None:
    norm = nn.BatchNorm2d(3).eval()
    images = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images[4:] += 3
    calibrate(norm, [images[:4], images[4:]], pooled=False)
    expected = torch.stack([half.transpose(0, 1).flatten(1).var(1) for half in images.split(4)]).mean(0)
    assert torch.allclose(norm.running_var, expected, rtol=1e-5)


def test_calibration_of_a_network_equals_one_training_pass_over_one_batch(net: Supernet, tiny: SearchSpace) -> None:
    subnet = net.extract(tiny.smallest())
    images = torch.randn(8, 3, 16, 16)
    calibrate(subnet, [images])
    assert not subnet.training
    with torch.no_grad():
        calibrated = subnet(images)
        trained = subnet.train()(images)
    # a training pass divides by the biased variance, the running one is unbiased: n / (n - 1) at n = 8 pixels
    assert float((calibrated - trained).abs().max() / trained.abs().max()) < 0.2


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
