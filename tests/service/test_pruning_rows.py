"""What the storage knows of pruning runs: their weights are named, kept, forgotten and backed up like other files."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from small_service import small_settings
from sqlalchemy import update

from service import backup, pruning_data
from service.domain import Latency, StoredFile, SubnetRecord, digest_of
from service.pruning_spec import (
    PRUNE_NETWORK,
    Architecture,
    PruningRun,
    PruningSpec,
    StoredSubnet,
    SupernetConfig,
)
from service.retention import Limits, clean, take_stock
from service.storage import figures, jobs, pruning_runs, staging, subnets
from service.storage.artifacts import ArtifactStore, open_artifacts
from service.storage.database import Database
from service.storage.jobs import Run
from service.storage.models import JobRow
from supernet.errors import ConfigError

DAY = timedelta(days=1)


@pytest.fixture
def database(either_database: Database) -> Database:
    return either_database


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return open_artifacts((tmp_path / "artifacts").as_uri())


def some_spec(name: str = "resnet18", weights: str | None = None) -> PruningSpec:
    source = Architecture(name, 10, 32, weights)
    limits = ({"metric": "macs", "device": None, "max": 0.5, "relative": True},)
    return PruningSpec("oto", source, "digits", None, limits, None, 1, 64, 0.05, 0, {})


def days_ago(days: float) -> str:
    return (datetime.now(UTC) - days * DAY).isoformat(timespec="microseconds")


def stored_run(database: Database, artifacts: ArtifactStore, spec: PruningSpec, *, days_old: float) -> PruningRun:
    """A run as asking leaves it, with weights of its own."""
    weights = artifacts.put_bytes(b"weights of " + spec.source_name.encode(), name="weights.safetensors")
    run = PruningRun(spec.digest, spec, None, weights, days_ago(days_old))
    with database.session() as session:
        pruning_runs.add(session, run)
        jobs.put(session, run.id, PRUNE_NETWORK, {"request": run.id})
    return run


def finished(database: Database, artifacts: ArtifactStore, run: PruningRun) -> SubnetRecord:
    """The run's pruned network, made by its job."""
    file = artifacts.put_bytes(b"pruned " + run.id.encode(), name="weights.safetensors")
    record = SubnetRecord(
        digest_of({"pruned": run.id}), run.id, "", "", {"resolution": 32}, "0" * 64, None, 0.5, 7, 8,
        {"cpu": Latency(1.0, None)}, {}, {"safetensors": file}, run.created_at,
    )  # fmt: skip
    with database.session() as session:
        jobs.claim(session, Run(run.id, 1, "host"), most_attempts=3, reason="")
        subnets.add_subnet(session, record)
        jobs.succeed(session, Run(run.id, 1, "host"), {"subnet": record.id})
    return record


@pytest.mark.parametrize(
    "source", [Architecture("resnet18", 10, 32, None), StoredSubnet("a"), SupernetConfig("b", {"space": "x"})]
)
def test_a_spec_survives_being_written_and_equal_specs_are_equal(source: Architecture) -> None:
    spec = replace(some_spec(), source=source, latencies={"device": "cpu"}, options={"blocks": 2})
    again = PruningSpec.from_dict(spec.to_dict())
    assert (again, again.digest) == (spec, spec.digest)
    assert replace(spec, seed=1).digest != spec.digest


def test_a_run_is_no_subnet_request_and_its_network_answers_it(database: Database, artifacts: ArtifactStore) -> None:
    run = stored_run(database, artifacts, some_spec(), days_old=0)
    record = finished(database, artifacts, run)
    with database.session() as session:
        assert pruning_runs.get(session, run.id) == replace(run, subnet_id=record.id)
        assert subnets.get_request(session, run.id) is None
        assert subnets.get_subnet(session, record.id) == record
        for device in (None, "cpu"):
            for sort in ("-created_at", "accuracy", "-macs"):
                assert subnets.subnet_ids(session, 1, None, sort=sort, device=device).items == (record.id,)
            assert subnets.subnet_ids(session, 1, None, sort="-predicted_accuracy", device=device).items == ()
            assert subnets.subnet_ids(session, 1, None, device=device, pruned=False).items == ()
        found = pruning_runs.page(session, 1, None, method="oto", source="resnet18")
        assert [each.id for each in found.items] == [run.id]
        assert pruning_runs.page(session, 1, None, source="alexnet").items == ()


def test_pages_of_runs_have_every_run_once_newest_first(database: Database, artifacts: ArtifactStore) -> None:
    made = [stored_run(database, artifacts, some_spec(f"net{days}"), days_old=days).id for days in range(5)]
    seen: list[str] = []
    cursor = None
    with database.session() as session:
        while True:
            page = pruning_runs.page(session, 2, cursor)
            seen += [run.id for run in page.items]
            if (cursor := page.next_cursor) is None:
                break
    assert seen == made


def test_uploaded_weights_are_named_until_the_run_is_forgotten(database: Database, artifacts: ArtifactStore) -> None:
    run = stored_run(database, artifacts, some_spec(), days_old=10)
    record = finished(database, artifacts, run)
    assert run.weights is not None
    files = {run.weights.sha256, record.files["safetensors"].sha256}
    with database.session() as session:
        assert staging.named(session) == files
        assert figures.usage(session)["pruning_runs"] == figures.Usage(1, run.weights.size_bytes)
    stock = take_stock(database, artifacts, read=True)
    assert (stock.missing, stock.orphans) == ((), ())
    artifacts.delete(run.weights.sha256)
    assert take_stock(database, artifacts).missing == ((run.weights.sha256, f"pruning run {run.id}, its weights"),)
    artifacts.put_bytes(b"weights of resnet18", name="x")
    assert clean(database, artifacts, Limits(age=DAY)).subnets == 1
    assert set(artifacts.digests()) == set()
    with database.session() as session:
        assert pruning_runs.get(session, run.id) is None
        assert jobs.get(session, run.id) is None


def test_a_run_that_came_to_nothing_goes_with_its_weights_and_an_active_one_stays(
    database: Database, artifacts: ArtifactStore
) -> None:
    failed, waits, young = (
        stored_run(database, artifacts, some_spec(name), days_old=days)
        for name, days in (("failed", 10), ("waits", 10), ("young", 0))
    )
    with database.session() as session:
        for run in (failed, young):
            jobs.cancel(session, run.id)
    clean(database, artifacts, Limits(age=DAY))
    assert len(set(artifacts.digests())) == 3  # it was cancelled just now
    with database.session() as session:
        long_ago = (datetime.now(UTC) - 5 * DAY).isoformat(timespec="microseconds")
        session.execute(update(JobRow).where(JobRow.id == failed.id).values(updated_at=long_ago))
    clean(database, artifacts, Limits(age=DAY), dry_run=True)
    assert len(set(artifacts.digests())) == 3
    clean(database, artifacts, Limits(age=DAY))
    with database.session() as session:
        left = {run.id for run in pruning_runs.page(session, 10, None).items}
        assert left == {waits.id, young.id}
        assert jobs.get(session, failed.id) is None
    assert len(set(artifacts.digests())) == 2


def test_what_an_active_run_prunes_stays(database: Database, artifacts: ArtifactStore) -> None:
    old = stored_run(database, artifacts, some_spec(), days_old=10)
    record = finished(database, artifacts, old)
    with database.session() as session:
        assert pruning_runs.read_by_active(session) == set()
    active = stored_run(database, artifacts, replace(some_spec(), source=StoredSubnet(record.id)), days_old=0)
    with database.session() as session:
        assert record.id in pruning_runs.read_by_active(session)
    assert clean(database, artifacts, Limits(age=DAY)).subnets == 0
    with database.session() as session:
        jobs.cancel(session, active.id)
    assert clean(database, artifacts, Limits(age=DAY)).subnets == 1


def test_a_backup_holds_the_weights(tmp_path: Path) -> None:
    settings = small_settings(tmp_path / "data")
    settings.data_dir.mkdir()
    database = Database(settings.resolved_database_url)
    database.migrate()
    run = stored_run(database, open_artifacts(settings.resolved_artifact_url), some_spec(), days_old=0)
    database.close()
    assert backup.backup(settings, tmp_path / "copy").files == 1
    restored = small_settings(tmp_path / "new")
    backup.restore(restored, tmp_path / "copy")
    assert isinstance(run.weights, StoredFile)
    assert open_artifacts(restored.resolved_artifact_url).read(run.weights.sha256) == b"weights of resnet18"


def test_a_data_set_is_one_that_the_operator_put_into_the_folder_or_a_built_in_one(tmp_path: Path) -> None:
    for name in ("flowers/train/rose", "flowers/train/tulip", "flowers/val/rose", "birds/a", "birds/b", "birds/c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "Not A Name").mkdir()
    (tmp_path / pruning_data.RUN_IMAGES).mkdir()
    assert pruning_data.available(None) == ("digits",)
    assert pruning_data.available(tmp_path / "absent") == ("digits",)
    assert pruning_data.available(tmp_path) == ("digits", "birds", "flowers")
    counts = {name: pruning_data.class_count(name, tmp_path) for name in ("digits", "birds", "flowers", "run-images")}
    assert counts == {"digits": 10, "birds": 3, "flowers": 2, "run-images": None}
    with pytest.raises(ConfigError, match=r"unknown data set 'cats'; allowed: digits, birds, flowers, run-images"):
        pruning_data.load("cats", tmp_path, 8)
    known = {"data": {"name": "birds"}}
    assert pruning_data.of_supernet(known, tmp_path) == "birds"
    assert pruning_data.of_supernet(known, None) == pruning_data.RUN_IMAGES
