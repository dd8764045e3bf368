"""/readyz tells the truth about every part, and a part that hangs does not make it hang."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from servers import new_database
from small_service import serving, small_settings

from service.app import create_context
from service.context import Context
from service.health import Readiness
from service.settings import Settings
from service.storage.artifacts import open_artifacts
from service.storage.database import Database
from supernet.errors import StorageError


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    context = create_context(small_settings(tmp_path / "data", job_workers=0, ready_store_s=0))
    context.folder.hold()
    context.database.migrate()
    yield context
    context.stop()


def faults(readiness: Readiness) -> dict[str, str]:
    return {fault.where: fault.message for fault in readiness.faults()}


def wait_ready(url: str) -> httpx.Response:
    for _ in range(600):
        answer = httpx.get(f"{url}/readyz", trust_env=False)
        if answer.status_code == 200:
            return answer
        time.sleep(0.1)
    raise AssertionError(answer.text)


def test_a_service_is_ready_once_its_job_host_lives_and_healthz_asks_for_nothing(tmp_path: Path) -> None:
    with serving(small_settings(tmp_path / "data")) as url:
        assert wait_ready(url).json() == {"status": "ready"}
        assert list((tmp_path / "data" / "artifacts").rglob("*-*")) == []  # no probe is left
        (tmp_path / "data" / "service.sqlite").rename(tmp_path / "elsewhere")
        assert httpx.get(f"{url}/healthz", trust_env=False).json() == {"status": "ok"}


def test_every_fault_is_in_the_one_answer(tmp_path: Path) -> None:
    settings = small_settings(tmp_path / "data", job_workers=0, min_free_bytes=1 << 60)
    with serving(settings) as url:
        answer = httpx.get(f"{url}/readyz", trust_env=False)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    problem = answer.json()
    assert problem["type"] == "urn:onceforall:problem:not-ready"
    found = {fault["where"]: fault["message"] for fault in problem["faults"]}
    assert set(found) == {"disk", "jobs"}
    assert "are needed; free some space, or lower ONCEFORALL_MIN_FREE_BYTES" in found["disk"]
    assert "start one with: onceforall worker" in found["jobs"]
    assert all(message in problem["detail"] for message in found.values())


def test_a_schema_of_another_version_is_a_fault(context: Context) -> None:
    context.engine.start()
    assert set(faults(Readiness(context))) == {"jobs"}
    with context.database.engine.begin() as connection:
        connection.exec_driver_sql("update alembic_version set version_num = '0001'")
    assert "has schema 0001, this version of onceforall needs" in faults(Readiness(context))["database"]
    with context.database.engine.begin() as connection:
        connection.exec_driver_sql("drop table alembic_version")
    assert "no such table: alembic_version" in faults(Readiness(context))["database"]


def test_a_folder_that_is_gone_or_no_folder_is_a_fault_and_its_return_is_noticed(
    context: Context, tmp_path: Path
) -> None:
    readiness = Readiness(context)
    folder = tmp_path / "data" / "artifacts"
    assert "artifacts" not in faults(readiness)
    shutil.rmtree(folder)
    folder.write_text("a file")
    assert "cannot write to the artefact store" in faults(readiness)["artifacts"]
    folder.unlink()
    folder.mkdir()
    assert "artifacts" not in faults(readiness)


def test_what_was_seen_of_the_store_is_remembered_for_some_seconds(tmp_path: Path) -> None:
    context = create_context(small_settings(tmp_path / "data", job_workers=0, ready_store_s=60))
    looks: list[float] = []
    check = context.artifacts.check
    object.__setattr__(context.artifacts, "check", lambda: (looks.append(0), check()))
    readiness = Readiness(context)
    for _ in range(3):
        assert "artifacts" not in faults(readiness)
    assert len(looks) == 1


def test_a_part_that_hangs_is_a_fault_in_time_and_is_asked_once(context: Context) -> None:
    ended, looks = threading.Event(), []

    def hang() -> None:
        looks.append(0)
        ended.wait(60)

    object.__setattr__(context.artifacts, "check", hang)
    readiness = Readiness(context, patience_s=0.2)
    begin = time.monotonic()
    for _ in range(3):
        assert re.match(r"no answer for \d+ s; see whether it can be reached", faults(readiness)["artifacts"])
    assert time.monotonic() - begin < 10
    assert len(looks) == 1
    ended.set()
    for _ in range(100):
        if "artifacts" not in faults(readiness):
            break
    assert "artifacts" not in faults(readiness)


def test_an_unknown_fault_of_a_check_is_told_without_its_details(context: Context) -> None:
    def crash() -> None:
        raise ZeroDivisionError("secret")

    object.__setattr__(context.artifacts, "check", crash)
    message = faults(Readiness(context))["artifacts"]
    assert message == "the check failed: ZeroDivisionError; the log has the details"


def test_postgresql_and_s3_are_checked_alike(postgres_server: str, s3_url: str, tmp_path: Path) -> None:
    database, store = Database(new_database(postgres_server)), open_artifacts(f"{s3_url}/prefix")
    with pytest.raises(StorageError, match="alembic_version"):
        database.check()
    database.migrate()
    database.check()
    store.check()
    assert list(store.digests()) == []
    database.close()
    refused = Database("postgresql+psycopg://me:pw@127.0.0.1:9/x")
    with pytest.raises(StorageError, match="refused") as error:
        refused.check()
    assert "pw@" not in str(error.value)


def test_settings_that_would_make_no_sense_are_refused() -> None:
    for values in ({"min_free_bytes": -1}, {"ready_store_s": -1}, {"stop_grace_s": 0}):
        with pytest.raises(ValueError, match="greater than or equal"):
            Settings(**values)  # type: ignore[arg-type]
