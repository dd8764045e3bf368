"""Rows of fronts of predicted accuracy against a cost."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import delete
from sqlalchemy.orm import Session

from service.domain import FrontRecord, FrontSpec, StoredFile
from service.storage import jobs, uses
from service.storage.models import FrontRow


def add(session: Session, record: FrontRecord) -> bool:
    """Insert a front; False where it is there already."""
    if session.get(FrontRow, record.id) is not None:
        return False
    session.add(
        FrontRow(
            id=record.id,
            supernet_id=record.spec.supernet,
            spec=record.spec.to_dict(),
            content=asdict(record.content),
            created_at=record.created_at,
        )
    )
    files, tables = [record.content.sha256], record.spec.tables.values()
    uses.add(session, "front", record.id, files=files, tables=tables)
    return True


def get(session: Session, front_id: str) -> FrontRecord | None:
    """The front of that id."""
    row = session.get(FrontRow, front_id)
    if row is None:
        return None
    return FrontRecord(row.id, FrontSpec.from_dict(row.spec), StoredFile(**row.content), row.created_at)


def delete_of(session: Session, supernet_id: str) -> set[str]:
    """Forget a supernet's fronts and the jobs that searched them; returns the digests of their files."""
    query = delete(FrontRow).where(FrontRow.supernet_id == supernet_id).returning(FrontRow.id)
    gone = list(session.scalars(query))
    jobs.forget(session, gone)
    return uses.drop(session, "front", gone)
