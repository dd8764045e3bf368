"""/subnets: browse, compare, download."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service import exports
from service.api import API
from service.api.dependencies import CallerDep, CheckedDep, ContextDep, DigestPath
from service.api.downloads import BINARY, file_response
from service.api.openapi import CONDITIONS, ETAG, PREFER, problems
from service.api.rendered import Rendered
from service.api.schemas import JobOut, PageOut, SubnetBriefOut, SubnetOut, SubnetQuery
from service.api.waiting import applied, until_ended, wait_for, wished
from service.context import Context
from service.domain import SubnetRecord
from service.errors import Fault, FaultsError, NotFoundError
from service.storage import jobs, subnets, supernets

router = APIRouter(prefix="/subnets", tags=["subnets"])

_MEDIA_TYPES = {
    "safetensors": BINARY,
    "config": "application/json",
    "card": "application/json",
    "plan": "application/json",
    "masks": BINARY,
    "onnx": BINARY,
    "pt2": BINARY,
}
_WAIT_S = 20.0
_RETRY_S = 2
_FILE: dict[str, Any] = {
    kind: {"schema": {"type": "string", "format": "binary"} if kind == "application/octet-stream" else {}}
    for kind in sorted(set(_MEDIA_TYPES.values()))
}


@router.get("", response_model=PageOut[SubnetBriefOut], responses=problems(422))
def browse(request: Request, context: ContextDep, query: Annotated[SubnetQuery, Query()]) -> Response:
    """Subnets and pruned networks that pass the filters.

    `accuracy` is the measured one, `latency_ms` the predicted one on `device`. Nothing predicts the accuracy of a
    pruned network: it is null there, and the order by it leaves them out.
    """
    at_least = {"accuracy": query.accuracy_gte, "predicted_accuracy": query.predicted_accuracy_gte}
    at_most = {"macs": query.macs_lte, "params": query.params_lte, "latency_ms": query.latency_ms_lte}
    with context.database.session() as session:
        supernet = None if query.supernet is None else supernets.identify(session, query.supernet)
        page = subnets.subnet_ids(
            session,
            query.limit,
            query.cursor,
            sort=query.sort,
            device=query.device,
            supernet=query.supernet if supernet is None else supernet[0],
            pruned=query.pruned,
            at_least={name: bound for name, bound in at_least.items() if bound is not None},
            at_most={name: bound for name, bound in at_most.items() if bound is not None},
        )
        rendered: Rendered = request.app.state.rendered
        states = subnets.files_of(session, page.items)
        items = {one: rendered.get(("brief", one), state) for one, state in states.items()}
        for record in subnets.get_many(session, [one for one, item in items.items() if item is None]):
            items[record.id] = item = SubnetBriefOut.of(record).model_dump_json().encode()
            rendered.put(("brief", record.id), states[record.id], item)
    listed = b",".join(found for one in page.items if (found := items.get(one)) is not None)
    following = b"null" if page.next_cursor is None else b'"%s"' % page.next_cursor.encode()  # base64 needs no escape
    return Response(b'{"items":[%s],"next_cursor":%s}' % (listed, following), media_type="application/json")


@router.get("/{subnet}", responses=problems(404, 422))
def show(context: ContextDep, subnet: DigestPath) -> SubnetOut:
    """One subnet."""
    return SubnetOut.of(_find(context, subnet))


@router.head("/{subnet}/download", include_in_schema=False)
@router.get(
    "/{subnet}/download",
    response_class=Response,
    responses={
        200: {"description": "the file", "content": _FILE, "headers": ETAG},
        202: {"description": "a job makes the format; ask again, or see the job that Location names", "model": JobOut},
        206: {"description": "the range that was asked for", "content": {BINARY: _FILE[BINARY]}, "headers": ETAG},
        304: {"description": "unchanged"},
        **problems(404, 416, 422, 429),
    },
    openapi_extra={"parameters": [*CONDITIONS, PREFER]},
)
async def download(
    request: Request,
    context: ContextDep,
    caller: CallerDep,
    checked: CheckedDep,
    subnet: DigestPath,
    format: Literal["safetensors", "config", "card", "plan", "masks", "onnx", "pt2"] = "safetensors",
) -> Response:
    """One of the subnet's files. `onnx` and `pt2` are made when they are asked for first, and kept.

    A pruned network has no `config` but a `plan`, `masks` where single columns or weights have gone, and `pt2` always.
    The answer waits for that up to 20 s, or as long as `Prefer: wait=` says, and is 202 then.
    """
    record = await run_in_threadpool(_find, context, subnet)
    # not immutable: a subnet that was forgotten and made anew has this address again, and may have another card
    headers = {"Cache-Control": "private, no-cache"}
    if format not in record.files:
        if request.method == "HEAD":
            raise NotFoundError(f"subnet {subnet!r} has no file {format!r} yet; GET makes it")
        if format not in exports.MADE_ON_DEMAND:
            there = ", ".join([*record.files, *exports.lacking(record, exports.MADE_ON_DEMAND)])
            raise FaultsError([Fault("query.format", f"this one has no file {format!r}; allowed: {there}")])
        exports.require([format], "query.format")
        job_id = await run_in_threadpool(exports.start, context, caller, record, [format])
        seconds = wished(request, context)
        patience = _WAIT_S if seconds is None else seconds
        if await wait_for(request, context, until_ended(context, job_id), patience) and seconds is not None:
            headers |= applied(seconds)
        record = await run_in_threadpool(_find, context, subnet)
        if format not in record.files:
            return await run_in_threadpool(_pending, context, job_id, headers)
    found = await run_in_threadpool(
        file_response, request, context.artifacts, record.files[format], _MEDIA_TYPES[format], checked
    )
    found.headers.update(headers)
    return found


def _pending(context: Context, job_id: str, headers: dict[str, str]) -> Response:
    with context.database.session() as session:
        job = jobs.get(session, job_id)
    assert job is not None
    headers |= {"Location": f"{API}/jobs/{job_id}", "Retry-After": str(_RETRY_S)}
    return Response(JobOut.of(job).model_dump_json(), 202, headers, media_type="application/json")


def _find(context: Context, subnet_id: str) -> SubnetRecord:
    with context.database.session() as session:
        record = subnets.get_subnet(session, subnet_id)
    if record is None:
        raise NotFoundError(f"no subnet {subnet_id!r}; see {API}/subnets for those that exist")
    return record
