"""Do the sums of a latency table's rows predict whole subnets, in torch and in ONNX Runtime?

Command: python benchmarks/latency_prediction.py [--runtimes torch-eager onnxruntime] [--space mobilenet_v3_tiny]
         [--correct 20]
Result:  benchmarks/results/latency_prediction/RUNTIME.json, one a runtime, and latency_prediction.svg of all there are.

The table is measured with `profile_space` as `onceforall profile` calls it, and in turn with each of its rounds whole
subnets are, drawn at random by another seed: one after the other, the machine's own changes of speed within a minute
(10 % and more on a shared one) would be taken for errors of the table. Whole subnets are measured in a new random order
each round: in torch, four passes count after three that warm the caches; in ONNX Runtime, the quickest of four; a
subnet's latency is the median over rounds. Odd and even rounds, compared with each other, say below what error no table
can be found. The plain baseline is latency in proportion to MACs, fitted to the very subnets that it predicts. With
`--correct N`, the table is also corrected as `onceforall profile --correct N` does, with N other subnets, measured in
the same rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from latency_tables import (
    LatencyTable,
    SubnetTimer,
    correct,
    macs,
    profile_space,
    random_subnets,
    this_machine,
)
from latency_tables.profiler import RUNTIMES
from service.commands.table_words import corrected_facts
from supernet.files import atomic_path, write_json
from supernet.spaces import get_space

RESULTS = Path(__file__).parent / "results" / "latency_prediction"
PICTURE = "latency_prediction.svg"
WARMUP = 3
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
    parser.add_argument("--correct", type=int, default=0, metavar="N", help="subnets to correct the table with")
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
        if "table_corrected" in report:
            figures, fitted = report["table_corrected"], report["correction"]
            unused = "" if fitted["corrected"] else " (no better, so not used)"
            print(
                f"{'':<12} corrected with {fitted['subnets']} other subnets{unused}: "
                f"median error {figures['median_error']:.3f}, worst {figures['worst_error']:.3f}, Spearman "
                f"{figures['spearman']:.4f} (the others: {fitted['error_before']:.3f}, left out of the fit "
                f"{fitted['error_after']:.3f})",
                flush=True,
            )
    draw(arguments.out)


def compare(runtime: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Profile, measuring unseen subnets and those to correct with between the rounds; then compare."""
    space = get_space(arguments.space)
    configs, others = (
        random_subnets(space, count, np.random.default_rng(seed + arguments.seed), arguments.resolutions)
        for seed, count in ((1000, arguments.subnets), (2000, arguments.correct))
    )
    others = [config for config in others if config not in configs]
    how = {"runtime": runtime, "threads": arguments.threads, "batch": arguments.batch, "seed": arguments.seed}
    unseen, to_correct = (SubnetTimer(space, some, **how) for some in (configs, others))
    started = time.monotonic()
    spent = 0.0

    def between(done: int, total: int) -> None:
        nonlocal spent
        start = time.monotonic()
        for timer in (unseen, to_correct):
            timer.round(counts=done > WARMUP)
        spent += time.monotonic() - start

    table = profile_space(
        space,
        device="this-cpu",
        repeats=arguments.repeats,
        warmup=WARMUP,
        resolutions=arguments.resolutions,
        progress=between,
        **how,
    )
    seconds = time.monotonic() - started - spent
    found = correct(table, space, to_correct.measured()) if others else None
    estimated = np.array([table.estimate_ms(space, config) for config in configs])
    rounds = unseen.rounds_ms
    measured = np.median(rounds, axis=(0, 2))
    counted = np.array([macs(space.layers(config)) for config in configs], dtype=float)
    corrected: dict[str, Any] = {}
    if found is not None:
        better = np.array([found.table.estimate_ms(space, config) for config in configs])
        corrected = {"table_corrected": _agreement(better, measured), "correction": corrected_facts(found)}
    return {
        "command": "python benchmarks/latency_prediction.py "
        + " ".join(f"--{name} {getattr(arguments, name)}" for name in ("space", "subnets", "repeats", "threads"))
        + f" --batch {arguments.batch} --seed {arguments.seed} --runtimes {runtime}"
        + (f" --correct {arguments.correct}" if arguments.correct else "")
        + (f" --resolutions {' '.join(map(str, arguments.resolutions))}" if arguments.resolutions else ""),
        "machine": this_machine() | {"python": platform.python_version()},
        "runtime_versions": dict(table.provenance.runtime_versions),
        "rows": len(table.rows),
        "profile_seconds": round(seconds, 1),
        "table": _agreement(estimated, measured),
        **corrected,
        "halves": _agreement(np.median(rounds[::2], axis=(0, 2)), np.median(rounds[1::2], axis=(0, 2))),
        "macs": _agreement(counted / np.median(counted / measured), measured),
        "row_spread": _row_spread(table),
        "subnets": [
            {"config": config.to_dict(), "estimated_ms": round(float(sum_ms), 6), "measured_ms": round(float(ms), 6)}
            for config, sum_ms, ms in zip(configs, estimated, measured, strict=True)
        ],
    }


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
