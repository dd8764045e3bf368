"""The page of asking when much is stored."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from small_service import serving, small_settings
from sqlalchemy import event

from service.domain import Device, StoredFile, TableRecord, utc_now
from service.storage import devices
from service.storage.database import Database
from service.web import ask_view


def add_devices(database: Database, count: int, *, tables: int = 0) -> None:
    """Devices with versions of a table each; every second device's tables lack a row."""
    with database.session() as session:
        for number in range(count):
            devices.add_device(session, Device(f"device-{number:03}", "x", "x", "fp32", 1, 1, utc_now()))
        session.flush()
        for number in range(count):
            for version in range(1, tables + 1):
                missing = ("a row",) if number % 2 else ()
                file = StoredFile("table", "0" * 64, 1)
                name = f"{number:032}{version:032}"
                devices.add_table(
                    session,
                    TableRecord(
                        name, f"device-{number:03}", version, "mobilenet_v3_tiny", 10, 1, missing, {}, file, "json",
                        utc_now(),
                    ),
                )  # fmt: skip


def test_however_many_versions_of_tables_there_are_the_page_reads_none_of_them(data_copy: Path) -> None:
    database = Database(f"sqlite:///{data_copy / 'service.sqlite'}")
    add_devices(database, 30, tables=4)
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    with database.session() as session:
        found = ask_view.ask(session)
    database.close()
    assert len(statements) == 3, statements
    assert not any("provenance" in statement for statement in statements)
    (supernet,) = found["supernets"]
    priced = {device.name: device.supernets for device in found["devices"]}
    assert len(priced) == 30
    assert priced["device-004"] == (supernet.id,)
    assert priced["device-005"] == ()
    assert found["only"] == ""


@pytest.mark.parametrize(("count", "told"), [(200, False), (201, True)])
def test_devices_that_are_not_offered_are_told_of(data_copy: Path, count: int, told: bool) -> None:
    with serving(small_settings(data_copy, job_workers=0)) as url:
        database = Database(f"sqlite:///{data_copy / 'service.sqlite'}")
        add_devices(database, count)
        database.close()
        page = httpx.get(url).text
    assert ("Only the first 200 devices by name can be chosen here" in page) is told
    assert "Latency on device-199" in page
    assert "Latency on device-200" not in page
