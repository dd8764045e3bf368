"""How fast are training, calibration and extraction on a CPU, beside the authors' own package?

Command: python benchmarks/reference_speed.py   (about 4 minutes on two quiet cores; needs the development extra)
Result:  benchmarks/results/reference_speed.json, printed as a table.

Space mobilenet_v3_w1.0 with 1000 classes, float32, random images and weights, seed 0. Each side has a process of its
own; they take turns step by step, one waiting while the other computes, so that both meet the same machine. The
reference runs as its users run it, in its own memory layout; ours in channels last, as the trainer has it. Rates are by
the clock; `ratio_cpu_time` compares the processor time instead, which a busy machine changes less (with several threads
it counts waiting too). Memory is the greatest resident size of the process, the interpreter and torch included.

- training: one step (forward, loss, backward, SGD with momentum) on 32 images of 128x128, for the largest subnet, the
  smallest, and random ones (another at every step).
- calibration: batch norm statistics of one random subnet from 512 images of 128x128 in batches of 128; our plain
  forward pass over the same images stands beside it.
- extraction: copying random subnets out of the supernet, after forty to warm up; ours also the very first one.
- gradients: all of the largest subnet's, 8 images of 128x128, against plain autograd in float64, relative norm.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from supernet import Supernet, calibrate, get_space, kernels
from supernet.arch import SubnetConfig
from supernet.files import write_json
from supernet.training.memory import keep_freed_memory

RESULT = Path(__file__).parent / "results" / "reference_speed.json"
SPACE, SEED, BATCH, RESOLUTION = "mobilenet_v3_w1.0", 0, 32, 128
TRAINED = ("largest", "random", "smallest")
Measured = tuple[float, float]
"""Seconds by the clock, and of processor time."""
Action = Callable[[int], Measured]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each kind")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(*arguments.worker)
        return
    report: dict[str, Any] = {
        "question": __doc__.splitlines()[0],
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "load_at_start": os.getloadavg()[0],
        },
        "seed": SEED,
    }
    for task in TRAINED:
        report[f"training_{task}"] = {}
        with pair(f"train-{task}") as ask:
            for threads in arguments.threads:
                turns = [ask(threads, step) for step in range(arguments.steps + 1)][1:]
                report[f"training_{task}"][f"{threads}_threads"] = compared(turns, images=BATCH)
            report[f"training_{task}"]["peak_memory_mb"] = {side: found[0] for side, found in ask(1, -1).items()}
    with pair("calibrate") as ask:
        report["calibration_512_images"] = compared([ask(1, step) for step in range(3)])
        report["calibration_512_images"]["ours_plain_forward_seconds"] = ask(1, -1)["ours"][0]
    with pair("extract") as ask:
        turns = [ask(1, step) for step in range(80)]
        report["extraction"] = compared(turns[40:])
        report["extraction"]["ours_first_seconds"] = turns[0]["ours"][0]
    report["gradients_error"] = gradients_error()
    write_json(RESULT, report)
    for name, found in report.items():
        if isinstance(found, dict) and name != "machine":
            print(name, json.dumps(found, indent=2))
    print("gradients' error", report["gradients_error"])


def processor() -> str:
    """The processor's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def compared(turns: list[dict[str, Measured]], *, images: int = 0) -> dict[str, Any]:
    """Medians and spreads of both sides, and of how many times as fast ours is, turn by turn.

    Args:
        turns: what each side measured.
        images: images a turn, for a rate in images per second; 0: seconds.
    """
    ours, theirs = (np.array([turn[side] for turn in turns]) for side in ("ours", "reference"))
    unit = "images_per_second" if images else "seconds"
    rows = {
        f"ours_{unit}": images / ours[:, 0] if images else ours[:, 0],
        f"reference_{unit}": images / theirs[:, 0] if images else theirs[:, 0],
        "ratio": theirs[:, 0] / ours[:, 0],
        "ratio_cpu_time": theirs[:, 1] / ours[:, 1],
    }
    return {
        name: {
            "median": round(float(np.median(row)), 4),
            "least": round(float(row.min()), 4),
            "most": round(float(row.max()), 4),
        }
        for name, row in rows.items()
    }


@contextmanager
def pair(task: str) -> Iterator[Callable[[int, int], dict[str, Measured]]]:
    """Two waiting processes; the yielded function lets both do (threads, step), one after the other."""
    folder = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    sides = {
        side: subprocess.Popen(
            [sys.executable, __file__, "--worker", side, task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for side in ("reference", "ours")
    }

    def ask(threads: int, step: int) -> dict[str, Measured]:
        answers = {}
        for side, process in sides.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{threads} {step}\n")
            process.stdin.flush()
            first, second = map(float, process.stdout.readline().split())
            answers[side] = first, second
        return answers

    try:
        yield ask
    finally:
        for process in sides.values():
            process.communicate()


def serve(side: str, task: str) -> None:
    """A worker: one line with threads and step in, seconds and processor seconds out; for step -1 see the task."""
    action = {"ours": ours, "reference": theirs}[side](task)
    for line in sys.stdin:
        threads, step = map(int, line.split())
        torch.set_num_threads(threads)
        print(*action(step), flush=True)


def config_of(task: str, step: int) -> SubnetConfig:
    space = get_space(SPACE)
    if task.endswith("largest"):
        return space.largest()
    return space.smallest() if task.endswith("smallest") else space.sample(np.random.default_rng([SEED, max(step, 0)]))


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(SEED))


def timed(work: Callable[[], object]) -> Measured:
    started, processor_started = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - processor_started


def trainer(net: nn.Module, batch: torch.Tensor, activate: Callable[[int], None]) -> Action:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    labels = torch.arange(BATCH)
    net.train()

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(batch), labels).backward()
        optimizer.step()

    def act(step: int) -> Measured:
        if step < 0:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 0.0
        activate(step)
        return timed(work)

    return act


def ours(task: str) -> Action:
    net = Supernet(get_space(SPACE))
    if task.startswith("train"):
        keep_freed_memory()  # as the trainer does
        net.to(memory_format=torch.channels_last)
        batch = images(BATCH).contiguous(memory_format=torch.channels_last)
        return trainer(net, batch, lambda step: net.activate(config_of(task, step)))
    if task == "extract":

        def extract(step: int) -> Measured:
            config = config_of(task, step)
            return timed(lambda: net.extract(config))

        return extract
    subnet, batches = net.extract(config_of(task, 0)), images(512).split(128)

    @torch.no_grad()
    def forward() -> None:
        for batch in batches:
            subnet(batch.contiguous(memory_format=torch.channels_last))

    return lambda step: timed((lambda: calibrate(subnet, batches)) if step >= 0 else forward)


def theirs(task: str) -> Action:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from reference import reference, reference_supernet

    net: Any = reference_supernet(SPACE)

    def activate(step: int) -> None:
        config = config_of(task, step)
        net.set_active_subnet(
            ks=[kernel or 3 for kernel in config.kernels], e=[e or 3 for e in config.expands], d=list(config.depths)
        )

    if task.startswith("train"):
        return trainer(net, images(BATCH), activate)
    if task == "extract":

        def extract(step: int) -> Measured:
            activate(step)
            return timed(lambda: net.get_active_subnet(preserve_weight=True))

        return extract
    activate(0)
    subnet = net.get_active_subnet(preserve_weight=True)
    loader = [(batch, None) for batch in images(512).split(128)]
    statistics = reference("imagenet_classification.elastic_nn.utils").set_running_statistics
    return lambda step: timed(lambda: statistics(subnet, loader)) if step >= 0 else (0.0, 0.0)


def gradients_error() -> dict[str, float]:
    """Relative error of all gradients together to float64, with our kernels and with plain autograd in float32."""

    def gradients(dtype: torch.dtype, *, compiled: bool) -> list[torch.Tensor]:
        net = Supernet(get_space(SPACE), generator=torch.Generator().manual_seed(SEED)).to(dtype)
        net.to(memory_format=torch.channels_last)
        batch = images(8).to(dtype).contiguous(memory_format=torch.channels_last)
        usable = kernels.usable
        try:
            if not compiled:
                kernels.usable = lambda _: False
            F.cross_entropy(net.train()(batch), torch.arange(8)).backward()
        finally:
            kernels.usable = usable
        return [parameter.grad.double() for parameter in net.parameters() if parameter.grad is not None]

    exact = gradients(torch.float64, compiled=False)
    size = sum(float(gradient.square().sum()) for gradient in exact)
    errors = {}
    for name, compiled in (("ours", True), ("autograd_float32", False)):
        found = gradients(torch.float32, compiled=compiled)
        difference = sum(float((one - other).square().sum()) for one, other in zip(found, exact, strict=True))
        errors[name] = (difference / size) ** 0.5
    return errors


if __name__ == "__main__":
    main()
