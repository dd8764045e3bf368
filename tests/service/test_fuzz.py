from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.service_schemathesis import fuzz


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_schemathesis_finds_no_fault_and_no_5xx(tmp_path: Path, database: str, request: pytest.FixtureRequest) -> None:
    """A short run; benchmarks/service_schemathesis.py makes a long one."""
    places = {} if database == "sqlite" else {"database_url": request.getfixturevalue("postgres_url")}
    found = fuzz(tmp_path, max_examples=2, seed=1, paths="", **places)
    assert found["status"] == 0, found["runs"]
    assert sum(found["answers"].values()) > 500
    assert not [status for status in found["answers"] if status.startswith("5")]
