"""Rows of subnet requests and of the subnets that answer them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from service.domain import Latency, Page, StoredFile, SubnetRecord, SubnetRequest, SubnetSpec
from service.storage.jobs import ACTIVE
from service.storage.models import JobRow, LatencyRow, RequestRow, SubnetRow
from service.storage.paging import Column, Order, slice_of
from supernet.errors import ConfigError, one_of

SORTS = ("created_at", "accuracy", "predicted_accuracy", "macs", "params", "latency_ms")
_COLUMNS: dict[str, Column] = {name: getattr(SubnetRow, name) for name in SORTS if name != "latency_ms"}
_COLUMNS["latency_ms"] = LatencyRow.predicted_ms


def add_request(session: Session, request: SubnetRequest) -> None:
    """Insert a request."""
    session.add(
        RequestRow(
            id=request.id, spec=request.spec.to_dict(), subnet_id=request.subnet_id, created_at=request.created_at
        )
    )


def get_request(session: Session, request_id: str) -> SubnetRequest | None:
    """The request of that id."""
    row = session.get(RequestRow, request_id)
    if row is None:
        return None
    return SubnetRequest(row.id, SubnetSpec.from_dict(row.spec), row.subnet_id, row.created_at)


def specs_of_active_jobs(session: Session) -> list[dict[str, Any]]:
    """Specs of the requests whose jobs wait or run."""
    query = select(RequestRow.spec).join(JobRow, JobRow.id == RequestRow.id).where(JobRow.state.in_(ACTIVE))
    return list(session.scalars(query))


def add_subnet(session: Session, record: SubnetRecord) -> bool:
    """Insert a subnet and answer its request with it.

    Returns:
        Whether it is new; doing so again changes nothing.
    """
    new = session.get(SubnetRow, record.id) is None
    if new:
        values = asdict(record) | {"files": {name: asdict(file) for name, file in record.files.items()}}
        values["latencies"] = [
            LatencyRow(subnet_id=record.id, device=device, **asdict(latency))
            for device, latency in record.latencies.items()
        ]
        session.add(SubnetRow(**values))
    request = session.get(RequestRow, record.request_id)
    if request is not None:
        request.subnet_id = record.id
    return new


def get_subnet(session: Session, subnet_id: str) -> SubnetRecord | None:
    """The subnet of that id."""
    row = session.get(SubnetRow, subnet_id)
    return None if row is None else _record(row)


def subnet_page(
    session: Session,
    limit: int,
    cursor: str | None,
    *,
    sort: str = "-created_at",
    device: str | None = None,
    supernet: str | None = None,
    at_least: Mapping[str, float] | None = None,
    at_most: Mapping[str, float] | None = None,
) -> Page[SubnetRecord]:
    """Subnets that pass the filters.

    Args:
        session: transaction.
        limit: greatest number of items.
        cursor: where to go on.
        sort: one of `SORTS`, descending with a leading "-". `latency_ms` is the predicted one on `device`, and leaves
            out the subnets that were not priced for it.
        device: needed for `latency_ms`, in filters too.
        supernet: id of the supernet.
        at_least: name (as in `SORTS`, without `created_at`) -> lower bound, inclusive.
        at_most: the same for upper bounds.

    Raises:
        ConfigError: an unknown sort, `latency_ms` without a device, or a cursor of another list.
    """
    name = sort.removeprefix("-")
    if name not in SORTS:
        raise ConfigError(one_of("sort", sort, ", ".join(f"{each}, -{each}" for each in SORTS)))
    lower, upper = at_least or {}, at_most or {}
    query = select(SubnetRow)
    if "latency_ms" in {name, *lower, *upper}:
        if device is None:
            raise ConfigError("latency_ms needs a device to sort or filter by; add device=NAME (see /api/v1/devices)")
        query = query.join(LatencyRow, and_(LatencyRow.subnet_id == SubnetRow.id, LatencyRow.device == device))
    elif device is not None:
        query = query.where(SubnetRow.latencies.any(LatencyRow.device == device))
    if supernet is not None:
        query = query.where(SubnetRow.supernet_id == supernet)
    for key, bound in lower.items():
        query = query.where(_COLUMNS[key] >= bound)
    for key, bound in upper.items():
        query = query.where(_COLUMNS[key] <= bound)
    if name == "latency_ms":
        return _by_latency(session, query, sort, device or "", limit, cursor)
    order = Order(sort, _COLUMNS[name], SubnetRow.id, descending=sort.startswith("-"))
    rows, following = slice_of(session, query, order, limit, cursor)
    return Page(tuple(map(_record, rows)), following)


def files_in_use(session: Session) -> set[str]:
    """Digests of the files of all subnets."""
    return {file["sha256"] for files in session.scalars(select(SubnetRow.files)) for file in files.values()}


def _by_latency(
    session: Session, query: Any, sort: str, device: str, limit: int, cursor: str | None
) -> Page[SubnetRecord]:
    order = Order(f"{sort}@{device}", LatencyRow.predicted_ms, LatencyRow.subnet_id, descending=sort.startswith("-"))
    rows, following = slice_of(session, query.with_only_columns(LatencyRow), order, limit, cursor)
    found = [session.get_one(SubnetRow, row.subnet_id) for row in rows]
    return Page(tuple(map(_record, found)), following)


def _record(row: SubnetRow) -> SubnetRecord:
    return SubnetRecord(
        row.id,
        row.request_id,
        row.supernet_id,
        row.space,
        row.config,
        row.config_digest,
        row.predicted_accuracy,
        row.accuracy,
        row.macs,
        row.params,
        {each.device: Latency(each.predicted_ms, each.measured_ms) for each in row.latencies},
        row.card,
        {name: StoredFile(**file) for name, file in row.files.items()},
        row.created_at,
    )
