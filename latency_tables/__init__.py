"""What a subnet costs: latency on a device, MACs, parameters, bytes; and the budgets that limit them.

Names that measure need torch and are imported on first use; everything else needs numpy only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latency_tables.budget import Budget, Limit
from latency_tables.costs import MACS, PARAMS, SIZE_BYTES, CostModel, macs, params, size_bytes
from latency_tables.memory import peak_memory_bytes
from latency_tables.outliers import Outlier, outliers
from latency_tables.space_costs import SpaceCosts
from latency_tables.table import Coverage, LatencyTable, Provenance, Row, parse_table

if TYPE_CHECKING:
    from latency_tables.profiler import measure_module_ms, profile_space, this_machine

__all__ = [
    "MACS",
    "PARAMS",
    "SIZE_BYTES",
    "Budget",
    "CostModel",
    "Coverage",
    "LatencyTable",
    "Limit",
    "Outlier",
    "Provenance",
    "Row",
    "SpaceCosts",
    "macs",
    "measure_module_ms",
    "outliers",
    "params",
    "parse_table",
    "peak_memory_bytes",
    "profile_space",
    "size_bytes",
    "this_machine",
]

_PROFILER = ("measure_module_ms", "profile_space", "this_machine")


def __getattr__(name: str) -> Any:
    if name in _PROFILER:
        return getattr(import_module("latency_tables.profiler"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
