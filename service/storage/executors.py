"""Rows of job hosts, each with the time of its last sign of life, by the database's clock."""

from __future__ import annotations

from sqlalchemy import Double, delete, func, literal, literal_column, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from service.storage.models import ExecutorRow


def beat(session: Session, executor: str, *, host: str, pid: int) -> None:
    """Give a sign of life; the first one makes the row."""
    here = update(ExecutorRow).where(ExecutorRow.id == executor).values(beat_at=_now(session))
    if session.scalar(here.returning(ExecutorRow.id)) is None:
        session.add(ExecutorRow(id=executor, host=host, pid=pid, beat_at=_now(session)))


def silent(session: Session, seconds: float) -> list[str]:
    """Ids of the hosts that gave no sign of life for so long."""
    return list(session.scalars(select(ExecutorRow.id).where(ExecutorRow.beat_at < _now(session) - seconds)))


def alive(session: Session, seconds: float) -> int:
    """Number of hosts that gave a sign of life within so many seconds."""
    fresh = select(func.count()).select_from(ExecutorRow).where(ExecutorRow.beat_at >= _now(session) - seconds)
    return session.scalar(fresh) or 0


def alive_at(session: Session, host: str, seconds: float) -> bool:
    """Whether a process of that machine gave a sign of life within so many seconds."""
    fresh = select(ExecutorRow.id).where(ExecutorRow.host == host, ExecutorRow.beat_at >= _now(session) - seconds)
    return session.scalar(fresh.limit(1)) is not None


def others(session: Session, executor: str) -> list[str]:
    """Ids of all hosts but this one."""
    return list(session.scalars(select(ExecutorRow.id).where(ExecutorRow.id != executor)))


def remove(session: Session, executor: str) -> None:
    """Forget a host."""
    session.execute(delete(ExecutorRow).where(ExecutorRow.id == executor))


def _now(session: Session) -> ColumnElement[float]:
    """Seconds since 1970 on the database's clock, which all hosts share."""
    if session.get_bind().dialect.name == "sqlite":
        return (func.julianday("now") - literal(2440587.5)) * literal(86400.0)
    return literal_column("extract(epoch from clock_timestamp())", Double)
