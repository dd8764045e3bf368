from __future__ import annotations

import numpy as np
import pytest
import torch

from latency_tables import SubnetTimer, random_subnets
from latency_tables.profiler import ONNX, RUNTIMES, TORCH
from supernet.errors import ConfigError
from supernet.spaces import SearchSpace


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_round_that_counts_times_every_subnet(tiny: SearchSpace, runtime: str) -> None:
    configs = random_subnets(tiny, 3, np.random.default_rng(0), (16,))
    timer = SubnetTimer(tiny, configs, runtime=runtime)
    timer.round(counts=False)
    for _ in range(4):
        timer.round()
    rounds = timer.rounds_ms
    assert rounds.shape == (4, 3, {TORCH: 4, ONNX: 1}[runtime])
    assert (rounds > 0).all()
    measured = timer.measured()
    assert [one.config for one in measured] == configs
    np.testing.assert_allclose([one.latency_ms for one in measured], np.median(rounds, axis=(0, 2)), atol=1e-6)
    assert all(one.spread_ms is not None and one.spread_ms >= 0 for one in measured)


def test_the_largest_subnet_takes_longer_than_the_smallest(tiny: SearchSpace) -> None:
    timer = SubnetTimer(tiny, [tiny.smallest(), tiny.largest()])
    for _ in range(5):
        timer.round()
    smallest, largest = timer.measured()
    assert largest.latency_ms > smallest.latency_ms


def test_a_timer_leaves_torch_as_it_was(tiny: SearchSpace) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    timer = SubnetTimer(tiny, [tiny.smallest()], threads=threads + 1)
    timer.round()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.is_inference_mode_enabled()


def test_random_subnets_differ_and_keep_to_the_resolutions(tiny: SearchSpace) -> None:
    found = random_subnets(tiny, 40, np.random.default_rng(0), (16, 20))
    assert len(set(found)) == 40
    assert {config.resolution for config in found} == {16, 20}
    with pytest.raises(ConfigError, match="no resolution 17"):
        random_subnets(tiny, 1, np.random.default_rng(0), (17,))


def test_a_timer_refuses_what_it_cannot_run(tiny: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="unknown runtime 'tflite'; allowed: torch-eager, onnxruntime"):
        SubnetTimer(tiny, [tiny.smallest()], runtime="tflite")
    with pytest.raises(ConfigError, match=r"threads.*batch"):
        SubnetTimer(tiny, [tiny.smallest()], threads=0, batch=0)
