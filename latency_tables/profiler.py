"""Measures latency tables on this machine: every layer of a space, as torch runs it eagerly or in ONNX Runtime.

ONNX Runtime is the work of `latency_tables.onnx_profiler`. In torch, a layer is timed inside of whole subnets, between
the layers that come before and after it. Measured on 20 random subnets of mobilenet_v3_tiny (x86 server, one thread,
batch 1), the sum of the rows against the whole subnet's latency: each layer repeated on its own is 11 to 15 % too low
(its code and weights stay in the nearest caches), layers in random order are 11 to 12 % too high (theirs never are),
layers inside of subnets are 3 to 6 % off (medians of four profiles; Spearman .980 to .997). Two more profiles, made
while other work filled both cores, were 9 and 63 % off: profile an idle machine.
"""

from __future__ import annotations

import copy
import datetime
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import torch
from torch import nn

from latency_tables import measure
from latency_tables.arguments import check_arguments
from latency_tables.covering import covering_genotypes, layers_within
from latency_tables.onnx_profiler import profile_onnx
from latency_tables.table import LatencyTable, Provenance, Row
from supernet.arch import LayerSpec
from supernet.errors import ConfigError, one_of
from supernet.layers import build_layer
from supernet.spaces import SearchSpace

MEMORY_FORMAT = "channels_last"
"""Measured on 20 random subnets, median ratio: 12 % faster than contiguous at batch 1, and at batch 8."""

TORCH, ONNX = "torch-eager", measure.RUNTIME
RUNTIMES = (TORCH, ONNX)
"""What can run the layers, as a table's provenance names it."""

PASSES = 3
"""Passes through a subnet at each visit, of which the first only warms the caches and is not timed."""


def profile_space(
    space: SearchSpace,
    *,
    device: str,
    threads: int = 1,
    batch: int = 1,
    repeats: int = 30,
    warmup: int = 3,
    seed: int = 0,
    runtime: str = TORCH,
    resolutions: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> LatencyTable:
    """Measure every layer of the space on this machine, in float32.

    Every round visits, in a new random order, a set of subnets that together have all layers, so that a disturbance of
    the machine hits few timings of many rows and not many of one; rows are medians over all rounds.

    Args:
        space: whose layers are measured, with its number of classes.
        device: what to call this machine in budgets.
        threads: the runtime's threads during the measurement; torch's are restored afterwards.
        batch: images a forward pass.
        repeats: timed rounds; in each, every layer is timed at least twice.
        warmup: rounds before them.
        seed: of the weights, the images and the order.
        runtime: ``torch-eager`` or ``onnxruntime``.
        resolutions: of the input images, pixels, whose layers to measure; none: all of the space.
        progress: called with (rounds done, rounds in all) after every round.
        say: called with a line for people at the start, how much it is, and after the first round, how long it takes.

    Returns:
        A table that covers the whole space, or the chosen resolutions.

    Raises:
        ConfigError: an argument is out of range; all faults in one message.
        MissingPackageError: the runtime is not installed.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(one_of("runtime", runtime, list(RUNTIMES)))
    check_arguments(device=device, threads=threads, batch=batch, repeats=repeats, warmup=warmup)
    if runtime == ONNX:
        return profile_onnx(
            space,
            device=device,
            threads=threads,
            batch=batch,
            repeats=repeats,
            warmup=warmup,
            seed=seed,
            resolutions=resolutions,
            progress=progress,
            say=say,
        )
    rng = np.random.default_rng(seed)
    chains = [space.layers(config) for config in space.decode(covering_genotypes(space, rng, resolutions))]
    modules = _build(layers_within(space, resolutions), seed)
    samples: dict[LayerSpec, list[int]] = {spec: [] for spec in modules}
    images = {
        chain[0]: torch.from_numpy(rng.random(_input_shape(chain[0], batch), dtype=np.float32)).contiguous(
            memory_format=torch.channels_last
        )
        for chain in chains
    }
    if say is not None:
        say(measure.work_words(len(chains), warmup + repeats, PASSES))
    with torch_threads(threads), torch.inference_mode():
        for done in range(1, warmup + repeats + 1):
            began = time.perf_counter()
            for number in rng.permutation(len(chains)):
                chain = chains[number]
                layers = [modules[spec] for spec in chain]
                for turn in range(PASSES):
                    marks = timed_pass(layers, images[chain[0]])
                    if turn and done > warmup:
                        for spec, start, end in zip(chain, marks, marks[1:], strict=False):
                            samples[spec].append(end - start)
            if progress is not None:
                progress(done, warmup + repeats)
            if say is not None and done == 1:  # with what `progress` did: subnets may be timed in turn
                say(measure.duration_words((time.perf_counter() - began) * (warmup + repeats)))
    provenance = Provenance(
        hardware={name: value for name, value in this_machine().items() if name != "torch"},
        runtime=TORCH,
        runtime_versions={"torch": version("torch"), "python": platform.python_version()},
        precision="fp32",
        memory_format=MEMORY_FORMAT,
        threads=threads,
        batch=batch,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        repeats=repeats,
        warmup=warmup,
    )
    rows = {spec.key: _row(times) for spec, times in samples.items()}
    return LatencyTable(device, space.name, space.num_classes, rows, provenance)


def measure_module_ms(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    threads: int = 1,
    repeats: int = 30,
    warmup: int = 3,
    rounds: int = 3,
) -> Row:
    """Measure a whole network (or any module) by itself, in the same state and threads as `profile_space` does layers.

    Not the same statistic: a row of a table is the median over all rounds, this the least median of a few. Other
    programs can only add to the time, often for longer than one round lasts.

    Args:
        module: a network; a copy of it is run, in evaluation mode and channels_last.
        input_shape: (batch, channels, height, width).
        threads: torch's threads during the measurement; restored afterwards.
        repeats: timed forward passes a round.
        warmup: passes before each round.
        rounds: how often to measure.

    Raises:
        ConfigError: an argument is out of range.
    """
    check_arguments(threads=threads, repeats=repeats, warmup=warmup, rounds=rounds)
    runner = copy.deepcopy(module).eval().to(memory_format=torch.channels_last)
    images = torch.rand(tuple(input_shape), generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    rows = []
    with torch_threads(threads), torch.inference_mode():
        for _ in range(rounds):
            times = []
            for turn in range(warmup + repeats):
                start, end = timed_pass([runner], images)
                if turn >= warmup:
                    times.append(end - start)
            rows.append(_row(times))
    return min(rows, key=lambda row: row.median_ms)


def this_machine() -> dict[str, str | int]:
    """What a table says about the machine: CPU model, architecture, usable cores, torch's version."""
    facts = measure.this_device()
    return {name: facts[name] for name in ("cpu", "machine", "cores")} | {"torch": version("torch")}


def timed_pass(layers: Sequence[nn.Module], images: torch.Tensor) -> list[int]:
    """Run the layers in a row; the clock (ns) before the first and after each."""
    clock = time.perf_counter_ns
    x = images
    marks = [clock()]
    for layer in layers:
        x = layer(x)
        marks.append(clock())
    return marks


def _build(layers: Sequence[LayerSpec], seed: int) -> dict[LayerSpec, nn.Module]:
    """The module of every layer, in evaluation mode; torch's global generator is left as it was.

    Layers that differ in the size of their maps only share a module: `resnet50` would need 6.8 GB of weights otherwise.
    """
    modules: dict[LayerSpec, nn.Module] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for shape in dict.fromkeys(map(_without_sizes, layers)):
            module = build_layer(shape).eval()
            for part in module.modules():
                # Keeps the signal's size through deep subnets: torch's own initial weights shrink it layer by layer,
                # toward denormal numbers, with which processors are many times slower.
                if isinstance(part, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(part.weight)
            modules[shape] = module.to(memory_format=torch.channels_last)
    return {spec: modules[_without_sizes(spec)] for spec in layers}


def _without_sizes(spec: LayerSpec) -> LayerSpec:
    return replace(spec, in_size=0, out_size=0)


def _input_shape(spec: LayerSpec, batch: int) -> tuple[int, int, int, int]:
    return batch, spec.in_channels, spec.in_size, spec.in_size


def _row(times_ns: Sequence[int]) -> Row:
    low, middle, high = np.quantile(np.array(times_ns, dtype=np.float64) / 1e6, (0.25, 0.5, 0.75))
    return Row(round(float(middle), 6), round(float(high - low) / 2, 6), len(times_ns))


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Torch's threads inside of the block; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
