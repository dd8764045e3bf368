"""Rows of subnet requests, and of the networks that answer them and pruning runs (`service.storage.pruning_runs`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Text, bindparam, cast, select
from sqlalchemy.orm import Session

from service.domain import Latency, Page, StoredFile, SubnetRecord, SubnetRequest, SubnetSpec
from service.storage import uses
from service.storage.jobs import ACTIVE
from service.storage.models import FIGURES, JobRow, LatencyRow, RequestRow, SubnetRow
from service.storage.paging import Column, Order, ids_of
from supernet.errors import ConfigError, one_of

SORTS = (*FIGURES, "latency_ms")
_COLUMNS: dict[str, Column] = {name: getattr(SubnetRow, name) for name in FIGURES}
_COLUMNS_ON_DEVICE: dict[str, Column] = {name: getattr(LatencyRow, name) for name in FIGURES}
_COLUMNS_ON_DEVICE["latency_ms"] = LatencyRow.predicted_ms


@dataclass(frozen=True)
class Known:
    """Where a request stands, without its bulk.

    Attributes:
        subnet_id: the answer, once it is there.
        files: the answer's files as JSON text; formats that are made later come to it.
        job: state and time of the last change of the request's job; None when there is none.
    """

    subnet_id: str | None
    files: str | None
    job: tuple[str, str] | None


def add_request(session: Session, request: SubnetRequest) -> None:
    """Insert a request."""
    session.add(
        RequestRow(
            id=request.id,
            spec=request.spec.to_dict(),
            subnet_id=request.subnet_id,
            created_at=request.created_at,
            formats=[],
        )
    )
    uses.add(session, "request", request.id, tables=request.spec.tables.values())


def want_formats(session: Session, request_id: str, formats: Collection[str]) -> None:
    """Note which formats the job of a request is to make, besides those that were wanted earlier."""
    row = session.get_one(RequestRow, request_id)
    row.formats = sorted({*row.formats, *formats})


def formats_wanted(session: Session, request_id: str) -> tuple[str, ...]:
    """Formats that the request's job is to make."""
    row = session.get(RequestRow, request_id)
    return () if row is None else tuple(row.formats)


def add_file(session: Session, subnet_id: str, format: str, file: StoredFile) -> bool:
    """Note a subnet's file in one more format; False where it has one, or the subnet is gone. Exclusive session."""
    row = session.get(SubnetRow, subnet_id)
    if row is None or format in row.files:
        return False
    row.files = {**row.files, format: asdict(file)}
    uses.add(session, "subnet", subnet_id, files=[file.sha256])
    return True


def get_request(session: Session, request_id: str) -> SubnetRequest | None:
    """The subnet request of that id."""
    row = session.get(RequestRow, request_id)
    if row is None or row.method is not None:
        return None
    return SubnetRequest(row.id, SubnetSpec.from_dict(row.spec), row.subnet_id, row.created_at)


def specs_of_active_jobs(session: Session) -> list[dict[str, Any]]:
    """Specs of the requests whose jobs wait or run."""
    query = select(RequestRow.spec).join(JobRow, JobRow.id == RequestRow.id).where(JobRow.state.in_(ACTIVE))
    return list(session.scalars(query.where(RequestRow.method.is_(None))))


def add_subnet(session: Session, record: SubnetRecord) -> bool:
    """Insert a network and answer its request, or its pruning run, with it.

    Returns:
        Whether it is new; doing so again changes nothing.
    """
    new = session.get(SubnetRow, record.id) is None
    if new:
        values = asdict(record) | {"files": {name: asdict(file) for name, file in record.files.items()}}
        figures = {name: values[name] for name in (*FIGURES, "supernet_id")}
        values["latencies"] = [
            LatencyRow(subnet_id=record.id, device=device, **asdict(latency), **figures)
            for device, latency in record.latencies.items()
        ]
        session.add(SubnetRow(**values))
        uses.add(session, "subnet", record.id, files=[file.sha256 for file in record.files.values()])
    request = session.get(RequestRow, record.request_id)
    if request is not None:
        request.subnet_id = record.id
    return new


def get_subnet(session: Session, subnet_id: str) -> SubnetRecord | None:
    """The subnet of that id."""
    row = session.get(SubnetRow, subnet_id)
    return None if row is None else _record(row)


def subnet_ids(
    session: Session,
    limit: int,
    cursor: str | None,
    *,
    sort: str = "-created_at",
    device: str | None = None,
    supernet: str | None = None,
    pruned: bool | None = None,
    at_least: Mapping[str, float] | None = None,
    at_most: Mapping[str, float] | None = None,
) -> Page[str]:
    """Ids of the subnets that pass the filters.

    Args:
        session: transaction.
        limit: greatest number of items.
        cursor: where to go on.
        sort: one of `SORTS`, descending with a leading "-". `latency_ms` is the predicted one on `device`; the order
            by predicted accuracy leaves out what has none: pruned networks.
        device: leave out the subnets that were not priced for it; needed for `latency_ms`, in filters too.
        supernet: id of the supernet.
        pruned: whether pruned networks alone are wanted, or none of them; None: both.
        at_least: name (as in `SORTS`, without `created_at`) -> lower bound, inclusive.
        at_most: the same for upper bounds.

    Raises:
        ConfigError: an unknown sort, `latency_ms` without a device, or a cursor of another list.
    """
    name = sort.removeprefix("-")
    if name not in SORTS:
        raise ConfigError(one_of("sort", sort, ", ".join(f"{each}, -{each}" for each in SORTS)))
    lower, upper = at_least or {}, at_most or {}
    if device is None and "latency_ms" in {name, *lower, *upper}:
        raise ConfigError("latency_ms needs a device to sort or filter by; add device=NAME (see /api/v1/devices)")
    columns = _COLUMNS if device is None else _COLUMNS_ON_DEVICE
    # "+ 0" keeps the database from taking an index on the filter: it would then have to sort all that pass, where the
    # index on the order holds all figures and ends after a page
    conditions = [columns[key] + 0 >= bound for key, bound in lower.items()]
    conditions += [columns[key] + 0 <= bound for key, bound in upper.items()]
    if device is not None:
        conditions.append(LatencyRow.device == device)
    row = SubnetRow if device is None else LatencyRow
    if supernet is not None:
        conditions.append(row.supernet_id == supernet)
    if pruned is not None:
        predicted = row.predicted_accuracy + 0
        conditions.append(predicted.is_(None) if pruned else predicted.is_not(None))
    if name == "predicted_accuracy":
        conditions.append(row.predicted_accuracy.is_not(None))  # no cursor can hold what is not there
    row_id = SubnetRow.id if device is None else LatencyRow.subnet_id
    order = Order(
        sort if device is None else f"{sort}@{device}", columns[name], row_id, descending=sort.startswith("-")
    )
    ids, following = ids_of(session, conditions, order, limit, cursor)
    return Page(tuple(ids), following)


def subnet_page(session: Session, limit: int, cursor: str | None, **which: Any) -> Page[SubnetRecord]:
    """`subnet_ids` with the subnets themselves."""
    page = subnet_ids(session, limit, cursor, **which)
    return Page(tuple(get_many(session, page.items)), page.next_cursor)


def get_many(session: Session, ids: Sequence[str]) -> list[SubnetRecord]:
    """The subnets of these ids that are there, in the order of the ids."""
    rows = {row.id: row for row in session.scalars(select(SubnetRow).where(SubnetRow.id.in_(ids)))}
    return [_record(rows[one]) for one in ids if one in rows]


def files_of(session: Session, ids: Sequence[str]) -> dict[str, str]:
    """Id -> the files of each of these subnets that is there, as JSON text: all of a subnet that ever changes."""
    query = select(SubnetRow.id, cast(SubnetRow.files, Text)).where(SubnetRow.id.in_(ids))
    return {row[0]: row[1] for row in session.execute(query)}


def known(connection: Connection, request_id: str) -> Known | None:
    """Where a request stands; None when nobody asked for it. One statement and no JSON, for the many that ask again."""
    row = connection.execute(_KNOWN, {"id": request_id}).one_or_none()
    if row is None:
        return None
    return Known(row.subnet_id, row.files, None if row.state is None else (row.state, row.updated_at))


_REQUEST, _SUBNET, _JOB = RequestRow.__table__, SubnetRow.__table__, JobRow.__table__
_KNOWN = (
    select(_REQUEST.c.subnet_id, cast(_SUBNET.c.files, Text).label("files"), _JOB.c.state, _JOB.c.updated_at)
    .select_from(
        _REQUEST.outerjoin(_SUBNET, _SUBNET.c.id == _REQUEST.c.subnet_id).outerjoin(_JOB, _JOB.c.id == _REQUEST.c.id)
    )
    .where(_REQUEST.c.id == bindparam("id"))
)


def files_in_use(session: Session) -> set[str]:
    """Digests of the files of all subnets and pruned networks."""
    return {file["sha256"] for files in session.scalars(select(SubnetRow.files)) for file in files.values()}


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
