"""Rows of supernets."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.domain import Page, StoredFile, SupernetRecord
from service.storage.models import SupernetRow, TableRow
from service.storage.paging import Order, slice_of


def add(session: Session, record: SupernetRecord) -> None:
    """Insert a supernet."""
    session.add(
        SupernetRow(**(asdict(record) | {"files": {path: asdict(file) for path, file in record.files.items()}}))
    )


def get(session: Session, id_or_name: str) -> SupernetRecord | None:
    """The supernet of that id or name."""
    found = session.scalar(select(SupernetRow).where(or_(SupernetRow.id == id_or_name, SupernetRow.name == id_or_name)))
    return None if found is None else _record(found)


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


def files_in_use(session: Session) -> set[str]:
    """Digests of the files of all supernets and latency tables."""
    digests = {file["sha256"] for files in session.scalars(select(SupernetRow.files)) for file in files.values()}
    return digests | {content["sha256"] for content in session.scalars(select(TableRow.content))}


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
