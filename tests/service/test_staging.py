"""Files come and go without orphans, and without keeping others from storing theirs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from small_service import small_settings
from sqlalchemy import event

from service.domain import Device, FrontRecord, FrontSpec, StoredFile, SupernetRecord, TableRecord, utc_now
from service.errors import ConflictError, LateError
from service.server import prepare
from service.storage import devices, executors, fronts, retention, staging, supernets, uses
from service.storage.artifacts import ArtifactStore, open_artifacts
from service.storage.database import Database
from supernet.errors import StorageError

Stores = tuple[Database, ArtifactStore]
WAIT_S = 60.0


@pytest.fixture
def stores(either_database: Database, tmp_path: Path) -> Stores:
    return either_database, open_artifacts((tmp_path / "store").as_uri())


def stored(stores: Stores, content: bytes, process: str = "writer") -> tuple[str, StoredFile]:
    """A file that was noted and stored, and no row names yet."""
    file = StoredFile("x", *_digest(content))
    ticket = staging.note(stores[0], [file.sha256], process=process)
    return ticket, stores[1].put_bytes(content, name="x")


def _digest(content: bytes) -> tuple[str, int]:
    import hashlib

    return hashlib.sha256(content).hexdigest(), len(content)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_files_that_were_stored_after_their_notes_were_swept_go(stores: Stores) -> None:
    database, artifacts = stores
    content = b"stored too late"
    sha256 = _digest(content)[0]
    ticket = staging.note(database, [sha256], process="stalled")
    assert staging.sweep(database, artifacts, processes=["stalled"]) == 1
    artifacts.put_bytes(content, name="x")
    with pytest.raises(LateError, match="stored so slowly that their space was freed meanwhile; try again"):
        staging.enter(database, artifacts, ticket, [sha256], lambda _session: True)
    assert list(artifacts.digests()) == []


def test_files_whose_row_is_refused_or_there_already_go_at_once(stores: Stores) -> None:
    database, artifacts = stores

    def refuse(_session: object) -> bool:
        raise ConflictError("the name is taken")

    ticket, file = stored(stores, b"refused")
    with pytest.raises(ConflictError, match="the name is taken"):
        staging.enter(database, artifacts, ticket, [file.sha256], refuse)
    ticket, file = stored(stores, b"there already")
    assert not staging.enter(database, artifacts, ticket, [file.sha256], lambda _session: False)
    assert list(artifacts.digests()) == []
    with database.session() as session:
        assert staging.in_use(session) == set()


def test_a_slow_removal_keeps_nobody_from_storing_but_who_wants_the_same_file(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, artifacts = stores
    stored(stores, b"goes and comes", process="dead")
    sha256 = _digest(b"goes and comes")[0]
    deleting, go_on = threading.Event(), threading.Event()
    delete = artifacts.delete

    def slow(digest: str) -> None:
        deleting.set()
        assert go_on.wait(WAIT_S)
        delete(digest)

    monkeypatch.setattr(artifacts, "delete", slow)
    sweeper = threading.Thread(target=lambda: staging.sweep(database, artifacts, processes=["dead"]))
    sweeper.start()
    assert deleting.wait(WAIT_S)
    _, other = stored(stores, b"another file")  # at once, though the store is slow
    with database.session() as session:
        assert staging.is_leaving(session, sha256)
    tickets: list[str] = []
    writer = threading.Thread(target=lambda: tickets.append(stored(stores, b"goes and comes")[0]))
    writer.start()
    time.sleep(0.3)
    assert tickets == []
    go_on.set()
    writer.join(WAIT_S)
    sweeper.join(WAIT_S)
    assert len(tickets) == 1
    assert artifacts.read(sha256) == b"goes and comes"
    assert set(artifacts.digests()) == {sha256, other.sha256}


def test_what_a_store_refuses_to_remove_goes_later(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    database, artifacts = stores
    ticket, file = stored(stores, b"stubborn")
    with monkeypatch.context() as patched:

        def refuse(_digest: str) -> None:
            raise StorageError("the bucket cannot be reached")

        patched.setattr(artifacts, "delete", refuse)
        with pytest.raises(StorageError, match="the bucket cannot be reached"):
            staging.sweep(database, artifacts, tickets=[ticket])
        patched.setattr(staging, "_PATIENCE_S", 0.1)
        with pytest.raises(StorageError, match=f"the file {file.sha256} is being removed, .* try again in 10 minutes"):
            staging.note(database, [file.sha256], process="writer")
    assert staging.sweep(database, artifacts, older_than_s=staging.GRACE_S) == 0  # another process may be at it

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + timedelta(seconds=staging.ABANDONED_S)

    monkeypatch.setattr(staging, "datetime", Later)
    assert staging.sweep(database, artifacts, older_than_s=staging.GRACE_S) == 1
    assert list(artifacts.digests()) == []


def test_a_sweep_asks_about_its_own_files_and_reads_no_row_that_names_files(stores: Stores) -> None:
    database, artifacts = stores
    ticket, _ = stored(stores, b"x")
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda _c, _cur, sql, *_: asked.append(sql.lower()))
    assert staging.sweep(database, artifacts, tickets=[ticket]) == 1
    tables = {word for sql in asked for word in ("subnets", "supernets", "fronts", "latency_tables") if word in sql}
    assert tables == set()
    assert any("uses" in sql for sql in asked)


def test_the_list_of_uses_is_what_the_rows_say(stores: Stores) -> None:
    database, _ = stores
    a, b, c = (StoredFile("x", letter * 64, 1) for letter in "abc")
    supernet = SupernetRecord("1" * 64, "noise", "s", 2, {}, "d", {"one": a, "two": b}, utc_now())
    table = TableRecord("2" * 64, "bench", 1, "s", 2, 1, (), {}, c, "json", utc_now())
    spec = FrontSpec(supernet.id, "latency_ms", "bench", table.id, 1, 1)
    with database.session(exclusive=True) as session:
        devices.add_device(session, Device("bench", "h", "r", "fp32", 1, 1, utc_now()))
        supernets.add(session, supernet)
        devices.add_table(session, table)
        assert not uses.prices(session, table.id)
        assert fronts.add(session, FrontRecord(spec.digest, spec, b, utc_now()))
    with database.session(exclusive=True) as session:
        assert uses.files(session) == staging.named(session) == retention.owners(session).keys()
        assert uses.prices(session, table.id)
        supernets.delete(session, supernet.id)
        assert uses.needed(session, [a.sha256, b.sha256]) == {b.sha256}
        assert fronts.delete_of(session, supernet.id) == {b.sha256}
        devices.delete_table(session, table.id)
        assert uses.files(session) == staging.named(session) == set()
        assert not uses.prices(session, table.id)


def test_a_restarted_job_host_leaves_alone_what_the_living_service_is_storing(tmp_path: Path) -> None:
    server, listener, _ = prepare(small_settings(tmp_path / "data"))
    context = server.context
    listener.close()
    context.start()
    try:
        stores = context.database, context.artifacts
        _, left = stored(stores, b"what a killed service left", process="api-before")
        ticket, coming = stored(stores, b"being uploaded", process=context.process)
        wait_for(lambda: hosts(context.database))
        (before,) = hosts(context.database)
        context.engine._host._process.kill()  # type: ignore[attr-defined]
        wait_for(lambda: hosts(context.database) and hosts(context.database) != [before])
        time.sleep(1.0)  # for its first look at what dead hosts left
        assert staging.enter(*stores, ticket, [coming.sha256], lambda _session: True)
    finally:
        context.stop()
    assert context.artifacts.has(left.sha256)
    context.start()
    try:
        assert not context.artifacts.has(left.sha256)
    finally:
        context.stop()


def hosts(database: Database) -> list[str]:
    with database.session() as session:
        return executors.others(session, "")
