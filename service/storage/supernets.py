"""Rows of supernets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, or_, select
from sqlalchemy.orm import Session

from service.domain import Page, StoredFile, SupernetRecord
from service.storage import devices, uses
from service.storage.models import FrontRow, SupernetRow, TableRow
from service.storage.paging import Order, slice_of


def add(session: Session, record: SupernetRecord) -> None:
    """Insert a supernet."""
    session.add(
        SupernetRow(**(asdict(record) | {"files": {path: asdict(file) for path, file in record.files.items()}}))
    )
    uses.add(session, "supernet", record.id, files=[file.sha256 for file in record.files.values()])


def get(session: Session, id_or_name: str) -> SupernetRecord | None:
    """The supernet of that id or name."""
    found = session.scalar(select(SupernetRow).where(or_(SupernetRow.id == id_or_name, SupernetRow.name == id_or_name)))
    return None if found is None else _record(found)


def identify(session: Session, id_or_name: str) -> tuple[str, str, int] | None:
    """Id, space and number of classes of the supernet of that id or name, without its bulk."""
    row = session.execute(_IDENTIFY, {"wanted": id_or_name}).one_or_none()
    return None if row is None else (row.id, row.space, row.num_classes)


def identify_with_tables(
    connection: Connection, id_or_name: str, names: Sequence[str]
) -> tuple[str, tuple[str | None, ...]] | None:
    """Id of the supernet, and of each device's newest latency table for it that lacks no row. One statement."""
    given = {f"device{number}": name for number, name in enumerate(names)}
    row = connection.execute(_identify_with_tables(len(names)), {"wanted": id_or_name} | given).one_or_none()
    return None if row is None else (row[0], tuple(row[1:]))


@lru_cache(maxsize=16)
def _identify_with_tables(count: int) -> Select[Any]:
    tables = [
        devices.select_newest_complete(bindparam(f"device{number}"), _SUPERNET.space, _SUPERNET.num_classes)
        for number in range(count)
    ]
    return select(_SUPERNET.id, *(table.scalar_subquery() for table in tables)).where(_WANTED)


_SUPERNET = SupernetRow.__table__.c
_WANTED = or_(_SUPERNET.id == bindparam("wanted"), _SUPERNET.name == bindparam("wanted"))
_IDENTIFY = select(_SUPERNET.id, _SUPERNET.space, _SUPERNET.num_classes).where(_WANTED)


def page(session: Session, limit: int, cursor: str | None) -> Page[SupernetRecord]:
    """Supernets, newest first."""
    order = Order("-created_at", SupernetRow.created_at, SupernetRow.id, descending=True)
    rows, following = slice_of(session, select(SupernetRow), order, limit, cursor)
    return Page(tuple(map(_record, rows)), following)


def delete(session: Session, supernet_id: str) -> None:
    """Remove a supernet's row."""
    row = session.get(SupernetRow, supernet_id)
    if row is not None:
        session.delete(row)
    uses.drop(session, "supernet", [supernet_id])


def files_in_use(session: Session) -> set[str]:
    """Digests of the files of all supernets, latency tables and fronts."""
    digests = {file["sha256"] for files in session.scalars(select(SupernetRow.files)) for file in files.values()}
    for column in (TableRow.content, FrontRow.content):
        digests |= {content["sha256"] for content in session.scalars(select(column))}
    return digests


def _record(row: SupernetRow) -> SupernetRecord:
    return SupernetRecord(
        row.id,
        row.name,
        row.space,
        row.num_classes,
        row.manifest,
        row.predictor_digest,
        {path: StoredFile(**file) for path, file in row.files.items()},
        row.created_at,
    )
