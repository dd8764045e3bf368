"""Rows of devices and of their latency tables."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session

from service.domain import Device, Page, StoredFile, TableRecord
from service.storage import uses
from service.storage.models import DeviceRow, TableRow
from service.storage.paging import Order, slice_of


def add_device(session: Session, device: Device) -> None:
    """Insert a device."""
    session.add(DeviceRow(**asdict(device)))


def get_device(session: Session, name: str) -> Device | None:
    """The device of that name."""
    row = session.get(DeviceRow, name)
    return None if row is None else _device(row)


def device_page(session: Session, limit: int, cursor: str | None) -> Page[Device]:
    """Devices by name."""
    order = Order("name", DeviceRow.name, DeviceRow.name)
    rows, following = slice_of(session, select(DeviceRow), order, limit, cursor)
    return Page(tuple(map(_device, rows)), following)


def add_table(session: Session, record: TableRecord) -> None:
    """Insert a latency table."""
    values = asdict(record) | {"content": asdict(record.content), "missing": list(record.missing)}
    session.add(TableRow(**values, complete=not record.missing))
    uses.add(session, "table", record.id, files=[record.content.sha256])


def get_table(session: Session, table_id: str) -> TableRecord | None:
    """The latency table of that id."""
    row = session.get(TableRow, table_id)
    return None if row is None else _table(row)


def next_version(session: Session, device: str) -> int:
    """The version number of the device's next table."""
    return 1 + (session.scalar(select(func.max(TableRow.version)).where(TableRow.device == device)) or 0)


def table_page(session: Session, device: str, limit: int, cursor: str | None) -> Page[TableRecord]:
    """A device's tables, newest first."""
    order = Order("-version", TableRow.version, TableRow.id, descending=True)
    rows, following = slice_of(session, select(TableRow).where(TableRow.device == device), order, limit, cursor)
    return Page(tuple(map(_table, rows)), following)


def tables_for(session: Session, device: str, space: str, num_classes: int) -> list[TableRecord]:
    """A device's tables for a space, newest first."""
    query = select(TableRow).where(
        TableRow.device == device, TableRow.space == space, TableRow.num_classes == num_classes
    )
    return [_table(row) for row in session.scalars(query.order_by(TableRow.version.desc()))]


def newest_complete(session: Session, device: str, space: str, num_classes: int) -> str | None:
    """Id of the device's newest table for a space that lacks no row."""
    given = {"device": device, "space": space, "num_classes": num_classes}
    found: str | None = session.scalar(_NEWEST_COMPLETE, given)
    return found


def select_newest_complete(device: Any, space: Any, num_classes: Any) -> Select[Any]:
    """The statement of `newest_complete`, of SQL expressions; also for use within others."""
    table = TableRow.__table__.c
    return (
        select(table.id)
        .where(table.device == device, table.space == space, table.num_classes == num_classes, table.complete)
        .order_by(table.version.desc())
        .limit(1)
    )


def complete_kinds(session: Session, names: Collection[str]) -> dict[str, set[tuple[str, int]]]:
    """Device -> (space, number of classes) of which it has a table that lacks no row, for these devices."""
    query = select(TableRow.device, TableRow.space, TableRow.num_classes).where(
        TableRow.device.in_(names), TableRow.complete
    )
    found: dict[str, set[tuple[str, int]]] = {}
    for device, space, num_classes in session.execute(query.distinct()):
        found.setdefault(device, set()).add((space, num_classes))
    return found


def delete_table(session: Session, table_id: str) -> None:
    """Remove a latency table's row."""
    row = session.get(TableRow, table_id)
    if row is not None:
        session.delete(row)
    uses.drop(session, "table", [table_id])


_NEWEST_COMPLETE = select_newest_complete(bindparam("device"), bindparam("space"), bindparam("num_classes"))


def _device(row: DeviceRow) -> Device:
    return Device(row.name, row.hardware, row.runtime, row.precision, row.threads, row.batch, row.created_at)


def _table(row: TableRow) -> TableRecord:
    return TableRecord(
        row.id,
        row.device,
        row.version,
        row.space,
        row.num_classes,
        row.rows,
        tuple(row.missing),
        row.provenance,
        StoredFile(**row.content),
        row.format,
        row.created_at,
    )
