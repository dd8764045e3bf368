"""What the operator's figures and the limits on what is stored need to know of the rows; nothing here changes any."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.domain import JobState
from service.storage import pruning_runs
from service.storage.models import FrontRow, JobRow, SubnetRow, SupernetRow, TableRow

_FINAL = [state for state in JobState if state.is_final]


@dataclass(frozen=True)
class EndedJob:
    """A job that has ended.

    Attributes:
        id, kind: of the job.
        state: how it ended.
        started_at: when its last attempt began; None where it was cancelled before it had begun.
        ended_at: when it ended.
    """

    id: str
    kind: str
    state: str
    started_at: str | None
    ended_at: str


@dataclass(frozen=True)
class Usage:
    """Files that rows name. One that several rows share is counted for each.

    Attributes:
        files: number of them.
        size_bytes: their size.
    """

    files: int
    size_bytes: int


def jobs_by_kind(session: Session) -> dict[tuple[str, str], int]:
    """(kind, state) -> number of jobs; what is absent is 0."""
    query = select(JobRow.kind, JobRow.state, func.count()).group_by(JobRow.kind, JobRow.state)
    return {(kind, state): count for kind, state, count in session.execute(query)}


def oldest_waiting(session: Session) -> str | None:
    """Since when the job waits that has waited longest; None where no job waits."""
    return session.scalar(select(func.min(JobRow.updated_at)).where(JobRow.state == JobState.QUEUED))


def ended_since(session: Session, moment: str, limit: int) -> list[EndedJob]:
    """Jobs that ended at or after a moment, in that order, at most `limit`."""
    columns = (JobRow.id, JobRow.kind, JobRow.state, JobRow.started_at, JobRow.updated_at)
    query = select(*columns).where(JobRow.state.in_(_FINAL), JobRow.updated_at >= moment)
    return [EndedJob(*row) for row in session.execute(query.order_by(JobRow.updated_at, JobRow.id).limit(limit))]


def usage(session: Session) -> dict[str, Usage]:
    """What files belong to ("subnets", ..., "pruning_runs": uploaded weights) -> how many and how large they are."""
    total, zero = func.sum, func.coalesce
    sums = select(zero(total(SubnetRow.stored_files), 0), zero(total(SubnetRow.stored_bytes), 0))
    files, size = session.execute(sums).one()
    runs = [file for row in session.scalars(select(SupernetRow.files)) for file in row.values()]
    contents = list(session.scalars(select(TableRow.content)))
    fronts = list(session.scalars(select(FrontRow.content)))
    uploaded = pruning_runs.weights(session).values()
    return {
        "subnets": Usage(int(files), int(size)),
        "supernets": Usage(len(runs), sum(file["size_bytes"] for file in runs)),
        "latency_tables": Usage(len(contents), sum(content["size_bytes"] for content in contents)),
        "fronts": Usage(len(fronts), sum(content["size_bytes"] for content in fronts)),
        "pruning_runs": Usage(len(uploaded), sum(file.size_bytes for file in uploaded)),
    }
