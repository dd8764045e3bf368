"""/devices: what subnets run on, and the latency tables measured there."""

from __future__ import annotations

import tempfile
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from service import tables
from service.api import API
from service.api.dependencies import JSON_BODY, ContextDep, NamePath, PageDep, media_type
from service.api.idempotency import IdempotentRoute
from service.api.openapi import IDEMPOTENCY_KEY, problems
from service.api.schemas import DeviceIn, DeviceOut, PageOut, RegisteredTableOut, TableOut
from service.domain import Device, utc_now
from service.errors import ConflictError, Fault, FaultsError
from service.storage import devices
from supernet.errors import writing

router = APIRouter(prefix="/devices", tags=["devices"], route_class=IdempotentRoute)

_OFA = "multipart/form-data"
_MAX_FILES = 16
_ROW = {"layer": "conv 32x32x3->16x16x16 k3 s2 h_swish", "median_ms": 0.31, "spread_ms": 0.01, "count": 50}
_DOCUMENT: dict[str, Any] = {
    "format": "onceforall.latency-table",
    "version": 1,
    "unit": "ms",
    "device": "note10",
    "space": "mobilenet_v3_w1.2",
    "num_classes": 1000,
    "provenance": {"hardware": {"soc": "Snapdragon 855"}, "runtime": "tflite", "threads": 1, "batch": 1},
    "rows": [_ROW],
}
_TABLE: dict[str, Any] = {
    "parameters": [IDEMPOTENCY_KEY],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}, "example": _DOCUMENT},
            "application/yaml": {"schema": {"type": "object"}, "example": _DOCUMENT},
            "text/csv": {
                "schema": {"type": "string"},
                "example": "# unit: ms\n# device: note10\nlayer,median_ms,spread_ms,count\n...,0.31,0.01,50\n",
            },
            _OFA: {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": _MAX_FILES,
                            "items": {"type": "string", "format": "binary"},
                            "description": "files of MIT's ofa package, called 160_lookup_table.yaml and so on",
                        }
                    },
                },
                "example": {"file": ["the content of 160_lookup_table.yaml"]},
            },
        },
    },
}


@router.post(
    "",
    status_code=201,
    dependencies=[JSON_BODY],
    responses={200: {"description": "described so already", "model": DeviceOut}, **problems(409, 422)},
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
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


@router.get("", responses=problems(422))
def browse(context: ContextDep, query: PageDep) -> PageOut[DeviceOut]:
    """All devices by name."""
    with context.database.session() as session:
        page = devices.device_page(session, query.limit, query.cursor)
    return PageOut(items=[DeviceOut.of(device) for device in page.items], next_cursor=page.next_cursor)


@router.get("/{device}", responses=problems(404, 422))
def show(context: ContextDep, device: NamePath) -> DeviceOut:
    """One device."""
    return DeviceOut.of(tables.find_device(context, device))


@router.post(
    "/{device}/latency-tables",
    status_code=201,
    responses={
        200: {"description": "stored already, or a dry run", "model": RegisteredTableOut},
        **problems(404, 409, 422),
    },
    openapi_extra=_TABLE,
)
async def upload_table(
    request: Request,
    response: Response,
    context: ContextDep,
    device: NamePath,
    dry_run: Annotated[bool, Query()] = False,
) -> RegisteredTableOut:
    """Upload a new version of a device's latency table: the file itself as the body.

    201 with coverage, missing rows and doubtful rows; 200 when this very table is stored already, or with `dry_run`.
    Tables of MIT's ofa package come as `multipart/form-data`, one part `file` a resolution.
    """
    kind = media_type(request)
    format = tables.MEDIA_TYPES.get(kind)
    if format is not None:
        data = await request.body()
        table = await run_in_threadpool(tables.register, context, device, data, format, dry_run=dry_run)
    elif kind == _OFA:
        files = await _files(request)
        table = await run_in_threadpool(tables.register_ofa, context, device, files, dry_run=dry_run)
    else:
        allowed = ", ".join([*tables.MEDIA_TYPES, _OFA])
        raise HTTPException(415, f"Content-Type is {kind[:80]!r}; allowed: {allowed}")
    if table.stored:
        response.headers["Location"] = f"{API}/latency-tables/{table.record.id}"
    else:
        response.status_code = 200
    return RegisteredTableOut.of_registered(table)


async def _files(request: Request) -> dict[str, bytes]:
    with writing(tempfile.gettempdir()):
        form = await request.form(max_files=_MAX_FILES, max_fields=0, max_part_size=1024)
    try:
        parts = form.multi_items()
        found = {
            value.filename or "": await value.read()
            for key, value in parts
            if key == "file" and isinstance(value, UploadFile)
        }
    finally:
        await form.close()
    if len(found) != len(parts):
        message = (
            f"unexpected or repeated parts; allowed: up to {_MAX_FILES} files under different names, each as `file`"
        )
        raise FaultsError([Fault("body", message)])
    return found


@router.get("/{device}/latency-tables", responses=problems(404, 422))
def browse_tables(context: ContextDep, device: NamePath, query: PageDep) -> PageOut[TableOut]:
    """A device's latency tables, newest first."""
    tables.find_device(context, device)
    with context.database.session() as session:
        page = devices.table_page(session, device, query.limit, query.cursor)
    return PageOut(items=[TableOut.of(record) for record in page.items], next_cursor=page.next_cursor)
