"""How fast are training, calibration and extraction on a CPU, beside the authors' own package?

Command: python benchmarks/reference_speed.py   (264 seconds on a quiet machine; needs the development extra)
Result:  benchmarks/results/reference_speed.json, printed as a table.

Space mobilenet_v3_w1.0 with 1000 classes, float32, random images and weights, seed 0. Each side has a process of its
own; they take turns step by step, all but one waiting, so that all meet the same machine. The reference runs as its
users run it, in its own memory layout; ours in channels last, as the trainer has it. Rates are by the clock;
`cpu_time` compares the processor time instead, which a busy machine changes less (with several threads it counts
waiting too). Memory is the greatest resident size of the process, the interpreter and torch included.

- training: one step (forward, loss, backward, SGD with momentum) on 32 images of 128x128, for the largest subnet, the
  smallest, and random ones (another at every step). Beside it ours without our kernels (`kernels_off`) and ours with
  memory that is given back after each use (`memory_not_kept`).
- tiny: the same for mobilenet_v3_tiny, 64 images of 28x28, without the reference, which has no such space.
- calibration: batch norm statistics of one random subnet from 512 images of 128x128 in batches of 128; a plain forward
  pass of the same subnet over the same images takes its turns too.
- extraction: copying random subnets out of the supernet, after forty to warm up; ours also the very first one.
- operators: those that have kernels of ours, each alone, ours and PyTorch's in turns, at the shapes of the largest
  subnet. `weight` and `input` are the two gradients of a depthwise convolution; only the first, and not that of kernel
  3, is ours. `error` is the gradients' distance from float64.
- first step: of a process, with kernels that are compiled, loaded from disk, and off; numba's import is part of it.
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
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import Supernet, calibrate, get_space, kernels
from supernet.arch import SubnetConfig
from supernet.files import write_json
from supernet.layers.batch_norm import batch_norm
from supernet.layers.depthwise import depthwise_conv2d
from supernet.layers.squeeze_excite import squeeze_excite
from supernet.memory import keep_freed_memory

RESULT = Path(__file__).parent / "results" / "reference_speed.json"
SPACE, SEED, BATCH, RESOLUTION = "mobilenet_v3_w1.0", 0, 32, 128
TINY, TINY_BATCH, TINY_RESOLUTION = "mobilenet_v3_tiny", 64, 28
ABLATIONS = ("kernels_off", "memory_not_kept")
TRAINED: dict[str, tuple[str, ...]] = {
    "training_largest": ("ours", "reference", *ABLATIONS),
    "training_random": ("ours", "reference", *ABLATIONS),
    "training_smallest": ("ours", "reference"),
    "tiny_largest": ("ours", *ABLATIONS),
    "tiny_random": ("ours", *ABLATIONS),
}
"""Tasks and the sides that take turns at them."""
TINY_STEPS = 4
"""Steps of the tiny space for each of the large one."""
Measured = tuple[float, float, float]
"""Seconds by the clock, seconds of processor time, page faults."""
Action = Callable[[int], Measured]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each kind")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of training; all else has one")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(*arguments.worker)
        return
    started = time.perf_counter()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "question": __doc__.splitlines()[0],
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "load_at_start": os.getloadavg()[0],
        },
        "seed": SEED,
        "steps": arguments.steps,
    }
    for task, sides in TRAINED.items():
        report[task] = {}
        tiny = task.startswith("tiny")
        with taking_turns(task, sides) as ask:
            for threads in arguments.threads:
                steps = arguments.steps * (TINY_STEPS if tiny else 1)
                turns = [ask(threads, step) for step in range(steps + 1)][1:]
                report[task][f"{threads}_threads"] = compared(turns, images=TINY_BATCH if tiny else BATCH)
            report[task]["peak_memory_mb"] = {side: found[0] for side, found in ask(1, -1).items()}
    with taking_turns("calibrate", ("ours", "reference", "plain_forward")) as ask:
        report["calibration_512_images"] = compared([ask(1, step) for step in range(4)][1:])
    with taking_turns("extract", ("ours", "reference")) as ask:
        turns = [ask(1, step) for step in range(80)]
        report["extraction"] = compared(turns[40:])
        report["extraction"]["ours_first_seconds"] = turns[0]["ours"][0]
    report["operators"] = operators(arguments.steps)
    report["first_step_seconds"] = first_steps()
    report["gradients_error"] = gradients_error()
    report["whole_run_seconds"] = round(time.perf_counter() - started)
    report["machine"]["load_at_end"] = os.getloadavg()[0]
    write_json(RESULT, report)
    for name, found in report.items():
        print(name, json.dumps(found, indent=2) if isinstance(found, dict) else found)


def processor() -> str:
    """The processor's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def compared(turns: Sequence[dict[str, Measured]], *, images: int = 0) -> dict[str, Any]:
    """What each side measured, and how many times as fast as each other side ours is, turn by turn.

    Args:
        turns: what each side measured; the first is ours.
        images: images a turn, for a rate in images per second; 0: seconds.
    """
    found = {side: np.array([turn[side] for turn in turns]) for side in turns[0]}
    unit = "images_per_second" if images else "seconds"
    return {
        unit: {side: spread(images / rows[:, 0] if images else rows[:, 0]) for side, rows in found.items()},
        "page_faults": {side: float(np.median(rows[:, 2])) for side, rows in found.items()},
        "ours_times_as_fast_as": {
            side: {
                "clock": spread(rows[:, 0] / found["ours"][:, 0]),
                "cpu_time": spread(rows[:, 1] / found["ours"][:, 1]),
            }
            for side, rows in found.items()
            if side != "ours"
        },
    }


def spread(row: Any) -> dict[str, float]:
    return {
        name: round(float(value), 4)
        for name, value in (("median", np.median(row)), ("least", row.min()), ("most", row.max()))
    }


@contextmanager
def taking_turns(
    task: str, sides: Sequence[str], **settings: str
) -> Iterator[Callable[[int, int], dict[str, Measured]]]:
    """One waiting process a side; the yielded function lets each do (threads, step), one after the other.

    Args:
        task: what they do.
        sides: who does it.
        settings: further environment variables.
    """
    folder = Path(__file__).parent.parent
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    processes = {
        side: subprocess.Popen(
            [sys.executable, __file__, "--worker", side, task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **settings},
        )
        for side in sides
    }

    def ask(threads: int, step: int) -> dict[str, Measured]:
        answers = {}
        for side, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{threads} {step}\n")
            process.stdin.flush()
            first, second, third = map(float, process.stdout.readline().split())
            answers[side] = first, second, third
        return answers

    try:
        yield ask
    finally:
        for process in processes.values():
            process.communicate()


def serve(side: str, task: str) -> None:
    """A worker: one line with threads and step in, what was measured out; for step -1 see the task."""
    action = theirs(task) if side == "reference" else ours(task, side)
    for line in sys.stdin:
        threads, step = map(int, line.split())
        torch.set_num_threads(threads)
        print(*action(step), flush=True)


def config_of(task: str, step: int) -> SubnetConfig:
    space = get_space(TINY if task.startswith("tiny") else SPACE)
    if task.endswith("largest"):
        return space.largest()
    return space.smallest() if task.endswith("smallest") else space.sample(np.random.default_rng([SEED, max(step, 0)]))


def images(count: int, resolution: int = RESOLUTION) -> Tensor:
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(SEED))


def timed(work: Callable[[], object]) -> Measured:
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    started, processor_started = time.perf_counter(), time.process_time()
    work()
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - processor_started
    return seconds, processor_seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults


def trainer(net: nn.Module, batch: Tensor, activate: Callable[[int], None]) -> Action:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    labels = torch.arange(len(batch)) % 10
    net.train()

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(batch), labels).backward()
        optimizer.step()

    def act(step: int) -> Measured:
        if step < 0:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 0.0, 0.0
        activate(step)
        return timed(work)

    return act


def ours(task: str, side: str) -> Action:
    if side == "kernels_off":
        kernels.usable = lambda _: False
    tiny = task.startswith("tiny")
    net = Supernet(get_space(TINY if tiny else SPACE))
    if side != "memory_not_kept":
        keep_freed_memory()  # as the trainer and the commands do
    if tiny or task.startswith("training"):
        net.to(memory_format=torch.channels_last)
        batch = images(TINY_BATCH, TINY_RESOLUTION) if tiny else images(BATCH)
        batch = batch.contiguous(memory_format=torch.channels_last)
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

    return lambda step: timed(forward if side == "plain_forward" else lambda: calibrate(subnet, batches))


def theirs(task: str) -> Action:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from reference import reference, reference_supernet

    net: Any = reference_supernet(SPACE)

    def activate(step: int) -> None:
        config = config_of(task, step)
        net.set_active_subnet(
            ks=[kernel or 3 for kernel in config.kernels], e=[e or 3 for e in config.expands], d=list(config.depths)
        )

    if task.startswith("training"):
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
    return lambda step: timed(lambda: statistics(subnet, loader))


@contextmanager
def without_kernels(off: bool = True) -> Iterator[None]:
    usable = kernels.usable
    try:
        if off:
            kernels.usable = lambda _: False
        yield
    finally:
        kernels.usable = usable


def operators(turns: int) -> list[dict[str, Any]]:
    """Milliseconds of each operator alone, medians of ours and PyTorch's in turns."""
    keep_freed_memory()
    space = get_space(SPACE)
    specs = [
        spec
        for spec in space.layers(replace(space.largest(), resolution=RESOLUTION))
        if spec.op == "mbconv" and spec.kernel == 7
    ]
    shapes = sorted({(spec.mid_channels, spec.in_size, spec.stride) for spec in specs}, key=lambda at: (-at[1], at))
    rows = [depthwise(side, *shape, turns) for shape in shapes for side in (3, 5, 7)]
    for shape in ((144, 32), (480, 8), (960, 4)):
        rows += [norm_and_activation(*shape, turns), squeeze(*shape, turns)]
    return rows


def depthwise(side: int, channels: int, size: int, stride: int, turns: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "operator": f"depthwise {side}x{side}",
        "channels": channels,
        "size": size,
        "stride": stride,
    }
    x, weight = random(BATCH, channels, size, size), random(channels, 1, side, side)
    for name, needed in (("weight", weight), ("input", x)):
        for tensor in (x, weight):
            tensor.requires_grad_(tensor is needed)
        found = passes(lambda x, weight: depthwise_conv2d(x, weight, stride), (x, weight), turns)
        row["forward_ms"] = found["pytorch_forward_ms"]
        for who in ("ours", "pytorch") if side != 3 and name == "weight" else ("pytorch",):
            row |= {f"{who}_{name}_ms": found[f"{who}_backward_ms"], f"{who}_{name}_error": found[f"{who}_error"]}
    return row


def norm_and_activation(channels: int, size: int, turns: int) -> dict[str, Any]:
    x, scale, shift = random(BATCH, channels, size, size), torch.ones(channels), torch.zeros(channels)
    for tensor in (x, scale, shift):
        tensor.requires_grad_()

    def operator(*tensors: Tensor) -> Tensor:
        return batch_norm(*tensors, training=True, momentum=0.1, eps=1e-5, activation="h_swish")

    found = passes(operator, (x, torch.zeros(channels), torch.ones(channels), scale, shift), turns)
    return {"operator": "batch norm and hard swish", "channels": channels, "size": size} | found


def squeeze(channels: int, size: int, turns: int) -> dict[str, Any]:
    x, width = random(BATCH, channels, size, size), channels // 4
    layers = random(width, channels, 1, 1), random(width), random(channels, width, 1, 1), random(channels)
    found = passes(squeeze_excite, [tensor.requires_grad_() for tensor in (x, *layers)], turns)
    return {"operator": "squeeze-excite", "channels": channels, "size": size} | found


def passes(operator: Callable[..., Tensor], inputs: Sequence[Tensor], turns: int) -> dict[str, float]:
    """Milliseconds forward and backward, with and without kernels, and the gradients' relative error to float64."""
    found: dict[str, list[float]] = {}
    gradient = torch.randn_like(operator(*inputs))
    doubles = [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in inputs]
    exact = torch.autograd.grad(operator(*doubles), [x for x in doubles if x.requires_grad], gradient.double())
    size = sum(float(one.square().sum()) for one in exact)
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    for turn in range(turns + 1):
        for side in ("ours", "pytorch"):
            with without_kernels(side == "pytorch"):
                started = time.perf_counter()
                y = operator(*inputs)
                between = time.perf_counter()
                gradients = torch.autograd.grad(y, needed, gradient)
                ended = time.perf_counter()
            if turn:
                found.setdefault(f"{side}_forward_ms", []).append(1000 * (between - started))
                found.setdefault(f"{side}_backward_ms", []).append(1000 * (ended - between))
            else:
                error = sum(float((one - other).square().sum()) for one, other in zip(gradients, exact, strict=True))
                found[f"{side}_error"] = [(error / size) ** 0.5]
    return {name: float(f"{np.median(values):.4g}") for name, values in found.items()}


def random(*shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def first_steps() -> dict[str, float]:
    """Seconds of a process's first training step, tiny space; a folder without and with compiled kernels."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, side in (("compiled", "ours"), ("loaded", "ours"), ("kernels_off", "kernels_off")):
            with taking_turns("tiny_largest", [side], NUMBA_CACHE_DIR=folder) as ask:
                found[name] = ask(1, 0)[side][0]
    return found


def gradients_error() -> dict[str, float]:
    """Relative error of all gradients together to float64, with our kernels and with plain autograd in float32."""

    def gradients(dtype: torch.dtype, *, compiled: bool) -> list[Tensor]:
        net = Supernet(get_space(SPACE), generator=torch.Generator().manual_seed(SEED)).to(dtype)
        net.to(memory_format=torch.channels_last)
        batch = images(8).to(dtype).contiguous(memory_format=torch.channels_last)
        with without_kernels(not compiled):
            F.cross_entropy(net.train()(batch), torch.arange(8)).backward()
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
