"""A database of every released schema comes up to date with its rows, and its jobs go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from service.domain import JobState
from service.storage import devices, jobs, pruning_runs, staging, subnets, supernets, uses
from service.storage.database import MIGRATIONS, Database
from service.storage.models import UseRow

DIGEST = "a" * 64
FILE = {"name": "x", "sha256": DIGEST, "size_bytes": 1}
ROWS: dict[str, dict[str, Any]] = {
    "supernets": {
        "id": DIGEST,
        "name": "noise",
        "space": "mobilenet_v3_tiny",
        "num_classes": 10,
        "manifest": {"a": 1},
        "predictor_digest": DIGEST,
        "files": {"manifest.json": FILE},
        "created_at": "2026-01-01",
    },
    "devices": {
        "name": "bench",
        "hardware": "h",
        "runtime": "r",
        "precision": "fp32",
        "threads": 1,
        "batch": 1,
        "created_at": "2026-01-01",
    },
    "subnet_requests": {
        "id": DIGEST,
        "spec": {
            "supernet": DIGEST,
            "budget": [],
            "tables": {"bench": DIGEST},
            "seed": 0,
            "search": {"population": 1, "generations": 1},
        },
        "subnet_id": DIGEST,
        "created_at": "2026-01-01",
        "formats": [],
    },
    "subnets": {
        "id": DIGEST,
        "request_id": DIGEST,
        "supernet_id": DIGEST,
        "space": "mobilenet_v3_tiny",
        "config": {},
        "config_digest": DIGEST,
        "predicted_accuracy": 0.5,
        "accuracy": 0.5,
        "macs": 7,
        "params": 8,
        "card": {},
        "files": {"config": FILE},
        "created_at": "2026-01-01",
    },
    "subnet_latencies": {
        "subnet_id": DIGEST,
        "device": "bench",
        "predicted_ms": 1.5,
        "measured_ms": None,
        "created_at": "2026-01-01",
        "accuracy": 0.5,
        "predicted_accuracy": 0.5,
        "macs": 7,
        "params": 8,
        "supernet_id": DIGEST,
    },
    "jobs": {
        "id": DIGEST,
        "kind": "make_subnet",
        "payload": {"request": DIGEST},
        "state": "running",
        "stage": "searching",
        "fraction": 0.3,
        "attempts": 1,
        "result": None,
        "error": None,
        "created_at": "2026-01-01",
        "updated_at": "2026-01-01",
    },
}

USES = {(f"table {DIGEST}", f"request {DIGEST}"), (DIGEST, f"subnet {DIGEST}"), (DIGEST, f"supernet {DIGEST}")}


def revisions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("revision", revisions())
def test_a_database_of_an_older_schema_comes_up_to_date_with_its_rows(
    tmp_path: Path, revision: str, kind: str, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'x.sqlite'}" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        metadata = sa.MetaData()
        metadata.reflect(connection)
        for name, values in ROWS.items():
            table = metadata.tables[name]  # which may lack columns that came later
            connection.execute(table.insert(), {key: value for key, value in values.items() if key in table.columns})
        if "uses" in metadata.tables:  # as a version that has it writes it; an older schema's rows are read for it
            uses_table = metadata.tables["uses"]
            connection.execute(uses_table.insert(), [{"needed": needed, "owner": owner} for needed, owner in USES])
    database.migrate()
    with database.session() as session:
        assert supernets.get(session, "noise").files["manifest.json"].sha256 == DIGEST  # type: ignore[union-attr]
        assert devices.get_device(session, "bench").threads == 1  # type: ignore[union-attr]
        subnet = subnets.get_subnet(session, DIGEST)
        assert subnet is not None
        assert (subnet.macs, subnet.params, subnet.latencies["bench"].predicted_ms) == (7, 8, 1.5)
        assert subnets.get_request(session, DIGEST).subnet_id == DIGEST  # type: ignore[union-attr]
        assert uses.files(session) == staging.named(session) == {DIGEST}
        assert uses.prices(session, DIGEST)
        assert {tuple(row) for row in session.execute(sa.select(UseRow.needed, UseRow.owner))} == USES
        job = jobs.get(session, DIGEST)
        assert job is not None
        assert (job.state, job.attempts) == (JobState.RUNNING, 1)
        assert jobs.waiting(session, 10) == [(DIGEST, 0)]  # so the first host to start queues it again
        assert jobs.submit_again(session, DIGEST, 0) == 1
    with database.session() as session:
        session.execute(sa.text("update subnets set macs = 5000000000, predicted_accuracy = null"))
        session.execute(sa.text("update subnet_latencies set predicted_accuracy = null"))
        changed = subnets.get_subnet(session, DIGEST)
        assert changed is not None
        assert (changed.macs, changed.pruned) == (5_000_000_000, True)
        assert pruning_runs.page(session, 10, None).items == ()
    database.close()
