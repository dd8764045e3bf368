"""Measures whole subnets on this machine: what a table should predict, and what it can be corrected with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from latency_tables import measure
from latency_tables.arguments import check_arguments
from latency_tables.covering import resolutions_of
from latency_tables.measured import MeasuredSubnet
from latency_tables.onnx_profiler import open_network
from latency_tables.profiler import ONNX, RUNTIMES, TORCH, timed_pass, torch_threads
from supernet.arch import SubnetConfig
from supernet.errors import ConfigError, one_of
from supernet.network import Subnet
from supernet.spaces import SearchSpace

Floats = npt.NDArray[np.float64]

_DRAWS = 20

_WARM, _TIMED = 3, 4
"""Passes of torch through a whole subnet at each visit. A device runs one network again and again; a subnet that takes
turns with others needs three passes until it is as quick as that. Median over 30 subnets of mobilenet_v3_tiny, table's
estimate over measured: 0.92 for the second pass, 0.98 for the third, 1.00 to 1.01 for the fourth to the twelfth."""


def random_subnets(
    space: SearchSpace, count: int, rng: np.random.Generator, resolutions: Sequence[int] = ()
) -> list[SubnetConfig]:
    """Different subnets, drawn uniformly gene by gene.

    Args:
        space: the search space.
        count: how many.
        rng: source of randomness.
        resolutions: of the subnets, pixels; none: all of the space.

    Raises:
        ConfigError: the space lacks a resolution, or has hardly so many subnets.
    """
    within = resolutions_of(space, resolutions)
    drawn = space.decode(space.sample_genotypes(rng, _DRAWS * count, within={"resolution": within}))
    found = list(dict.fromkeys(drawn))[:count]
    if len(found) < count:
        raise ConfigError(f"{count} different subnets of {space.name}; it has few more than {len(found)}; ask for less")
    return found


class SubnetTimer:
    """Times whole subnets in rounds, each of which visits all in a new random order.

    A visit gives the latency of a network that runs again and again: in torch, that of passes after some that warm the
    caches; in ONNX Runtime, as in the rows of its tables, the quickest of a few. All networks are in memory together.
    Rounds in turn with those of `profile_space` (its `progress` is called between them) measure both on the same
    machine, whatever its speed does.

    Args:
        space: the subnets' space, with its number of classes.
        configs: the subnets.
        runtime: ``torch-eager`` or ``onnxruntime``.
        threads: the runtime's threads; torch's are restored after every round.
        batch: images a forward pass.
        seed: of the weights, the images and the order.

    Raises:
        ConfigError: an argument is out of range; all faults in one message.
        MissingPackageError: the runtime is not installed.
    """

    def __init__(
        self,
        space: SearchSpace,
        configs: Sequence[SubnetConfig],
        *,
        runtime: str = TORCH,
        threads: int = 1,
        batch: int = 1,
        seed: int = 0,
    ) -> None:
        if runtime not in RUNTIMES:
            raise ConfigError(one_of("runtime", runtime, list(RUNTIMES)))
        check_arguments(threads=threads, batch=batch)
        self._configs = list(configs)
        self._threads = threads
        self._rng = np.random.default_rng(seed)
        self._rounds: list[list[list[float]]] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._visits = [
                _visit(Subnet(space, config).eval(), runtime, threads, batch, self._rng) for config in configs
            ]

    def round(self, *, counts: bool = True) -> None:
        """Visit every subnet; `counts` is false in a round that only warms up."""
        times: list[list[float]] = [[] for _ in self._visits]
        with torch_threads(self._threads), torch.inference_mode():
            for number in self._rng.permutation(len(self._visits)):
                times[number] = self._visits[number]()
        if counts:
            self._rounds.append(times)

    @property
    def rounds_ms(self) -> Floats:
        """Latencies in ms, (rounds that count, subnets, passes)."""
        return np.array(self._rounds)

    def measured(self) -> list[MeasuredSubnet]:
        """The subnets with the median and spread over all rounds that count."""
        low, middle, high = np.quantile(self.rounds_ms, (0.25, 0.5, 0.75), axis=(0, 2))
        return [
            MeasuredSubnet(config, round(float(ms), 6), round(float(spread), 6))
            for config, ms, spread in zip(self._configs, middle, (high - low) / 2, strict=True)
        ]


def _visit(
    network: Subnet, runtime: str, threads: int, batch: int, rng: np.random.Generator
) -> Callable[[], list[float]]:
    shape = (batch, 3, network.resolution, network.resolution)
    images = rng.random(shape, dtype=np.float32)
    if runtime == ONNX:
        session = open_network(network, shape, threads)
        return lambda: [min(measure.visit_ms(session, images))]
    for module in network.modules():  # torch's own initial weights lead to denormal numbers
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    runner = network.to(memory_format=torch.channels_last)
    tensor = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)

    def visit() -> list[float]:
        marks = [timed_pass([runner], tensor) for _ in range(_WARM + _TIMED)]
        return [(end - start) / 1e6 for start, end in marks[_WARM:]]

    return visit
