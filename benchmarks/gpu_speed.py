"""How fast are training steps of the supernet, and steps of the pruning optimisers, on a GPU?

Command: python -m benchmarks.gpu_speed   (a minute or two; needs CUDA, and the development extra for the reference)
Result:  benchmarks/results/gpu_speed.json

- training: one step (forward, loss, backward, SGD with momentum) of mobilenet_v3_w1.0 on 128 images of 224x224 for the
  largest subnet, random ones (another at every turn) and the smallest, ours and the authors' package in turns in one
  process, both in channels last, each after an untimed step of the same subnet (shapes that cuDNN meets for the first
  time cost over a second, whoever asks); in float32 as torch sets it (convolutions in TF32) and under autocast to
  bfloat16.
- smaller: the same for mobilenet_v3_tiny on 64 images of 28x28, ours alone: what is lost to launches.
- optimisers: a step of DHSPG and HESSO before, during and after pruning against the optimiser that they wrap, for
  VGG16-BN of full width, target half of the MACs; gradients of one batch, made small.

Milliseconds until the GPU is done, medians and quartiles over the turns, after five turns to warm up. A row is written
as soon as it is measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from benchmarks.oto_step_cost import METHODS, PHASES, with_gradients
from benchmarks.pruning_networks import vgg16_bn
from pruning import ZeroInvariantGroups
from supernet import Supernet, get_space
from supernet.arch import SubnetConfig
from supernet.files import write_json

RESULT = Path(__file__).parent / "results" / "gpu_speed.json"
SPACE, TINY = "mobilenet_v3_w1.0", "mobilenet_v3_tiny"
WARM_UP = 5
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--no-reference", action="store_true", help="ours alone, where the package is not installed")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "turns": arguments.turns,
    }
    for name, rows in (
        ("training", training(SPACE, 128, 224, arguments.turns, reference=not arguments.no_reference)),
        ("smaller", training(TINY, 64, 28, arguments.turns, reference=False)),
        ("optimisers", optimisers(arguments.turns)),
    ):
        for row in rows:
            found.setdefault(name, []).append(row)
            write_json(RESULT, found)
            print(name, row, flush=True)


def training(name: str, batch: int, resolution: int, turns: int, *, reference: bool) -> Iterator[dict[str, Any]]:
    """One row a precision and kind of subnet."""
    space = get_space(name)
    nets: dict[str, Any] = {"ours": Supernet(space)}
    if reference:
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        from reference import reference_supernet

        nets["reference"] = reference_supernet(name)
    for net in nets.values():
        net.to("cuda", memory_format=torch.channels_last).train()
    optimizers = {side: SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True) for side, net in nets.items()}
    images = torch.randn(batch, 3, resolution, resolution, device="cuda").contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device="cuda") % 10
    for precision, dtype in PRECISIONS.items():
        for kind in ("largest", "random", "smallest"):
            configs = [config_of(space, kind, turn) for turn in range(turns + WARM_UP)]
            times: dict[str, list[float]] = {side: [] for side in nets}
            memory = dict.fromkeys(nets, 0.0)
            for config in configs:
                for side, net in nets.items():
                    activate(side, net, config)
                    step = partial(train_step, net, optimizers[side], images, labels, dtype)
                    step()
                    torch.cuda.reset_peak_memory_stats()
                    times[side].append(milliseconds(step))
                    memory[side] = max(memory[side], torch.cuda.max_memory_allocated() / 2**20)
            row: dict[str, Any] = {"space": name, "batch": batch, "precision": precision, "subnet": kind}
            for side, values in times.items():
                row[side] = spread(values) | {"peak_memory_mb": round(memory[side])}
                row[side]["images_per_second"] = round(1000 * batch / row[side]["median_ms"])
            if reference:
                ratios = np.array(times["reference"][WARM_UP:]) / np.array(times["ours"][WARM_UP:])
                row["times_as_fast_as_the_reference"] = round(float(np.median(ratios)), 3)
            yield row


def train_step(net: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor, dtype: torch.dtype | None) -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cuda", dtype) if dtype else nullcontext():
        loss = F.cross_entropy(net(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def config_of(space: Any, kind: str, turn: int) -> SubnetConfig:
    found = space.sample(np.random.default_rng([0, turn])) if kind == "random" else getattr(space, kind)()
    assert isinstance(found, SubnetConfig)
    return found


def activate(side: str, net: Any, config: SubnetConfig) -> None:
    if side == "ours":
        net.activate(config)
    else:
        kernels, expands = [kernel or 3 for kernel in config.kernels], [e or 3 for e in config.expands]
        net.set_active_subnet(ks=kernels, e=expands, d=list(config.depths))


def optimisers(turns: int) -> Iterator[dict[str, Any]]:
    """One row a wrapped optimiser."""
    example = torch.zeros(2, 3, 32, 32)
    for name, base in (
        ("SGD, momentum 0.9", lambda p: SGD(p, 0.01, momentum=0.9, weight_decay=5e-4)),
        ("AdamW", lambda p: AdamW(p, 1e-3)),
    ):
        plain = vgg16_bn(1.0).cuda()
        with_gradients(plain)
        steppers: dict[str, Callable[[], Any]] = {"plain": base(plain.parameters()).step}
        for method, of in METHODS.items():
            for phase, steps in PHASES.items():
                net = vgg16_bn(1.0)
                groups = ZeroInvariantGroups(net, example)
                net.cuda()
                optimizer = of(base(net.parameters()), groups, target="macs=0.5", **steps)
                with_gradients(net)
                optimizer.step()  # chooses the units, and for "after" makes them zero
                with_gradients(net)
                assert optimizer.phase == phase
                steppers[f"{method} {phase}"] = optimizer.step
        times: dict[str, list[float]] = {side: [] for side in steppers}
        for _ in range(2 * turns + WARM_UP):
            for side, step in steppers.items():
                times[side].append(milliseconds(step))
        row: dict[str, Any] = {"optimiser": name}
        for side, values in times.items():
            row[side] = spread(values)
            row[side]["ratio"] = round(row[side]["median_ms"] / row["plain"]["median_ms"], 3)
        yield row


def milliseconds(work: Callable[[], object]) -> float:
    """From an idle GPU to an idle GPU."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def spread(times: list[float]) -> dict[str, Any]:
    kept = times[WARM_UP:]
    return {
        "median_ms": round(float(np.median(kept)), 3),
        "quartiles_ms": [round(float(x), 3) for x in np.quantile(kept, (0.25, 0.75))],
    }


if __name__ == "__main__":
    main()
