"""/devices: what subnets run on, and the latency tables measured there."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service import tables
from service.api import API
from service.api.dependencies import JSON_BODY, ContextDep, NamePath, PageDep, media_type
from service.api.schemas import DeviceIn, DeviceOut, PageOut, RegisteredTableOut, TableOut
from service.domain import Device, utc_now
from service.errors import ConflictError
from service.storage import devices

router = APIRouter(prefix="/devices", tags=["devices"])

_TABLE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string" if format == "csv" else "object"}}
            for kind, format in tables.MEDIA_TYPES.items()
        },
    }
}


@router.post("", status_code=201, dependencies=[JSON_BODY])
def create(context: ContextDep, body: DeviceIn, response: Response) -> DeviceOut:
    """Describe a device; 200 when it is described so already, 409 when its name stands for another."""
    device = Device(**body.model_dump(), created_at=utc_now())
    response.headers["Location"] = f"{API}/devices/{device.name}"
    with context.database.session(exclusive=True) as session:
        known = devices.get_device(session, device.name)
        if known is None:
            devices.add_device(session, device)
            return DeviceOut.of(device)
    if vars(known) != vars(device) | {"created_at": known.created_at}:
        raise ConflictError(f"device {device.name!r} is described otherwise already; choose another name")
    response.status_code = 200
    return DeviceOut.of(known)


@router.get("")
def browse(context: ContextDep, query: PageDep) -> PageOut[DeviceOut]:
    """All devices by name."""
    with context.database.session() as session:
        page = devices.device_page(session, query.limit, query.cursor)
    return PageOut(items=[DeviceOut.of(device) for device in page.items], next_cursor=page.next_cursor)


@router.get("/{device}")
def show(context: ContextDep, device: NamePath) -> DeviceOut:
    """One device."""
    return DeviceOut.of(tables.find_device(context, device))


@router.post("/{device}/latency-tables", status_code=201, openapi_extra=_TABLE)
async def upload_table(
    request: Request,
    response: Response,
    context: ContextDep,
    device: NamePath,
    dry_run: Annotated[bool, Query()] = False,
) -> RegisteredTableOut:
    """Upload a new version of a device's latency table: the file itself as the body.

    201 with coverage, missing rows and doubtful rows; 200 when this very table is stored already, or with `dry_run`.
    """
    format = tables.MEDIA_TYPES.get(media_type(request))
    if format is None:
        allowed = ", ".join(tables.MEDIA_TYPES)
        raise HTTPException(415, f"Content-Type is {media_type(request)[:80]!r}; allowed: {allowed}")
    data = await request.body()
    table = await run_in_threadpool(tables.register, context, device, data, format, dry_run=dry_run)
    if table.stored:
        response.headers["Location"] = f"{API}/latency-tables/{table.record.id}"
    else:
        response.status_code = 200
    return RegisteredTableOut.of_registered(table)


@router.get("/{device}/latency-tables")
def browse_tables(context: ContextDep, device: NamePath, query: PageDep) -> PageOut[TableOut]:
    """A device's latency tables, newest first."""
    tables.find_device(context, device)
    with context.database.session() as session:
        page = devices.table_page(session, device, query.limit, query.cursor)
    return PageOut(items=[TableOut.of(record) for record in page.items], next_cursor=page.next_cursor)
