"""The quick look at known requests finds what the full resolution of names does."""

from __future__ import annotations

from service.domain import Device, StoredFile, SupernetRecord, TableRecord
from service.storage import devices, supernets
from service.storage.database import Database

FILE = StoredFile("file", "f" * 64, 1)


def table(device: str, version: int, missing: tuple[str, ...] = (), num_classes: int = 10) -> TableRecord:
    name = f"{device}-{version}"
    return TableRecord(name, device, version, "space", num_classes, 5, missing, {}, FILE, "json", "now")


def test_one_statement_finds_the_newest_complete_table_of_every_device(either_database: Database) -> None:
    with either_database.session() as session:
        supernets.add(session, SupernetRecord("id", "name", "space", 10, {}, "predictor", {"part": FILE}, "now"))
        for device in ("phone", "board", "bare"):
            devices.add_device(session, Device(device, "hardware", "runtime", "fp32", 1, 1, "now"))
        session.flush()
        for one in (
            table("phone", 1),
            table("phone", 2),
            table("phone", 3, missing=("a row",)),
            table("board", 1),
            table("board", 2, num_classes=100),
        ):
            devices.add_table(session, one)
    names = ["board", "bare", "phone", "nobody"]
    with either_database.reading() as connection:
        for wanted in ("id", "name"):
            found = supernets.identify_with_tables(connection, wanted, names)
            assert found == ("id", ("board-1", None, "phone-2", None))
        assert supernets.identify_with_tables(connection, "name", []) == ("id", ())
        assert supernets.identify_with_tables(connection, "other", names) is None
    with either_database.session() as session:
        assert found is not None
        assert found[1] == tuple(devices.newest_complete(session, name, "space", 10) for name in names)
