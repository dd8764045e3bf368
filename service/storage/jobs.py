"""Rows of jobs, and the only transitions between a job's states."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from service.domain import Job, JobState, Page, utc_now
from service.storage.models import JobOwnerRow, JobRow
from service.storage.paging import Order, slice_of

ACTIVE = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class Run:
    """One host's hold on a job. It is void as soon as the job was submitted again or ended.

    Attributes:
        job_id: of the job.
        submission: the job's submission number that this host took off the queue.
        executor: id of the host.
    """

    job_id: str
    submission: int
    executor: str


def put(session: Session, job_id: str, kind: str, payload: Mapping[str, Any], *, first: int = 1) -> int | None:
    """Queue a job: a new one, or one that has ended, with its attempts counted anew.

    Who submits has seen in this transaction that the job's product is not there: one that succeeded has lost it since.

    Args:
        session: transaction.
        job_id: of the job.
        kind: what is to be done.
        payload: with what.
        first: submission number of a new job.

    Returns:
        The submission number; None where the job waits or runs, and stays as it is.
    """
    row = session.get(JobRow, job_id)
    now = utc_now()
    fresh = {"state": JobState.QUEUED, "stage": "queued", "fraction": 0.0, "attempts": 0, "result": None, "error": None}
    fresh["started_at"] = None
    if row is None:
        fresh |= {"submission": first, "created_at": now, "updated_at": now}
        session.add(JobRow(id=job_id, kind=kind, payload=dict(payload), **fresh))
        session.flush()
        return first
    if row.state in ACTIVE:
        return None
    for name, value in (fresh | {"submission": row.submission + 1, "executor": None, "updated_at": now}).items():
        setattr(row, name, value)
    session.flush()
    return row.submission


def forget(session: Session, job_ids: Collection[str]) -> None:
    """Delete jobs and who submitted them; what is not there is fine."""
    for model, column in ((JobRow, JobRow.id), (JobOwnerRow, JobOwnerRow.job_id)):
        session.execute(delete(model).where(column.in_(list(job_ids))))


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


def payloads_of_active(session: Session, kind: str) -> list[dict[str, Any]]:
    """Payloads of the jobs of a kind that wait or run."""
    return list(session.scalars(select(JobRow.payload).where(JobRow.kind == kind, JobRow.state.in_(ACTIVE))))


def claim(session: Session, run: Run, *, most_attempts: int, reason: str) -> Job | None:
    """Begin a job, or begin it again after this host's process for it ended.

    Args:
        session: transaction.
        run: the hold to take; only the latest submission of a job can be held.
        most_attempts: a job that was begun as often is given up instead.
        reason: why the last attempt ended, for the message in that case.

    Returns:
        The job, marked as running by this host; None where it is not to be begun.
    """
    mine = (JobRow.state == JobState.RUNNING) & (JobRow.executor == run.executor)
    row = session.scalar(
        select(JobRow).where(
            JobRow.id == run.job_id, JobRow.submission == run.submission, (JobRow.state == JobState.QUEUED) | mine
        )
    )
    if row is None:
        return None
    if row.attempts >= most_attempts:
        message = f"job {row.id[:12]} was given up after {row.attempts} attempts: {reason}; submit the request again"
        _move(session, run, ACTIVE, state=JobState.FAILED, stage="failed", error={"kind": "crash", "message": message})
        return None
    values = {"stage": "starting", "fraction": 0.0, "attempts": row.attempts + 1, "executor": run.executor}
    values["started_at"] = utc_now()
    if not _move(session, run, (JobState(row.state),), state=JobState.RUNNING, **values):
        return None  # somebody was quicker
    session.refresh(row)
    return _job(row)


def is_running(session: Session, run: Run) -> bool:
    """Whether the job is this run's."""
    return session.scalar(select(JobRow.id).where(*_held(run))) is not None


def report(session: Session, run: Run, stage: str, fraction: float) -> bool:
    """Note a running job's progress; False where it is not this run's any more, as in the functions below."""
    return _move_held(session, run, stage=stage, fraction=min(max(fraction, 0.0), 1.0))


def succeed(session: Session, run: Run, result: Mapping[str, Any]) -> bool:
    """A running job has ended well."""
    return _move_held(session, run, state=JobState.SUCCEEDED, stage="done", fraction=1.0, result=dict(result))


def fail(session: Session, run: Run, error: Mapping[str, Any]) -> bool:
    """A running job has ended badly."""
    return _move_held(session, run, state=JobState.FAILED, stage="failed", error=dict(error))


def cancel(session: Session, job_id: str) -> bool:
    """End a waiting or running job; False, and no change, where it has ended."""
    here = update(JobRow).where(JobRow.id == job_id, JobRow.state.in_(ACTIVE))
    return _changes(session, here, state=JobState.CANCELLED, stage="cancelled")


def submit_again(session: Session, job_id: str, submission: int, *, uncounted: bool = False) -> int | None:
    """Put a job whose host is gone back into the queue, under the next submission number; void for every older run.

    Args:
        session: transaction.
        job_id: of the job.
        submission: the number that the lost host had.
        uncounted: whether a running job's present attempt shall not count, because the job is not to blame.

    Returns:
        The new number; None where the job has ended or was submitted again already.
    """
    row = session.scalar(
        select(JobRow).where(JobRow.id == job_id, JobRow.submission == submission, JobRow.state.in_(ACTIVE))
    )
    if row is None:
        return None
    waits = row.state == JobState.QUEUED
    attempts = row.attempts - 1 if uncounted and not waits else row.attempts
    here = update(JobRow).where(JobRow.id == job_id, JobRow.submission == submission, JobRow.state == row.state)
    done = _changes(
        session,
        here,
        submission=submission + 1,
        executor=None,
        state=JobState.QUEUED,
        stage="queued" if waits or uncounted else "queued again",
        fraction=0.0,
        attempts=attempts,
    )
    return submission + 1 if done else None


def running_at(session: Session, executors: Collection[str]) -> list[tuple[str, int]]:
    """(id, submission) of the jobs that run on any of these hosts."""
    query = select(JobRow.id, JobRow.submission).where(
        JobRow.state == JobState.RUNNING, JobRow.executor.in_(list(executors))
    )
    return [(job_id, submission) for job_id, submission in session.execute(query)]


def waiting(session: Session, limit: int) -> list[tuple[str, int]]:
    """(id, submission) of jobs that wait, those that have waited longest first, and of running ones without a host.

    The latter were left by a version that did not note hosts.
    """
    query = select(JobRow.id, JobRow.submission).where(
        (JobRow.state == JobState.QUEUED) | ((JobRow.state == JobState.RUNNING) & JobRow.executor.is_(None))
    )
    found = session.execute(query.order_by(JobRow.created_at, JobRow.id).limit(limit))
    return [(job_id, submission) for job_id, submission in found]


def _held(run: Run) -> tuple[Any, ...]:
    return (
        JobRow.id == run.job_id,
        JobRow.submission == run.submission,
        JobRow.executor == run.executor,
        JobRow.state == JobState.RUNNING,
    )


def _move_held(session: Session, run: Run, **values: Any) -> bool:
    return _changes(session, update(JobRow).where(*_held(run)), **values)


def _move(session: Session, run: Run, before: tuple[JobState, ...], **values: Any) -> bool:
    here = update(JobRow).where(JobRow.id == run.job_id, JobRow.submission == run.submission, JobRow.state.in_(before))
    return _changes(session, here, **values)


def _changes(session: Session, here: Any, **values: Any) -> bool:
    """One statement, so that no other process comes between looking and changing."""
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
