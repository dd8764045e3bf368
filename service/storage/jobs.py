"""Rows of jobs, and the only transitions between a job's states."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.domain import Job, JobState, Page, utc_now
from service.storage.models import JobRow
from service.storage.paging import Order, slice_of

ACTIVE = (JobState.QUEUED, JobState.RUNNING)


def put(session: Session, job_id: str, kind: str, payload: Mapping[str, Any]) -> None:
    """Queue a job: a new one, or one that failed or was cancelled, with its attempts counted anew.

    A job that waits, runs or has succeeded stays as it is.
    """
    row = session.get(JobRow, job_id)
    now = utc_now()
    fresh = {"state": JobState.QUEUED, "stage": "queued", "fraction": 0.0, "attempts": 0, "result": None, "error": None}
    if row is None:
        session.add(JobRow(id=job_id, kind=kind, payload=dict(payload), created_at=now, updated_at=now, **fresh))
    elif row.state in (JobState.FAILED, JobState.CANCELLED):
        for name, value in (fresh | {"updated_at": now}).items():
            setattr(row, name, value)


def get(session: Session, job_id: str) -> Job | None:
    """The job of that id."""
    row = session.get(JobRow, job_id)
    return None if row is None else _job(row)


def page(session: Session, limit: int, cursor: str | None, *, state: JobState | None = None) -> Page[Job]:
    """Jobs, newest first."""
    query = select(JobRow) if state is None else select(JobRow).where(JobRow.state == state)
    order = Order(f"-created_at {state}", JobRow.created_at, JobRow.id, descending=True)
    rows, following = slice_of(session, query, order, limit, cursor)
    return Page(tuple(map(_job, rows)), following)


def count_active(session: Session) -> int:
    """Jobs that wait or run."""
    return session.scalar(select(func.count()).select_from(JobRow).where(JobRow.state.in_(ACTIVE))) or 0


def claim(session: Session, *, besides: Collection[str] = ()) -> Job | None:
    """Take the oldest waiting job that is not among `besides` and mark it as running; None when no such job waits."""
    waiting = select(JobRow).where(JobRow.state == JobState.QUEUED, JobRow.id.not_in(besides))
    row = session.scalar(waiting.order_by(JobRow.created_at, JobRow.id).limit(1))
    if row is None or not _move(
        session, row.id, (JobState.QUEUED,), state=JobState.RUNNING, stage="starting", attempts=JobRow.attempts + 1
    ):
        return None
    session.refresh(row)
    return _job(row)


def report(session: Session, job_id: str, stage: str, fraction: float) -> None:
    """Note a running job's progress."""
    _move(session, job_id, (JobState.RUNNING,), stage=stage, fraction=min(max(fraction, 0.0), 1.0))


def succeed(session: Session, job_id: str, result: Mapping[str, Any]) -> None:
    """A running job has ended well."""
    _move(
        session, job_id, (JobState.RUNNING,), state=JobState.SUCCEEDED, stage="done", fraction=1.0, result=dict(result)
    )


def fail(session: Session, job_id: str, error: Mapping[str, Any]) -> None:
    """A running job has ended badly."""
    _move(session, job_id, (JobState.RUNNING,), state=JobState.FAILED, stage="failed", error=dict(error))


def cancel(session: Session, job_id: str) -> None:
    """End a waiting or running job; nothing happens to one that has ended."""
    _move(session, job_id, ACTIVE, state=JobState.CANCELLED, stage="cancelled")


def requeue(session: Session, job_id: str) -> None:
    """Put a running job whose process died back into the queue."""
    _move(session, job_id, (JobState.RUNNING,), state=JobState.QUEUED, stage="queued again", fraction=0.0)


def put_back(session: Session, job_id: str) -> None:
    """Put a running job back into the queue as if it had not been claimed: this attempt does not count."""
    attempts = JobRow.attempts - 1
    _move(session, job_id, (JobState.RUNNING,), state=JobState.QUEUED, stage="queued", fraction=0.0, attempts=attempts)


def running(session: Session) -> list[Job]:
    """All jobs marked as running."""
    return [_job(row) for row in session.scalars(select(JobRow).where(JobRow.state == JobState.RUNNING))]


def _move(session: Session, job_id: str, before: tuple[JobState, ...], **values: Any) -> bool:
    """Change a job if it is in one of the states `before`; one statement, so that no other process comes between."""
    here = update(JobRow).where(JobRow.id == job_id, JobRow.state.in_(before))
    return session.scalar(here.values(**values, updated_at=utc_now()).returning(JobRow.id)) is not None


def _job(row: JobRow) -> Job:
    return Job(
        row.id,
        row.kind,
        row.payload,
        JobState(row.state),
        row.stage,
        row.fraction,
        row.attempts,
        row.result,
        row.error,
        row.created_at,
        row.updated_at,
    )
