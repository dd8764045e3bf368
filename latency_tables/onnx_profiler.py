"""Measures latency tables and whole networks on this machine in ONNX Runtime.

A profile here is a bundle for other devices that is measured at once: `latency_tables.measure` says how. The other ways
to rows that were tried, with all their networks and 50 unseen subnets of mobilenet_v3_tiny in the same 8 rounds, each
figure the median over rounds of the quickest of four passes (x86 server, 2 cores, 1 thread, batch 1; twice, while other
work filled both cores: the unseen subnets' own latencies in odd and in even rounds differ by 15 and by 9 %):

| rows                                                                         | median error     | Spearman      |
|------------------------------------------------------------------------------|------------------|---------------|
| each layer a session of its own                                              | 28 and 25 %      | .942 and .946 |
| ONNX Runtime's own profile of 45 covering subnets, node durations            | 135 and 135 %    | .906 and .875 |
| the same, as shares of each subnet's latency without profiling               | 4.2 and 4.6 %    | .940 and .947 |
| the same, less a constant a node that makes each subnet's sum right          | 3.2 and 3.8 %    | .952 and .956 |
| fit to 141 whole subnets, prior: number of layers and MACs                   | 7.1 and 4.7 %    | .890 and .905 |
| fit to 141 whole subnets, prior: all properties (what is done)               | 3.8 and 2.5 %    | .947 and .966 |
| the same, 45 covering subnets alone                                          | 3.1 and 4.2 %    | .939 and .967 |

Profiling makes these subnets 3.8 times slower and resolves microseconds only, and its file must be parsed, node names
that each version of the runtime makes up included: the fit needs neither. In an earlier and quieter run (odd and even
rounds differed by 2.0 %), 45 whole subnets gave 4.2 % and Spearman .981, 135 gave 2.1 % and .984, 345 gave 2.1 % and
.983. The least of all passes instead of the median over rounds was no good there: two halves of it differed by 10 %,
because it finds the rare moments at which the neighbours slept; medians of single passes differed by 8 %.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latency_tables import measure
from latency_tables.arguments import check_arguments
from latency_tables.bundle import write_bundle
from latency_tables.table import LatencyTable, Row
from supernet.errors import TableError
from supernet.network import Network
from supernet.onnx_graph import onnx_model
from supernet.spaces import SearchSpace


def profile_onnx(
    space: SearchSpace,
    *,
    device: str,
    threads: int = 1,
    batch: int = 1,
    repeats: int = 30,
    warmup: int = 3,
    seed: int = 0,
    resolutions: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> LatencyTable:
    """Measure the layers of a space in ONNX Runtime; arguments as of `profile_space`, which calls this."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "bundle"
        write_bundle(space, folder, batch=batch, resolutions=resolutions, seed=seed)
        try:
            document, _ = measure.measure(str(folder), device, threads, repeats, warmup, seed, progress, say)
        except measure.MeasureError as error:
            raise TableError(str(error)) from None
    return LatencyTable.parse(json.dumps(document).encode(), "json")


def measure_onnx_ms(network: Network, *, batch: int = 1, threads: int = 1, repeats: int = 30, warmup: int = 3) -> Row:
    """Measure a whole network in ONNX Runtime as a bundle's are.

    The figure is the median of visits' quickest passes, the spread is of single passes (`measure.typical_ms`).

    Args:
        network: such as an extracted subnet; it is not changed.
        batch: images a forward pass.
        threads: threads inside of an operator.
        repeats: timed visits of `measure.PASSES` runs.
        warmup: visits before them.

    Raises:
        ConfigError: an argument is out of range.
        MissingPackageError: the extra `onnx` is not installed.
    """
    check_arguments(batch=batch, threads=threads, repeats=repeats, warmup=warmup)
    shape = (batch, 3, network.resolution, network.resolution)
    images = np.random.default_rng(0).random(shape, dtype=np.float32)
    session = open_network(network, shape, threads)
    visits = [measure.visit_ms(session, images) for _ in range(warmup + repeats)][warmup:]
    middle, spread = measure.typical_ms(np.array(visits))
    return Row(round(float(middle), 6), round(float(spread), 6), len(visits))


def open_network(network: Network, input_shape: Sequence[int], threads: int) -> Any:
    """An ONNX Runtime session of a whole network.

    Args:
        network: such as an extracted subnet; it is not changed.
        input_shape: (batch, channels, height, width).
        threads: threads inside of an operator.

    Raises:
        MissingPackageError: the extra `onnx` is not installed.
    """
    model = onnx_model(network.named_children(), input_shape=tuple(input_shape))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "network.onnx"
        path.write_bytes(model.SerializeToString())
        return measure.open_session(str(path), threads)
