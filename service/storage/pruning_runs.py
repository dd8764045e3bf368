"""Rows of pruning runs; they share a table, and what happens when the network is there, with subnet requests."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.domain import Page, StoredFile
from service.pruning_spec import PruningRun, PruningSpec
from service.storage import uses
from service.storage.jobs import ACTIVE
from service.storage.models import JobRow, RequestRow, SubnetRow
from service.storage.paging import Order, slice_of


def add(session: Session, run: PruningRun) -> None:
    """Insert a run."""
    session.add(
        RequestRow(
            id=run.id,
            spec=run.spec.to_dict(),
            subnet_id=run.subnet_id,
            created_at=run.created_at,
            formats=[],
            method=run.spec.method,
            source=run.spec.source_name,
            weights=None if run.weights is None else asdict(run.weights),
        )
    )
    uses.add(session, "request", run.id, files=[] if run.weights is None else [run.weights.sha256])


def get(session: Session, run_id: str) -> PruningRun | None:
    """The run of that id."""
    row = session.get(RequestRow, run_id)
    return None if row is None or row.method is None else _run(row)


def page(
    session: Session, limit: int, cursor: str | None, *, method: str | None = None, source: str | None = None
) -> Page[PruningRun]:
    """Runs that pass the filters, newest first.

    Args:
        session: transaction.
        limit: greatest number of items.
        cursor: where to go on.
        method: of `METHODS`; None: any.
        source: id of the subnet or supernet, or name of the architecture; None: any.
    """
    query = select(RequestRow).where(RequestRow.method.is_not(None) if method is None else RequestRow.method == method)
    if source is not None:
        query = query.where(RequestRow.source == source)
    order = Order(f"-created_at {method} {source}", RequestRow.created_at, RequestRow.id, descending=True)
    rows, following = slice_of(session, query, order, limit, cursor)
    return Page(tuple(map(_run, rows)), following)


def read_by_active(session: Session) -> set[str]:
    """Ids of the subnets and supernets that jobs of runs, which wait or run, read or will read."""
    query = select(RequestRow.source).join(JobRow, JobRow.id == RequestRow.id).where(JobRow.state.in_(ACTIVE))
    sources = {source for source in session.scalars(query) if source is not None}
    return sources | set(session.scalars(select(SubnetRow.supernet_id).where(SubnetRow.id.in_(sources))))


def files_in_use(session: Session) -> set[str]:
    """Digests of the weights that came with runs."""
    return {file.sha256 for file in weights(session).values()}


def weights(session: Session) -> dict[str, StoredFile]:
    """Run id -> the weights that came with it."""
    query = select(RequestRow.id, RequestRow.weights).where(RequestRow.method.is_not(None))
    return {run_id: StoredFile(**file) for run_id, file in session.execute(query) if file is not None}


def _run(row: RequestRow) -> PruningRun:
    weights = None if row.weights is None else StoredFile(**row.weights)
    return PruningRun(row.id, PruningSpec.from_dict(row.spec), row.subnet_id, weights, row.created_at)
