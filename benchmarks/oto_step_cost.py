"""What does a step of DHSPG and HESSO cost, against the optimiser that they wrap: before, during and after pruning?

Command: OMP_NUM_THREADS=1 python -m benchmarks.oto_step_cost
Result:  benchmarks/results/oto_step_cost.json

VGG16-BN at quarter width (0.92 million parameters), target half of the MACs, gradients of one batch, one thread. Rounds
are interleaved: one step of the plain optimiser on its own copy of the network, then one of every method and phase on
theirs, so that all see the same machine; medians and quartiles over the rounds, ratios are of medians. Between any two
steps a block of memory is read that is larger than the caches near the core, as a real forward and backward pass would
push the weights out of them; without it ("warm") the plain step is quicker and ratios are larger. The step that chooses
units is reported apart. Times are the thread's own processor time, since other programs share the machine. The authors'
package (only-train-once 2.0.16) takes 2.8-3.3 / 5.6-7.2 / 3.1-3.6 times plain SGD's step (measured before, on the same
network).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from benchmarks.pruning_networks import vgg16_bn
from benchmarks.reference_speed import processor
from pruning import DHSPG, HESSO, ZeroInvariantGroups
from pruning.placement import device_of
from supernet.files import write_json

RESULT = Path(__file__).parent / "results" / "oto_step_cost.json"
TARGET = "macs=0.5"
BASES: dict[str, Callable[..., Optimizer]] = {
    "SGD, momentum 0.9, weight decay 5e-4": lambda parameters: SGD(parameters, 0.01, momentum=0.9, weight_decay=5e-4),
    "SGD": lambda parameters: SGD(parameters, 0.01),
    "Adam": lambda parameters: Adam(parameters, 1e-3),
    "AdamW": lambda parameters: AdamW(parameters, 1e-3),
}
METHODS = {"DHSPG": DHSPG, "HESSO": HESSO}
FOREVER = 10**9
PHASES: dict[str, dict[str, int]] = {
    "before": {"start_pruning_step": FOREVER, "pruning_steps": FOREVER},
    "during": {"start_pruning_step": 0, "pruning_steps": FOREVER},
    "after": {"start_pruning_step": 0, "pruning_steps": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        f"{name}, {caches}": measure(base, arguments.rounds, evicted=caches == "cold")
        for name, base in BASES.items()
        for caches in ("cold", "warm")
    }
    for name, row in found.items():
        print(f"{name}: plain {row['plain']['median_ms']:.3f} ms")
        for method in METHODS:
            print(f"  {method}: " + ", ".join(f"{phase} {row[f'{method} {phase}']['ratio']:.2f}x" for phase in PHASES))
    machine = {"processor": processor(), "torch": torch.__version__, "threads": 1, "rounds": arguments.rounds}
    write_json(RESULT, {"machine": machine, "target": TARGET, "steps": found})


def measure(base: Callable[..., Optimizer], rounds: int, *, evicted: bool) -> dict[str, Any]:
    """Interleaved steps of the plain optimiser and of all methods in all phases."""
    example = torch.zeros(1, 3, 32, 32)
    plain = vgg16_bn()
    steppers: dict[str, Callable[[], Any]] = {"plain": base(with_gradients(plain).parameters()).step}
    choosing: dict[str, float] = {}
    for method, of in METHODS.items():
        for phase, steps in PHASES.items():
            net = vgg16_bn()
            optimizer = of(base(net.parameters()), ZeroInvariantGroups(net, example), target=TARGET, **steps)
            with_gradients(net)
            start = time.thread_time()
            optimizer.step()  # chooses the units, and for "after" makes them zero
            choosing[f"{method} {phase}"] = 1000 * (time.thread_time() - start)
            with_gradients(net)  # of the network as it is now: zero units get none
            assert optimizer.phase == phase
            steppers[f"{method} {phase}"] = optimizer.step
    other = torch.zeros(4 * 2**20)  # 16 MiB
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for number in range(rounds + 20):
        for name, step in steppers.items():
            if evicted:
                other.add_(1)
            start = time.thread_time()
            step()
            if number >= 20:
                times[name].append(1000 * (time.thread_time() - start))
    median = float(np.median(times["plain"]))
    return {
        name: {
            "median_ms": float(np.median(values)),
            "quartiles_ms": np.quantile(values, (0.25, 0.75)).tolist(),
            "ratio": float(np.median(values)) / median,
            **({"choosing_ms": choosing[name]} if name.endswith("during") else {}),
        }
        for name, values in times.items()
    }


def with_gradients(net: nn.Module) -> nn.Module:
    """The network with the gradients of one batch, made small, so that its weights stay put for many steps.

    On the network's device.
    """
    device = device_of(net)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(64, 3, 32, 32, generator=generator), torch.randint(10, (64,), generator=generator)
    net.zero_grad()
    nn.functional.cross_entropy(net(images.to(device)), labels.to(device)).backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(1e-4)
    return net


if __name__ == "__main__":
    main()
