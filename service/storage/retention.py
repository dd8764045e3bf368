"""Rows that are due to go, and the only way in which a subnet, or a pruned network, is forgotten."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.storage import jobs, pruning_runs, uses
from service.storage.jobs import ACTIVE
from service.storage.models import (
    FrontRow,
    JobOwnerRow,
    JobRow,
    LatencyRow,
    RequestRow,
    SubnetRow,
    SupernetRow,
    TableRow,
)


@dataclass(frozen=True)
class DueSubnet:
    """A subnet that may go.

    Attributes:
        id: of the subnet.
        size_bytes: of its files.
    """

    id: str
    size_bytes: int


def oldest(session: Session, *, before: str | None, excess: int, not_after: str) -> Iterator[DueSubnet]:
    """Subnets from the oldest on: those made before a moment, and as many more as free `excess` bytes.

    Args:
        session: transaction.
        before: time of creation before which a subnet is due; None: no age is.
        excess: bytes to free; those of subnets that are due by their age count.
        not_after: subnets that were made later are not due for any reason.
    """
    columns = (SubnetRow.id, SubnetRow.created_at, SubnetRow.stored_bytes)
    query = select(*columns).where(SubnetRow.created_at <= not_after).order_by(SubnetRow.created_at, SubnetRow.id)
    with session.execute(query.execution_options(yield_per=1000)) as found:
        for row_id, created_at, size in found:
            if not (excess > 0 or (before is not None and created_at < before)):
                return
            excess -= size
            yield DueSubnet(row_id, size)


def delete_subnet(session: Session, subnet_id: str, exports: Collection[str] = ()) -> set[str] | None:
    """Forget a subnet, its requests or pruning runs and their jobs, so that the same request makes it anew.

    Args:
        session: transaction, an exclusive one.
        subnet_id: of the subnet.
        exports: ids of the jobs that may have made formats of it, which go too.

    Returns:
        Digests of its files, and of weights that had come with its runs, for `staging.leave` in the same transaction;
        None where it is gone already, or a job is at work on it, on a request of it, or prunes it.
    """
    there = session.scalar(select(SubnetRow.id).where(SubnetRow.id == subnet_id))
    requests = list(session.scalars(select(RequestRow.id).where(RequestRow.subnet_id == subnet_id)))
    busy = select(JobRow.id).where(JobRow.id.in_([*requests, *exports]), JobRow.state.in_(ACTIVE)).limit(1)
    if there is None or session.scalar(busy) is not None or subnet_id in pruning_runs.read_by_active(session):
        return None
    session.execute(delete(LatencyRow).where(LatencyRow.subnet_id == subnet_id))
    session.execute(delete(SubnetRow).where(SubnetRow.id == subnet_id))
    session.execute(delete(RequestRow).where(RequestRow.id.in_(requests)))
    jobs.forget(session, [*requests, *exports])
    return uses.drop(session, "subnet", [subnet_id]) | uses.drop(session, "request", requests)


def forget_ended(session: Session, before: str, limit: int) -> tuple[int, set[str]]:
    """Forget what ended before a moment and left nothing: requests and pruning runs without a network, with their jobs;
    jobs that made formats or a front, whose products stay; and who had submitted jobs that are gone.

    Args:
        session: transaction, an exclusive one.
        before: time of a job's last change.
        limit: greatest number of requests, and of jobs.

    Returns:
        Number of rows that are gone, and digests of the weights that had come with pruning runs, for `staging.leave`.
    """
    late = select(JobRow.id).where(JobRow.state.in_(ACTIVE) | (JobRow.updated_at >= before))
    vain = select(RequestRow.id).where(RequestRow.subnet_id.is_(None), RequestRow.created_at < before)
    requests = list(session.scalars(vain.where(RequestRow.id.not_in(late)).limit(limit)))
    session.execute(delete(RequestRow).where(RequestRow.id.in_(requests)))
    ended = select(JobRow.id).where(JobRow.state.not_in(ACTIVE), JobRow.updated_at < before)
    ended = ended.where(~select(RequestRow.id).where(RequestRow.id == JobRow.id).exists())
    done = list(session.scalars(ended.limit(limit)))
    jobs.forget(session, done)
    there = select(JobRow.id).where(JobRow.id == JobOwnerRow.job_id).exists()
    owned = delete(JobOwnerRow).where(JobOwnerRow.job_id.in_(select(JobOwnerRow.job_id).where(~there).limit(limit)))
    rest = len(list(session.scalars(owned.returning(JobOwnerRow.job_id))))
    return len(requests) + len(done) + rest, uses.drop(session, "request", requests)


def owners(session: Session) -> dict[str, str]:
    """Digest of every file that a row names -> one row that names it, in words."""
    found: dict[str, str] = {}
    for row_id, files in session.execute(select(SubnetRow.id, SubnetRow.files).execution_options(yield_per=1000)):
        found |= {file["sha256"]: f"subnet {row_id}, {format}" for format, file in files.items()}
    for run_id, file in pruning_runs.weights(session).items():
        found[file.sha256] = f"pruning run {run_id}, its weights"
    for table_id, content in session.execute(select(TableRow.id, TableRow.content)):
        found[content["sha256"]] = f"latency table {table_id}"
    for front_id, content in session.execute(select(FrontRow.id, FrontRow.content)):
        found[content["sha256"]] = f"front {front_id}"
    for name, files in session.execute(select(SupernetRow.name, SupernetRow.files)):
        found |= {file["sha256"]: f"supernet {name}, {path}" for path, file in files.items()}
    return found
