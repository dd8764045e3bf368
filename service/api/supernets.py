"""/supernets: register a trained run, browse, the elastic dimensions."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from typing import Any, BinaryIO

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from latency_tables.budget import NAME_PATTERN
from service import runs
from service.api import API
from service.api.dependencies import ContextDep, PageDep, SupernetPath, media_type
from service.api.idempotency import claimed, key_of
from service.api.openapi import IDEMPOTENCY_KEY, problems
from service.api.schemas import DimensionOut, PageOut, SpaceOut, SupernetOut
from service.api.uploads import Uploads
from service.context import Context
from service.domain import SupernetRecord, digest_of
from service.errors import Fault, FaultsError, NotFoundError
from service.storage import supernets
from supernet.errors import writing
from supernet.spaces import get_space

router = APIRouter(prefix="/supernets", tags=["supernets"])

_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["name", *runs.PARTS],
                    "additionalProperties": False,
                    "properties": {
                        "name": {"type": "string", "pattern": NAME_PATTERN},
                        **{
                            part: {"type": "string", "format": "binary", "description": path}
                            for part, path in runs.PARTS.items()
                        },
                    },
                },
                "example": {"name": "cifar10"} | {part: f"the content of {path}" for part, path in runs.PARTS.items()},
            }
        },
    }
}


@router.post(
    "",
    status_code=201,
    response_model=SupernetOut,
    responses={200: {"description": "registered already", "model": SupernetOut}, **problems(409, 422, 429)},
    openapi_extra={**_UPLOAD, "parameters": [IDEMPOTENCY_KEY]},
)
async def register(request: Request, response: Response) -> SupernetOut:
    """Register a trained run. The files are checked before anything is stored; 200 when they are known already."""
    if media_type(request) != "multipart/form-data":
        raise HTTPException(415, f"Content-Type is {media_type(request)[:80]!r}; allowed: multipart/form-data")
    key_of(request)  # a wrong one is refused before the body is read
    uploads: Uploads = request.app.state.uploads
    with uploads.one():
        record, new = await _receive(request, uploads.opening)
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"{API}/supernets/{record.id}"
    return SupernetOut.of(record)


async def _receive(request: Request, opening: CapacityLimiter) -> tuple[SupernetRecord, bool]:
    """The supernet of an upload, and whether it is new."""
    context: Context = request.app.state.context
    with writing(tempfile.gettempdir()):  # where great parts wait until the whole body is here
        form = await request.form(max_files=len(runs.PARTS), max_fields=1, max_part_size=1024)
    try:
        parts = {key: value for key, value in form.items() if isinstance(value, UploadFile)}
        known = {"name", *runs.PARTS}
        strange = [key for key, value in form.multi_items() if key not in known or (key == "name") == (key in parts)]
        if strange or len(form.multi_items()) > len(form):
            what = ", ".join(repr(key[:80]) for key in strange) or "a part that is sent twice"
            raise FaultsError(
                [Fault("body", f"unexpected {what}; allowed: the text name, and the files {', '.join(runs.PARTS)}")]
            )
        files = {key: value.file for key, value in parts.items()}
        name = str(form.get("name", ""))
        digest = "" if key_of(request) is None else await run_in_threadpool(_digest, name, files)
        async with claimed(request, digest) as claim:
            record, new = await to_thread.run_sync(runs.register, context, name, files, limiter=opening)
            claim.answer = record.id
        return record, new
    finally:
        await form.close()


def _digest(name: str, files: Mapping[str, BinaryIO]) -> str:
    """Of all that tells an upload from others."""
    found = {"POST": f"{API}/supernets", "name": name}
    for part, file in files.items():
        found[part] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        file.seek(0)
    return digest_of(found)


@router.get("", responses=problems(422))
def browse(context: ContextDep, query: PageDep) -> PageOut[SupernetOut]:
    """All supernets, newest first."""
    with context.database.session() as session:
        page = supernets.page(session, query.limit, query.cursor)
    return PageOut(items=[SupernetOut.of(record) for record in page.items], next_cursor=page.next_cursor)


@router.get("/{supernet}", responses=problems(404, 422))
def show(context: ContextDep, supernet: SupernetPath) -> SupernetOut:
    """One supernet, by id or name."""
    return SupernetOut.of(_find(context, supernet))


@router.delete("/{supernet}", status_code=204, responses=problems(404, 409, 422))
def delete(context: ContextDep, supernet: SupernetPath) -> None:
    """Forget a supernet and its files; the subnets cut from it stay."""
    runs.delete(context, supernet)


@router.get("/{supernet}/space", responses=problems(404, 422))
def space(context: ContextDep, supernet: SupernetPath) -> SpaceOut:
    """The elastic dimensions of a supernet."""
    record = _find(context, supernet)
    found = get_space(record.space).with_num_classes(record.num_classes)
    dimensions = [DimensionOut(name=dim.name, choices=list(dim.choices)) for dim in found.dimensions]
    return SpaceOut(
        name=found.name, num_classes=found.num_classes, cardinality=str(found.cardinality), dimensions=dimensions
    )


def _find(context: Context, id_or_name: str) -> SupernetRecord:
    with context.database.session() as session:
        record = supernets.get(session, id_or_name)
    if record is None:
        raise NotFoundError(f"no supernet {id_or_name[:80]!r}; see {API}/supernets for those that exist")
    return record
