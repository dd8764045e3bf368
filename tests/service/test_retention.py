"""What the limits do not keep goes, and nothing else: not what two rows share, not what is young or on its way."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from servers import new_database
from small_service import small_settings
from sqlalchemy import select, update
from typer.testing import CliRunner

from service import exports, retention
from service.cli import app
from service.domain import Latency, StoredFile, SubnetRecord, SubnetRequest, SubnetSpec, digest_of, utc_now
from service.jobs import host
from service.retention import Cleaning, Limits, clean, parse_age, parse_size, take_stock
from service.settings import Settings
from service.storage import jobs, keys, staging, subnets, uses
from service.storage import retention as retention_rows
from service.storage.artifacts import ArtifactStore, open_artifacts
from service.storage.database import Database
from service.storage.jobs import Run
from service.storage.models import ExecutorRow, JobOwnerRow, JobRow, SubnetRow
from supernet.errors import ConfigError

Stores = tuple[Database, ArtifactStore]
NOTHING = Cleaning(0, 0, 0, 0, 0)


@pytest.fixture(params=["sqlite and a folder", "postgresql and a bucket"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    if request.param.startswith("sqlite"):
        settings = small_settings(tmp_path / "data")
        (tmp_path / "data").mkdir()
    else:
        database_url = new_database(request.getfixturevalue("postgres_server"))
        settings = small_settings(
            tmp_path / "data", database_url=database_url, artifact_url=request.getfixturevalue("s3_url")
        )
    database = Database(settings.resolved_database_url)
    database.migrate()
    yield database, open_artifacts(settings.resolved_artifact_url)
    database.close()


def stored_subnet(stores: Stores, name: str, *, days_old: float, content: bytes | None = None) -> SubnetRecord:
    """A finished subnet of three files, with its request and its job; `content` is that of its weights."""
    database, artifacts = stores
    spec = SubnetSpec(name, (), {}, 0, 10, 10)
    contents = {
        "safetensors": content or name.encode() * 100,
        "config": f"config of {name}".encode(),
        "card": b"a card",
    }
    digests = {format: StoredFile(format, *_digest(data)) for format, data in contents.items()}
    ticket = staging.note(database, [file.sha256 for file in digests.values()], process="test")
    for format, data in contents.items():
        artifacts.put_bytes(data, name=format)
    created_at = (datetime.now(UTC) - timedelta(days=days_old)).isoformat(timespec="microseconds")
    record = SubnetRecord(
        digest_of(name), spec.digest, name, "x", {}, "0" * 64, 0.5, 0.5, 1, 1, {"d": Latency(1.0, None)}, {}, digests,
        created_at,
    )  # fmt: skip
    with database.session() as session:
        subnets.add_request(session, SubnetRequest(spec.digest, spec, None, created_at))
        jobs.put(session, spec.digest, "make_subnet", {})
        jobs.claim(session, Run(spec.digest, 1, "host"), most_attempts=3, reason="")
        subnets.add_subnet(session, record)
        jobs.succeed(session, Run(spec.digest, 1, "host"), {"subnet": record.id})
        staging.settle(session, ticket)
        for job_id in exports.job_ids(record.id):
            jobs.put(session, job_id, exports.EXPORT_SUBNET, {"subnet": record.id})
            jobs.claim(session, Run(job_id, 1, "host"), most_attempts=3, reason="")
            jobs.succeed(session, Run(job_id, 1, "host"), {"subnet": record.id})
    return record


def _digest(data: bytes) -> tuple[str, int]:
    import hashlib

    return hashlib.sha256(data).hexdigest(), len(data)


def names(stores: Stores) -> set[str]:
    with stores[0].session() as session:
        return {record.supernet_id for record in subnets.subnet_page(session, 100, None).items}


def digests_of(*records: SubnetRecord) -> set[str]:
    return {file.sha256 for record in records for file in record.files.values()}


def test_by_default_everything_stays(stores: Stores) -> None:
    old = stored_subnet(stores, "old", days_old=4000)
    assert clean(*stores, Limits.of(Settings(data_dir="x"))) == NOTHING
    assert set(stores[1].digests()) == digests_of(old)


def test_older_subnets_go_with_request_job_and_files_and_what_is_shared_stays(stores: Stores) -> None:
    old = stored_subnet(stores, "old", days_old=91, content=b"the same weights")
    twin = stored_subnet(stores, "twin", days_old=89, content=b"the same weights")
    young = stored_subnet(stores, "young", days_old=1)
    limits = Limits(age=parse_age("90d"))
    size = sum(file.size_bytes for file in old.files.values())
    assert clean(*stores, limits, dry_run=True) == Cleaning(1, size, 0, 0, 0)
    assert names(stores) == {"old", "twin", "young"}
    assert clean(*stores, limits) == Cleaning(1, size, 0, 0, 0)
    assert names(stores) == {"twin", "young"}
    assert set(stores[1].digests()) == digests_of(twin, young)  # only old's own config file is gone
    assert old.files["safetensors"].sha256 in digests_of(twin)
    database = stores[0]
    with database.session() as session:
        assert subnets.get_request(session, old.request_id) is None
        assert jobs.get(session, old.request_id) is None
        assert jobs.put(session, old.request_id, "make_subnet", {}) == 1  # asked for again, it is made anew
        assert [jobs.get(session, job_id) for job_id in exports.job_ids(old.id)] == [None] * 3
        assert jobs.get(session, exports.job_ids(twin.id)[0]) is not None
    assert clean(*stores, limits) == NOTHING
    stock = take_stock(*stores, read=True)
    assert (stock.missing, stock.altered, stock.orphans) == ((), (), ())
    clean(*stores, Limits(age=timedelta(days=30)))
    assert set(stores[1].digests()) == digests_of(young)


def test_the_oldest_go_until_the_rest_fits_and_the_young_stay_whatever_the_limit(stores: Stores) -> None:
    records = [stored_subnet(stores, name, days_old=days) for name, days in (("a", 3), ("b", 2), ("c", 1))]
    fresh = stored_subnet(stores, "fresh", days_old=0)
    sizes = [sum(file.size_bytes for file in record.files.values()) for record in (*records, fresh)]
    assert clean(*stores, Limits(size_bytes=sum(sizes))) == NOTHING
    assert clean(*stores, Limits(size_bytes=sum(sizes) - 1)) == Cleaning(1, sizes[0], 0, 0, 0)
    assert names(stores) == {"b", "c", "fresh"}
    assert clean(*stores, Limits(size_bytes=0)) == Cleaning(2, sizes[1] + sizes[2], 0, 0, 0)
    assert names(stores) == {"fresh"}
    assert clean(*stores, Limits(age=timedelta(0), size_bytes=0)) == NOTHING


def test_a_subnet_whose_request_is_at_work_stays(stores: Stores) -> None:
    record = stored_subnet(stores, "busy", days_old=10)
    with stores[0].session() as session:
        row = session.get_one(SubnetRow, record.id)
        assert row.stored_files == 3
        session.execute(jobs.update(jobs.JobRow).values(state="running"))
    assert clean(*stores, Limits(age=timedelta(days=1))) == NOTHING
    assert names(stores) == {"busy"}


def test_files_without_rows_go_when_they_are_older_than_any_upload(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, artifacts = stores
    kept = stored_subnet(stores, "kept", days_old=1)
    lost = artifacts.put_bytes(b"nobody names this", name="x")
    coming = artifacts.put_bytes(b"somebody will", name="y")
    staging.note(database, [coming.sha256], process="writer")
    limits = Limits(orphan_age=timedelta(hours=24))
    assert clean(*stores, limits) == NOTHING  # too young
    assert take_stock(*stores).orphans == (lost.sha256,)
    in_two_days(monkeypatch)
    assert clean(*stores, limits, dry_run=True) == Cleaning(0, 0, 1, lost.size_bytes, 0)
    assert clean(*stores, limits) == Cleaning(0, 0, 1, lost.size_bytes, 0)
    assert set(artifacts.digests()) == digests_of(kept) | {coming.sha256}
    with pytest.raises(ConfigError, match=r"may be on its way for 1 h; allowed: an age of at least that, not 0:30:00"):
        clean(*stores, Limits(orphan_age=timedelta(minutes=30)))


def in_two_days(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + timedelta(days=2)

    monkeypatch.setattr(retention, "datetime", Later)


def test_a_file_that_is_announced_while_orphans_are_removed_is_there_when_its_row_is(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers store what the cleaning is about to remove, all the time; no row ever names a file that is gone."""
    database, artifacts = stores
    contents = [f"content {number}".encode() for number in range(6)]
    for content in contents:
        artifacts.put_bytes(content, name="x")
    in_two_days(monkeypatch)
    # two days on, what a writer has under way looks like what a killed one left
    monkeypatch.setattr(artifacts, "remove_unfinished", lambda before, *, dry_run: 0)
    ended, failed, made = threading.Event(), [], []

    def write() -> None:
        try:
            while not ended.is_set():
                made.append(stored_subnet(stores, f"subnet-{len(made)}", days_old=0, content=contents[len(made) % 6]))
        except Exception as error:
            failed.append(error)

    def remove() -> None:
        try:
            while not ended.is_set():
                clean(*stores, Limits(orphan_age=timedelta(hours=1)))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write), threading.Thread(target=remove)]
    for thread in threads:
        thread.start()
    for _ in range(600):
        if len(made) >= 12 or failed:
            break
        time.sleep(0.1)
    ended.set()
    for thread in threads:
        thread.join(timeout=60)
    assert failed == []
    assert len(made) >= 12
    stock = take_stock(database, artifacts, read=True)
    assert (stock.missing, stock.altered) == ((), ())


def test_what_is_missing_or_altered_is_reported_with_its_owner(tmp_path: Path) -> None:
    settings = small_settings(tmp_path / "data")
    (tmp_path / "data").mkdir()
    database = Database(settings.resolved_database_url)
    database.migrate()
    stores = database, open_artifacts(settings.resolved_artifact_url)
    record = stored_subnet(stores, "s", days_old=1)
    runner, arguments = CliRunner(), ["--data-dir", str(tmp_path / "data")]
    fine = runner.invoke(app, ["storage", "check", "--read", *arguments])
    assert fine.exit_code == 0
    assert "3 files, 0.0 MB; missing: 0; altered: 0; without a row: 0" in fine.stdout
    gone, altered = record.files["safetensors"].sha256, record.files["config"].sha256
    stores[1].delete(gone)
    (tmp_path / "data" / "artifacts" / "sha256" / altered[:2] / altered).write_bytes(b"other")
    found = runner.invoke(app, ["storage", "check", "--read", *arguments])
    assert found.exit_code == 1
    assert (
        f"missing: {gone} of subnet {record.id}, safetensors; bring it back with: onceforall storage repair BACKUP"
        in found.stdout
    )
    assert f"altered: {altered}; bring it back with: onceforall storage repair BACKUP" in found.stdout
    with database.session() as session:
        assert retention_rows.owners(session).keys() == staging.in_use(session) == uses.files(session)
    document = json.loads(runner.invoke(app, ["storage", "check", "--json", *arguments]).stdout)
    assert (document["missing"], document["altered"]) == ([[gone, f"subnet {record.id}, safetensors"]], None)
    database.close()


def test_what_a_killed_writer_left_half_written_goes_when_it_is_old(tmp_path: Path) -> None:
    artifacts = open_artifacts((tmp_path / "store").as_uri())
    whole = artifacts.put_bytes(b"whole", name="x")
    half = tmp_path / "store" / "sha256" / whole.sha256[:2] / f"{'a' * 64}#1"
    half.write_bytes(b"ha")
    assert set(artifacts.digests()) == {whole.sha256}
    before = datetime.now(UTC) - timedelta(hours=1)
    assert artifacts.remove_unfinished(before) == 0
    os.utime(half, (0, 0))
    assert artifacts.remove_unfinished(before, dry_run=True) == 1
    assert artifacts.remove_unfinished(before) == 1
    assert not half.exists()
    assert artifacts.has(whole.sha256)


def test_the_clean_command_takes_its_limits_from_arguments_or_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(tmp_path / "data")
    (tmp_path / "data").mkdir()
    database = Database(settings.resolved_database_url)
    database.migrate()
    stores = database, open_artifacts(settings.resolved_artifact_url)
    for name, days in (("a", 100), ("b", 50), ("c", 5)):
        stored_subnet(stores, name, days_old=days)
    runner, arguments = CliRunner(), ["--data-dir", str(tmp_path / "data")]
    said = runner.invoke(app, ["storage", "clean", "--older-than", "90d", "--dry-run", *arguments])
    assert "would remove: 1 subnets (0.0 MB), 0 files without a row (0.0 MB), 0 unfinished files" in said.stdout
    done = runner.invoke(app, ["storage", "clean", "--older-than", "90d", "--json", *arguments])
    assert json.loads(done.stdout) == {
        "subnets": 1, "subnet_bytes": 117, "orphans": 0, "orphan_bytes": 0, "unfinished": 0, "dry_run": False,
    }  # fmt: skip
    monkeypatch.setenv("ONCEFORALL_RETAIN_DAYS", "30")
    assert "removed: 1 subnets" in runner.invoke(app, ["storage", "clean", *arguments]).stdout
    monkeypatch.delenv("ONCEFORALL_RETAIN_DAYS")
    assert "removed: 1 subnets" in runner.invoke(app, ["storage", "clean", "--max-bytes", "10B", *arguments]).stdout
    assert names(stores) == set()
    database.close()


def test_a_command_on_a_folder_without_a_service_makes_nothing_in_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["storage", "check", "--data-dir", str(tmp_path / "none")])
    assert "unable to open database file" in str(result.exception)
    assert not (tmp_path / "none").exists()


def test_a_host_of_jobs_keeps_to_the_limits_of_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Limits] = []
    monkeypatch.setattr(host.retention, "clean", lambda _database, _artifacts, limits: asked.append(limits))
    (tmp_path / "data").mkdir()
    for values in ({}, {"retain_days": 1.5, "max_store_bytes": 10}):
        settings = small_settings(tmp_path / "data", job_workers=0, **values)
        database = Database(settings.resolved_database_url)
        database.migrate()
        host.queue.migrate(database)
        database.close()
        worker = host.JobHost(settings)
        worker._tidy()
        for children in worker._children:
            children.close()
        worker._database.close()
    assert asked == [Limits(timedelta(days=1.5), 10)]


def test_a_host_whose_tidying_takes_long_goes_on_giving_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tidying, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        tidying.set()
        go_on.wait(60)

    monkeypatch.setattr(host.retention, "clean", slow)
    monkeypatch.setattr(host.queue, "BEAT_S", 0.05)
    (tmp_path / "data").mkdir()
    settings = small_settings(tmp_path / "data", job_workers=0, retain_days=1.0)
    database = Database(settings.resolved_database_url)
    database.migrate()
    host.queue.migrate(database)
    worker = host.JobHost(settings)

    def beats() -> float | None:
        with database.session() as session:
            return session.scalar(select(ExecutorRow.beat_at))

    try:
        worker._keep_going()
        assert tidying.wait(60)
        for _ in range(3):
            before, deadline = beats(), time.monotonic() + 60
            while beats() == before:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    finally:
        go_on.set()
        worker._come_to_rest()
        for children in worker._children:
            children.close()
        worker._database.close()
        database.close()


def test_with_an_age_limit_what_came_to_nothing_and_ended_jobs_are_forgotten(stores: Stores) -> None:
    database = stores[0]
    kept = stored_subnet(stores, "kept", days_old=1)
    long_ago = (datetime.now(UTC) - timedelta(days=40)).isoformat(timespec="microseconds")
    spec = SubnetSpec("vain", (), {"bench": "t" * 64}, 0, 10, 10)
    jobs_of = {"failed": (spec.digest, "make_subnet"), "cancelled": ("c", "find_front"), "succeeded": ("s", "export")}
    with database.session() as session:
        subnets.add_request(session, SubnetRequest(spec.digest, spec, None, long_ago))
        for state, (job_id, kind) in jobs_of.items():
            jobs.put(session, job_id, kind, {})
            keys.own_job(session, job_id, "somebody")
            session.execute(
                update(JobRow).where(JobRow.id == job_id).values(state=state, updated_at=long_ago, created_at=long_ago)
            )
        jobs.put(session, "waits", "find_front", {})
        session.execute(update(JobRow).where(JobRow.id == "waits").values(updated_at=long_ago))
        session.execute(update(JobRow).where(JobRow.id == kept.request_id).values(updated_at=long_ago))
        assert uses.prices(session, "t" * 64)
    clean(*stores, Limits(age=timedelta(days=60)))
    with database.session() as session:
        assert all(jobs.get(session, job_id) for job_id, _ in jobs_of.values())
    clean(*stores, Limits(age=timedelta(days=30)))
    with database.session() as session:
        assert [jobs.get(session, job_id) for job_id, _ in jobs_of.values()] == [None] * 3
        assert subnets.get_request(session, spec.digest) is None
        assert not uses.prices(session, "t" * 64)
        assert list(session.scalars(select(JobOwnerRow.job_id))) == []
        assert jobs.get(session, "waits") is not None  # it still waits
        assert jobs.get(session, kept.request_id) is not None  # it goes with its subnet
    assert names(stores) == {"kept"}


@pytest.mark.parametrize(
    ("text", "value"), [("90d", timedelta(days=90)), ("36h", timedelta(hours=36)), ("2w", timedelta(days=14))]
)
def test_ages_are_read_with_their_units(text: str, value: timedelta) -> None:
    assert parse_age(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("10B", 10), ("5kB", 5000), ("3MB", 3_000_000), ("20GiB", 20 << 30), ("1T", 10**12)]
)
def test_sizes_are_read_with_their_units(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "d", "90", "-1d", "1.5d", "1y", "9999999d"])
def test_other_ages_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed: a whole number and m, h, d or w"):
        parse_age(text)


@pytest.mark.parametrize("text", ["", "GB", "-1", "1.5GB", "1XB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed: a whole number, and B, kB"):
        parse_size(text)


def test_now_is_what_the_rows_call_now() -> None:
    assert abs(datetime.fromisoformat(utc_now()) - datetime.now(UTC)) < timedelta(seconds=60)
