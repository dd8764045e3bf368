from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from latency_tables import MACS, PARAMS, SIZE_BYTES, macs, params, peak_memory_bytes, size_bytes
from latency_tables.counter import counted_peak_memory_bytes
from supernet import LayerSpec, Subnet, get_space
from supernet.layers import build_layer

SPECS = [
    LayerSpec("conv", 9, 5, 3, 16, kernel=3, stride=2, activation="relu"),
    LayerSpec("conv", 6, 6, 8, 12, kernel=5, groups=4, activation="h_swish"),
    LayerSpec("conv", 1, 1, 24, 40, batch_norm=False),
    LayerSpec("mbconv", 7, 4, 8, 12, mid_channels=24, kernel=5, stride=2, se_channels=8, activation="h_swish"),
    LayerSpec("mbconv", 6, 6, 8, 8, mid_channels=8, kernel=3, activation="relu", shortcut=True),
    LayerSpec("mbconv", 1, 1, 8, 8, mid_channels=24, kernel=3, se_channels=8, activation="relu6", shortcut=True),
    LayerSpec("conv", 6, 6, 12, 12, kernel=3, activation="relu", shortcut=True),
    LayerSpec("bottleneck", 7, 4, 16, 24, mid_channels=8, kernel=3, stride=2, activation="relu"),
    LayerSpec("bottleneck", 5, 5, 8, 40, mid_channels=8, kernel=3, activation="relu"),
    LayerSpec("bottleneck", 5, 5, 40, 40, mid_channels=16, kernel=3, activation="relu", shortcut=True),
    LayerSpec("max_pool", 9, 5, 16, 16, kernel=3, stride=2),
    LayerSpec("pool", 4, 1, 32, 32),
    LayerSpec("linear", 1, 1, 32, 10),
]


def count_macs_by_hooks(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of real modules, from the shapes that really pass through them."""
    total = 0

    def count(part: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(part, nn.Conv2d):
            total += output.numel() * part.weight[0].numel()
        elif isinstance(part, nn.Linear):
            total += output.numel() * part.in_features

    handles = [part.register_forward_hook(count) for part in module.modules()]
    with torch.no_grad():
        module.eval()(torch.zeros(shape))
    for handle in handles:
        handle.remove()
    return total


def assert_costs_are_those_of(module: nn.Module, layers: list[LayerSpec]) -> None:
    first = layers[0]
    assert macs(layers) == count_macs_by_hooks(module, (1, first.in_channels, first.in_size, first.in_size))
    assert params(layers) == sum(p.numel() for p in module.parameters())
    assert size_bytes(layers) == sum(t.numel() * t.element_size() for t in module.state_dict().values())
    assert peak_memory_bytes(layers) == counted_peak_memory_bytes(module, first.in_size, channels=first.in_channels)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key)
def test_costs_of_a_layer_are_those_of_its_module(spec: LayerSpec) -> None:
    assert_costs_are_those_of(build_layer(spec), [spec])


def test_costs_of_a_block_equal_the_sum_done_by_hand() -> None:
    spec = SPECS[3]  # 7x7x8 -> 4x4x12, mid 24, kernel 5, squeeze-excite 8
    expand, depthwise, squeeze, project = 49 * 8 * 24, 16 * 24 * 25, 24 * 8 + 8 * 24, 16 * 24 * 12
    assert macs([spec]) == expand + depthwise + squeeze + project
    weights = 8 * 24 + 24 * 25 + (24 * 8 + 8) + (8 * 24 + 24) + 24 * 12
    batch_norms = 2 * (24 + 24 + 12)
    assert params([spec]) == weights + batch_norms
    assert size_bytes([spec]) == 4 * (weights + batch_norms + batch_norms) + 3 * 8


def test_costs_of_a_bottleneck_equal_the_sum_done_by_hand() -> None:
    spec = LayerSpec("bottleneck", 7, 4, 16, 24, mid_channels=8, kernel=3, stride=2, activation="relu")
    reduction, spatial, restoration, projection = 49 * 16 * 8, 16 * 8 * 8 * 9, 16 * 8 * 24, 16 * 16 * 24
    assert macs([spec]) == reduction + spatial + restoration + projection
    weights = 16 * 8 + 8 * 8 * 9 + 8 * 24 + 16 * 24
    assert params([spec]) == weights + 2 * (8 + 8 + 24 + 24)
    # the worst moment: the restored map waits, the input is read, and its averages are written
    assert peak_memory_bytes([spec]) == 4 * (16 * 24 + 49 * 16 + 16 * 16)


def test_peak_memory_is_that_of_the_worst_moment() -> None:
    """By hand: 6x6x8 expanded to 24 channels while the input waits for the shortcut, then 24 channels twice."""
    block = LayerSpec("mbconv", 6, 6, 8, 8, mid_channels=24, kernel=3, activation="relu", shortcut=True)
    assert peak_memory_bytes([block]) == 4 * 36 * (8 + 24 + 24)
    assert peak_memory_bytes([block, LayerSpec("pool", 6, 1, 8, 8)]) == peak_memory_bytes([block])
    assert peak_memory_bytes([]) == 0


def test_pool_costs_nothing_that_is_counted() -> None:
    pool = [LayerSpec("pool", 4, 1, 32, 32)]
    assert (macs(pool), params(pool), size_bytes(pool)) == (0, 0, 0)


@pytest.mark.parametrize("classes", [10, 37])
def test_costs_of_random_subnets_are_those_of_the_extracted_networks(classes: int) -> None:
    space = get_space("mobilenet_v3_tiny").with_num_classes(classes)
    rng = np.random.default_rng(0)
    for config in [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(4))]:
        assert_costs_are_those_of(Subnet(space, config), space.layers(config))


def test_cost_models_agree_with_the_functions_and_stay_integers() -> None:
    for model, function in ((MACS, macs), (PARAMS, params), (SIZE_BYTES, size_bytes)):
        assert model.name == function.__name__
        assert model.space is None
        assert model.of_layers(SPECS) == function(SPECS)
        assert isinstance(model.of_layers(SPECS), int)
        assert [model.of_layer(spec) for spec in SPECS] == model.of_each(SPECS)


def test_costs_add_up_over_layers() -> None:
    for function in (macs, params, size_bytes):
        assert function(SPECS) == function(SPECS[:3]) + function(SPECS[3:])
        assert function([]) == 0


def test_costs_need_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, latency_tables; latency_tables.Budget.parse('macs<=1M'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
