"""Measures a bundle of ONNX networks on this device and writes a latency table. Needs onnxruntime and numpy only.

    python measure.py --device NAME [--threads 1] [--repeats 30] [--out NAME.json]

Run it on an otherwise idle device, from any folder; Python 3.8 or newer, ONNX Runtime 1.12 or newer. The table's file
is what `onceforall tables`, `onceforall search` and the service take.

Whole subnets are timed, layers are not: alone, a layer pays for a session of its own, keeps its weights in the nearest
cache, and loses what the runtime gains by fusing it with its neighbours. The subnets of a bundle have all layers of the
space, in many combinations. What each layer adds to them, its row, is fitted in two steps: first a cost for each of a
few properties of layers (multiply-adds by kind, numbers written, ...) by non-negative least squares, then each layer's
own deviation from it by ridge regression, as strong as leaving out single subnets says. Rows are made to be added up:
how the time of layers that always occur together (stem and classifier) is shared out, only their properties say.
`latency_tables.onnx_profiler` says what else was tried.

A row's figure and its spread are of two kinds. The figure is what a subnet takes undisturbed: the quickest of a few
passes, its median over the rounds. The spread is of all passes, one by one, and is measured from that figure, so that a
budget's percentile is about single runs: 95 % of them take no longer than its p95. It is fitted to the whole subnets'
spreads, by properties of layers alone. Measured on 24 unseen subnets of mobilenet_v3_tiny while other work filled both
cores, share of their single passes within p75 and p95: 91 and 95 %; with spreads between rounds instead: 23 and 29 %.

onceforall copies this file into every bundle; it also runs it for its own profiles on this machine.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type

import numpy as np

BUNDLE = "bundle.json"
BUNDLE_FORMAT, BUNDLE_VERSION = "onceforall-latency-bundle", 1
TABLE_FORMAT, TABLE_VERSION = "onceforall-latency-table", 1
RUNTIME = "onnxruntime"
PASSES = 4
"""Timed runs at each visit. The run before them, which warms the caches, does not count."""
VOUCHED = ((0.75, 1.0), (0.95, 2.4387))
"""Quantiles of single passes that a spread must reach, and their distances from a normal distribution's middle, in
units of the first. Passes are seldom distributed normally around the figure: on a busy device a few take very long, and
the quickest of four is below the middle anyway. Beyond p95 (one pass of 20) percentiles are guessed from these."""
WEIGHT_BYTES_AT_ONCE = 2**29
"""Subnets with more weights than this take turns in groups, so that small devices can hold them."""
STRENGTHS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
"""Strengths of the ridge regression to choose from."""
LEAST_SHARE = 0.05
"""No row is less than this part of what the layer's properties say; noise would else make some negative."""
SUSPICIOUS = 0.08
"""Median error of left-out subnets above which a disturbance is likely; usual is 0.01 to 0.04."""


class MeasureError(Exception):
    """The bundle or an argument cannot be used; one line says why and what to do."""


def open_session(path: str, threads: int) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        path: the ONNX file.
        threads: threads inside of an operator; operators run one after another.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def visit_ms(session: Any, images: Any, passes: int = PASSES) -> List[float]:
    """Milliseconds of each of a few runs in a row, after one that warms the caches."""
    feed = {session.get_inputs()[0].name: images}
    times = []
    for _ in range(1 + passes):
        start = time.perf_counter_ns()
        session.run(None, feed)
        times.append(time.perf_counter_ns() - start)
    return [ns / 1e6 for ns in times[1:]]


def typical_ms(passes: Any) -> Tuple[Any, Any]:
    """What networks take undisturbed, and how far single passes spread above that.

    Args:
        passes: (rounds, ..., passes), ms: visits of `visit_ms`.

    Returns:
        (...,) ms, the median over rounds of the quickest pass; (...,) ms, the least spread with which the normal
        distribution around it takes no less at the quantiles of `VOUCHED` than the single passes do.
    """
    middle = np.median(passes.min(axis=-1), axis=0)
    above = [(np.quantile(passes, share, axis=(0, -1)) - middle) / distance for share, distance in VOUCHED]
    return middle, np.max(above, axis=0)


def measure(
    folder: str,
    device: str,
    threads: int = 1,
    repeats: int = 30,
    warmup: int = 3,
    seed: int = 0,
    progress: Optional[Callable[[int, int], None]] = None,
    say: Optional[Callable[[str], None]] = None,
) -> Tuple[Dict[str, Any], float]:
    """Measure a bundle.

    Every round visits all subnets (of a group, see WEIGHT_BYTES_AT_ONCE) in a new random order, so that a disturbance
    hits few timings of many subnets; `typical_ms` says what a subnet's latency and spread are.

    Args:
        folder: the bundle.
        device: what to call this device in budgets.
        threads: threads inside of an operator.
        repeats: timed rounds.
        warmup: rounds before them.
        seed: of the images and the order.
        progress: called with (rounds done, rounds in all).
        say: called with a line for people at the start, how much it is, and after the first round, how long it takes.

    Returns:
        The table as plain JSON types; and the median relative error of subnets that were left out of the fit.

    Raises:
        MeasureError: the bundle is damaged, or an argument out of range.
    """
    _check(device, threads, repeats, warmup)
    bundle, digest = load_bundle(folder)
    subnets = bundle["subnets"]
    rng = np.random.default_rng(seed)
    images = {
        subnet["resolution"]: rng.random(
            (bundle["batch"], 3, subnet["resolution"], subnet["resolution"]), dtype=np.float32
        )
        for subnet in subnets
    }
    passes = np.zeros((repeats, len(subnets), PASSES))
    groups = _groups([subnet["weight_bytes"] for subnet in subnets], rng)
    rounds = len(groups) * (warmup + repeats)
    done = 0
    if say is not None:
        say(work_words(len(subnets), warmup + repeats, 1 + PASSES))
    for group in groups:
        sessions = {number: open_session(str(Path(folder) / subnets[number]["file"]), threads) for number in group}
        for turn in range(-warmup, repeats):
            began = time.perf_counter()
            for number in rng.permutation(group):
                times = visit_ms(sessions[number], images[subnets[number]["resolution"]])
                if turn >= 0:
                    passes[turn, number] = times
            done += 1
            if say is not None and done == 1:
                say(duration_words((time.perf_counter() - began) * rounds))
            if progress is not None:
                progress(done, rounds)
        del sessions
    held = np.zeros((len(subnets), len(bundle["layers"])))
    for number, subnet in enumerate(subnets):
        np.add.at(held[number], subnet["layers"], 1)
    features = np.array([layer["features"] for layer in bundle["layers"]], dtype=np.float64)
    rows, spreads, error = fit_rows(held, features, passes)
    table = {
        "format": TABLE_FORMAT,
        "version": TABLE_VERSION,
        "unit": "ms",
        "device": device,
        "space": bundle["space"],
        "num_classes": bundle["num_classes"],
        "provenance": {
            "hardware": this_device(),
            "runtime": RUNTIME,
            "runtime_versions": {
                RUNTIME: _onnxruntime_version(),
                "numpy": np.__version__,
                "python": platform.python_version(),
                "onceforall": bundle["onceforall"],
                "bundle": digest,
            },
            "precision": "fp32",
            "memory_format": "contiguous",
            "threads": threads,
            "batch": bundle["batch"],
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "repeats": repeats,
            "warmup": warmup,
        },
        "rows": [
            {
                "layer": layer["layer"],
                "median_ms": round(float(row), 9),
                "spread_ms": round(float(spread), 9),
                "count": int(repeats * count),
            }
            for layer, row, spread, count in zip(bundle["layers"], rows, spreads, held.astype(bool).sum(0))
        ],
    }
    return table, error


def work_words(subnets: int, rounds: int, passes: int) -> str:
    """How much a measurement is, for people."""
    return f"{subnets} subnets x {rounds} rounds x {passes} passes: {subnets * rounds * passes} passes in all"


def duration_words(seconds: float) -> str:
    """How long a measurement will take, for people."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"about {seconds / size:.0f} {unit} in all, by the first round"
    return f"about {max(1.0, seconds):.0f} s in all, by the first round"


def load_bundle(folder: str) -> Tuple[Dict[str, Any], str]:
    """A bundle's description and the SHA-256 of it; its files are compared with the digests in there.

    Raises:
        MeasureError: absent, damaged, or of another version.
    """
    path = Path(folder) / BUNDLE
    try:
        data = path.read_bytes()
        bundle = json.loads(data.decode())
        if bundle["format"] != BUNDLE_FORMAT or bundle["version"] != BUNDLE_VERSION:
            raise MeasureError(
                f"{str(path)!r} is {bundle['format']!r} of version {bundle['version']!r}; expected {BUNDLE_FORMAT!r} "
                f"of version {BUNDLE_VERSION}; write the bundle again with: onceforall profile --bundle"
            )
        _check_fields(bundle)
        for file, expected in bundle["files"].items():
            if hashlib.sha256((Path(folder) / file).read_bytes()).hexdigest() != expected:
                raise MeasureError(f"{str(Path(folder) / file)!r} is damaged; copy the bundle to this device again")
    except OSError as error:
        raise MeasureError(f"cannot read {error.filename!r}: {error.strerror}; is the bundle complete?") from None
    except KeyError as error:
        raise MeasureError(f"{str(path)!r} is no bundle's description (no {error}); copy the bundle again") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise MeasureError(f"{str(path)!r} is no bundle's description ({error}); copy the bundle again") from None
    return bundle, hashlib.sha256(data).hexdigest()


def fit_rows(held: Any, features: Any, passes: Any) -> Tuple[Any, Any, float]:
    """What each layer adds to the latency of whole subnets, and to its spread.

    Args:
        held: (subnets, layers), how often each subnet has each layer.
        features: (layers, k), properties that may cost time, 0 or more.
        passes: (rounds, subnets, passes), ms.

    Returns:
        (layers,) ms; (layers,) spread, ms, whose sums are the subnets' spreads as `typical_ms` has them, 0 or more;
        median relative error of the latencies of subnets that were left out, one by one.
    """
    whole, spread = typical_ms(passes)
    properties = held @ features / whole[:, None]
    costs = non_negative_least_squares(properties, np.ones(len(whole)))
    prior = np.maximum(features @ costs, 1e-4 * whole.min())
    shares = held * prior / whole[:, None]  # of the subnet's latency
    kernel = shares @ shares.T
    rest = 1 - shares.sum(1)
    chosen = (np.inf, 0.0, np.zeros(0))
    for strength in STRENGTHS:
        inverse = np.linalg.inv(kernel + strength * np.eye(len(whole)))
        left_out = inverse @ rest / np.diag(inverse)  # its error when the fit has not seen it
        chosen = min(chosen, (float(np.mean(left_out**2)), strength, left_out), key=lambda entry: entry[0])
    _, strength, left_out = chosen
    low = np.zeros(len(prior), dtype=bool)
    while True:  # layers below their least share are set to it, the others fitted again
        free = shares * ~low
        fixed = shares @ (low * (LEAST_SHARE - 1))
        solve = free.T @ np.linalg.inv(free @ free.T + strength * np.eye(len(whole)))
        deviation = np.where(low, LEAST_SHARE - 1, solve @ (rest - fixed))
        below = deviation < LEAST_SHARE - 1
        if not below.any():
            break
        low |= below
    spreads = features @ non_negative_least_squares(properties, spread / whole)
    return prior * (1 + deviation), spreads, float(np.median(np.abs(left_out)))


def non_negative_least_squares(matrix: Any, target: Any, sweeps: int = 3000) -> Any:
    """The x >= 0 with the least |matrix @ x - target|, by coordinate descent."""
    scale = np.maximum(np.linalg.norm(matrix, axis=0), 1e-30)
    hessian, gradient = (matrix / scale).T @ (matrix / scale), (matrix / scale).T @ target
    x = np.zeros(matrix.shape[1])
    for _ in range(sweeps):
        before = x.copy()
        for number in range(len(x)):
            x[number] = max(0.0, x[number] + gradient[number] - hessian[number] @ x)
        if np.abs(x - before).max() <= 1e-12 * max(1e-30, np.abs(x).max()):
            break
    return x / scale


def this_device() -> Dict[str, Any]:
    """What the table says about the device: CPU model, architecture, usable cores, operating system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "cpu": _cpu_model()[:200],
        "machine": platform.machine() or "unknown",
        "cores": cores,
        "system": (platform.system() or "unknown")[:200],
    }


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command line; 0, or 2 with one line on standard error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", required=True, help="what budgets will call this device, such as pixel6")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30, help="timed rounds over all subnets")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before them")
    parser.add_argument("--out", help="file to write; else DEVICE.json in this folder")
    parser.add_argument("--bundle", default=str(Path(__file__).resolve().parent), help="the bundle's folder")
    chosen = parser.parse_args(arguments)
    path = Path(chosen.out or f"{chosen.device}.json")
    try:
        _check(chosen.device, chosen.threads, chosen.repeats, chosen.warmup)
        table, left_out = measure(
            chosen.bundle, chosen.device, chosen.threads, chosen.repeats, chosen.warmup, progress=_show, say=_say
        )
        partial = path.with_name(f".{path.name}.tmp")
        partial.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except ImportError as error:
        print(f"error: package {error.name!r} is missing; install it with: pip install onnxruntime", file=sys.stderr)
        return 2
    except (MeasureError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(table['rows'])} layers of {table['space']} on {chosen.device!r} -> {path}")
    print(f"left-out subnets: median error {100 * left_out:.1f} %")
    if left_out > SUSPICIOUS:
        print("that is much: other programs were busy; measure again on a quiet device", file=sys.stderr)
    return 0


def _check(device: str, threads: int, repeats: int, warmup: int) -> None:
    faults = []
    if not re.match(r"[a-z0-9][a-z0-9._-]{0,63}\Z", device):
        faults.append(
            f"device name {device!r}; allowed: 1 to 64 lower-case letters, digits, '.', '_' or '-', "
            "a letter or digit first"
        )
    faults += [
        f"{name} is {value}; allowed: {least} or more"
        for name, value, least in (("threads", threads, 1), ("repeats", repeats, 1), ("warmup", warmup, 0))
        if value < least
    ]
    if faults:
        raise MeasureError(f"cannot profile: {'; '.join(faults)}")


def _check_fields(bundle: Dict[str, Any]) -> None:
    """Do nothing with a description that has all that is used of it; KeyError, TypeError or ValueError otherwise."""
    plain = {"onceforall": str, "space": str, "num_classes": int, "batch": int}
    _check_types(bundle, {**plain, "files": dict, "layers": list, "subnets": list})
    for layer in bundle["layers"]:
        _check_types(layer, {"layer": str, "features": list})
    for subnet in bundle["subnets"]:
        _check_types(subnet, {"file": str, "resolution": int, "weight_bytes": int, "layers": list})
    if not bundle["layers"] or not bundle["subnets"]:
        raise ValueError("it has no layers or no subnets")
    if np.array([layer["features"] for layer in bundle["layers"]], dtype=np.float64).ndim != 2:
        raise ValueError("'features' are no numbers")
    for subnet in bundle["subnets"]:
        if subnet["file"] not in bundle["files"]:
            raise ValueError(f"{subnet['file']!r} is not among its 'files'")
        if not all(number in range(len(bundle["layers"])) for number in subnet["layers"]):
            raise ValueError("'layers' of a subnet are not among its 'layers'")


def _check_types(holder: Dict[str, Any], kinds: Dict[str, Type[Any]]) -> None:
    for name, kind in kinds.items():
        if not isinstance(holder[name], kind):
            raise TypeError(f"{name!r} is no {kind.__name__}")


def _groups(weight_bytes: List[int], rng: Any) -> List[List[int]]:
    """Numbers of the subnets, shuffled, in groups of at most WEIGHT_BYTES_AT_ONCE (or of one)."""
    groups: List[List[int]] = []
    room = 0
    for number in rng.permutation(len(weight_bytes)).tolist():
        if not groups or weight_bytes[number] > room:
            groups.append([])
            room = WEIGHT_BYTES_AT_ONCE
        groups[-1].append(number)
        room -= weight_bytes[number]
    return groups


def _onnxruntime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _cpu_model() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            facts = [line.partition(":") for line in file]
    except OSError:
        facts = []
    for wanted in ("model name", "Hardware", "Model", "CPU part"):  # the last three: ARM boards
        for name, _, value in facts:
            if name.strip() == wanted and value.strip():
                return value.strip()
    return platform.processor() or "unknown"


def _show(done: int, total: int) -> None:
    print(f"\r{done} of {total} rounds", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
