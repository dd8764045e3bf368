"""Do the sums of a latency table's rows predict whole subnets, in torch and in ONNX Runtime?

Command: python benchmarks/latency_prediction.py [--runtimes torch-eager onnxruntime] [--space mobilenet_v3_tiny]
Result:  benchmarks/results/latency_prediction/RUNTIME.json, one a runtime, and latency_prediction.svg of all there are.

As a user gets it: the table is measured first, with `profile_space` as `onceforall profile` calls it, then, without
taking turns, whole subnets, drawn at random by another seed. A machine that changes its speed in between spoils the
comparison, as it would spoil a user's. Whole subnets are measured in rounds, in a new random order each, with the same
statistic as the runtime's rows: in torch, both passes after one that warms the caches count; in ONNX Runtime, the
quickest of four does; a subnet's latency is the median over rounds. Odd and even rounds, compared with each other, say
below what error no table can be found. The plain baseline is latency in proportion to MACs, fitted to the very subnets
that it predicts.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from latency_tables import LatencyTable, macs, measure, profile_space, this_machine
from latency_tables.profiler import ONNX, RUNTIMES, TORCH
from supernet.files import atomic_path, write_json
from supernet.network import Subnet
from supernet.onnx_graph import onnx_model
from supernet.spaces import get_space

RESULTS = Path(__file__).parent / "results" / "latency_prediction"
PICTURE = "latency_prediction.svg"
Array = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--space", default="mobilenet_v3_tiny")
    parser.add_argument("--resolutions", type=int, nargs="*", default=[], help="none: all of the space")
    parser.add_argument("--subnets", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for runtime in arguments.runtimes:
        report = compare(runtime, arguments)
        write_json(arguments.out / f"{runtime}.json", report)
        figures = report["table"]
        print(
            f"{runtime:<12} {report['rows']} rows in {report['profile_seconds']} s; {arguments.subnets} subnets: "
            f"median error {figures['median_error']:.3f}, worst {figures['worst_error']:.3f}, Spearman "
            f"{figures['spearman']:.4f} (odd and even rounds: {report['halves']['median_error']:.3f}, "
            f"{report['halves']['spearman']:.4f}; MACs: {report['macs']['median_error']:.3f}, "
            f"{report['macs']['spearman']:.4f})",
            flush=True,
        )
    draw(arguments.out)


def compare(runtime: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Profile, then measure unseen subnets, then compare."""
    space = get_space(arguments.space)
    started = time.monotonic()
    table = profile_space(
        space,
        device="this-cpu",
        runtime=runtime,
        threads=arguments.threads,
        batch=arguments.batch,
        repeats=arguments.repeats,
        resolutions=arguments.resolutions,
        seed=arguments.seed,
    )
    seconds = time.monotonic() - started
    rng = np.random.default_rng(1000 + arguments.seed)
    within = {"resolution": arguments.resolutions} if arguments.resolutions else None
    configs = space.decode(space.sample_genotypes(rng, arguments.subnets, within=within))
    estimated = np.array([table.estimate_ms(space, config) for config in configs])
    networks = [Subnet(space, config).eval() for config in configs]
    rounds = measure_whole(networks, runtime, arguments, rng)
    measured = np.median(rounds, axis=(0, 2))
    counted = np.array([macs(space.layers(config)) for config in configs], dtype=float)
    return {
        "command": "python benchmarks/latency_prediction.py "
        + " ".join(f"--{name} {getattr(arguments, name)}" for name in ("space", "subnets", "repeats", "threads"))
        + f" --batch {arguments.batch} --seed {arguments.seed} --runtimes {runtime}"
        + (f" --resolutions {' '.join(map(str, arguments.resolutions))}" if arguments.resolutions else ""),
        "machine": this_machine() | {"python": platform.python_version()},
        "runtime_versions": dict(table.provenance.runtime_versions),
        "rows": len(table.rows),
        "profile_seconds": round(seconds, 1),
        "table": _agreement(estimated, measured),
        "halves": _agreement(np.median(rounds[::2], axis=(0, 2)), np.median(rounds[1::2], axis=(0, 2))),
        "macs": _agreement(counted / np.median(counted / measured), measured),
        "row_spread": _row_spread(table),
        "subnets": [
            {"config": config.to_dict(), "estimated_ms": round(float(sum_ms), 6), "measured_ms": round(float(ms), 6)}
            for config, sum_ms, ms in zip(configs, estimated, measured, strict=True)
        ],
    }


def measure_whole(
    networks: list[Subnet], runtime: str, arguments: argparse.Namespace, rng: np.random.Generator
) -> Array:
    """Latencies of whole subnets, ms, (rounds, subnets, passes that count)."""
    visits = [_visit(network, runtime, arguments) for network in networks]
    rounds = np.zeros((arguments.repeats, len(networks), len(visits[0]())))
    with torch.inference_mode():
        for turn in range(-1, arguments.repeats):
            for number in rng.permutation(len(networks)):
                times = visits[number]()
                if turn >= 0:
                    rounds[turn, number] = times
    return rounds


def _visit(network: Subnet, runtime: str, arguments: argparse.Namespace) -> Callable[[], list[float]]:
    shape = (arguments.batch, 3, network.resolution, network.resolution)
    images = np.random.default_rng(0).random(shape, dtype=np.float32)
    if runtime == ONNX:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            path.write_bytes(onnx_model(network.named_children(), input_shape=shape).SerializeToString())
            session = measure.open_session(str(path), arguments.threads)
        return lambda: [measure.visit_ms(session, images)]
    assert runtime == TORCH
    for module in network.modules():  # torch's own initial weights lead to denormal numbers
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
    runner = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tensor = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)

    def visit() -> list[float]:
        times = []
        for _ in range(3):
            start = time.perf_counter_ns()
            runner(tensor)
            times.append((time.perf_counter_ns() - start) / 1e6)
        return times[1:]

    return visit


def _agreement(estimated: Array, measured: Array) -> dict[str, float]:
    ratios = estimated / measured
    errors = np.abs(ratios - 1)
    return {
        "median_error": round(float(np.median(errors)), 4),
        "worst_error": round(float(errors.max()), 4),
        "median_ratio": round(float(np.median(ratios)), 4),
        "spearman": round(float(spearmanr(estimated, measured)[0]), 4),
    }


def _row_spread(table: LatencyTable) -> dict[str, float]:
    """How far rounds disagree about single rows: spread over median, of the middle and of the worst row."""
    shares = [row.spread_ms / row.median_ms for row in table.rows.values()]
    return {"median": round(float(np.median(shares)), 4), "worst": round(max(shares), 4)}


def draw(folder: Path) -> None:
    """One picture of all stored runtimes: estimated over measured latency, and the line where both are equal."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    reports = {name: json.loads((folder / f"{name}.json").read_bytes()) for name in _stored(folder)}
    plt.rcParams["svg.hashsalt"] = "latency_prediction"
    figure, panels = plt.subplots(1, len(reports), figsize=(4.6 * len(reports), 4.4), squeeze=False)
    for axes, (name, report) in zip(panels[0], reports.items(), strict=True):
        estimated = [subnet["estimated_ms"] for subnet in report["subnets"]]
        measured = [subnet["measured_ms"] for subnet in report["subnets"]]
        ends = [0.95 * min(estimated + measured), 1.05 * max(estimated + measured)]
        axes.plot(ends, ends, color="0.6", linewidth=1, label="equal")
        axes.scatter(measured, estimated, s=14, label=f"{len(measured)} unseen subnets")
        figures = report["table"]
        errors = f"median error {100 * figures['median_error']:.1f} %, Spearman {figures['spearman']:.3f}"
        axes.set_title(f"{name}: {errors}", fontsize=10)
        axes.set_xlabel("measured whole (ms)")
        axes.set_ylabel("sum of the table's rows (ms)")
        axes.set_aspect("equal")
        axes.legend(frameon=False)
    figure.tight_layout()
    with atomic_path(folder / PICTURE) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)


def _stored(folder: Path) -> list[str]:
    return [name for name in RUNTIMES if (folder / f"{name}.json").is_file()]


if __name__ == "__main__":
    main()
