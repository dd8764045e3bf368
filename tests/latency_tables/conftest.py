"""A small real latency table, from a formula instead of a clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from latency_tables import LatencyTable, Provenance, Row, macs
from supernet import get_space
from supernet.spaces import SearchSpace


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def space() -> SearchSpace:
    return get_space("mobilenet_v3_tiny")


@pytest.fixture
def provenance() -> Provenance:
    return Provenance(
        hardware={"cpu": "formula", "cores": 2},
        runtime="torch-eager",
        runtime_versions={"torch": "2.14.0"},
        precision="fp32",
        memory_format="channels_last",
        threads=1,
        batch=1,
        date="2026-11-21",
        repeats=30,
        warmup=3,
    )


@pytest.fixture
def table(space: SearchSpace, provenance: Provenance) -> LatencyTable:
    """0.01 ms a layer and 1 ms a million MACs."""
    rows = {spec.key: Row(0.01 + macs([spec]) / 1e6, 0.001, 60) for spec in space.all_layers()}
    return LatencyTable("pixel6", space.name, space.num_classes, rows, provenance)
