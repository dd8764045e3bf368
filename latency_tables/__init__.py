"""What a subnet costs: latency on a device, MACs, parameters, bytes; and the budgets that limit them.

Names that measure need torch and are imported on first use; everything else needs numpy only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latency_tables.budget import Budget, Limit
from latency_tables.comparison import RowRatio, TableComparison, compare
from latency_tables.correction import Corrected, correct
from latency_tables.costs import (
    COUNTS,
    MACS,
    PARAMS,
    PEAK_MEMORY_BYTES,
    SIZE_BYTES,
    CostModel,
    macs,
    params,
    size_bytes,
)
from latency_tables.coverage import Coverage, ResolutionCoverage
from latency_tables.measured import MeasuredSubnet, read_measured, write_measured
from latency_tables.memory import peak_memory_bytes
from latency_tables.outliers import Outlier, outliers
from latency_tables.space_costs import SpaceCosts
from latency_tables.table import Correction, LatencyTable, Provenance, Row, parse_table

if TYPE_CHECKING:
    from latency_tables.bundle import write_bundle
    from latency_tables.onnx_profiler import measure_onnx_ms
    from latency_tables.profiler import measure_module_ms, profile_space, this_machine
    from latency_tables.whole import SubnetTimer, random_subnets

__all__ = [
    "COUNTS",
    "MACS",
    "PARAMS",
    "PEAK_MEMORY_BYTES",
    "SIZE_BYTES",
    "Budget",
    "Corrected",
    "Correction",
    "CostModel",
    "Coverage",
    "LatencyTable",
    "Limit",
    "MeasuredSubnet",
    "Outlier",
    "Provenance",
    "ResolutionCoverage",
    "Row",
    "RowRatio",
    "SpaceCosts",
    "SubnetTimer",
    "TableComparison",
    "compare",
    "correct",
    "macs",
    "measure_module_ms",
    "measure_onnx_ms",
    "outliers",
    "params",
    "parse_table",
    "peak_memory_bytes",
    "profile_space",
    "random_subnets",
    "read_measured",
    "size_bytes",
    "this_machine",
    "write_bundle",
    "write_measured",
]

_LAZY = {
    "SubnetTimer": "latency_tables.whole",
    "measure_module_ms": "latency_tables.profiler",
    "measure_onnx_ms": "latency_tables.onnx_profiler",
    "profile_space": "latency_tables.profiler",
    "random_subnets": "latency_tables.whole",
    "this_machine": "latency_tables.profiler",
    "write_bundle": "latency_tables.bundle",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
