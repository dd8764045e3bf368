"""/weights: what a pruning run of a named architecture begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from service import weights
from service.api import API
from service.api.dependencies import ContextDep, media_type
from service.api.idempotency import claimed, key_of
from service.api.openapi import IDEMPOTENCY_KEY, problems
from service.api.pruning_schemas import WeightsOut
from service.api.uploads import Uploads
from service.domain import digest_of
from service.folder import temporary_folder
from supernet.errors import writing
from supernet.files import sha256_file

router = APIRouter(prefix="/weights", tags=["pruning runs"])

_TYPE = "application/octet-stream"
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {_TYPE: {"schema": {"type": "string", "format": "binary"}, "example": "a safetensors file"}},
    }
}


@router.post(
    "",
    status_code=201,
    responses=problems(413, 415, 422, 429),
    openapi_extra={**_BODY, "parameters": [IDEMPOTENCY_KEY]},
)
async def upload(request: Request, context: ContextDep) -> WeightsOut:
    """Upload weights: one safetensors file as the body. They go after an hour unless a pruning run names them."""
    if media_type(request) != _TYPE:
        raise HTTPException(415, f"Content-Type is {media_type(request)[:80]!r}; allowed: {_TYPE}")
    key_of(request)  # a wrong one is refused before the body is read
    uploads: Uploads = request.app.state.uploads
    with uploads.one(), temporary_folder(context.settings.cache_dir, "upload") as folder:
        path = folder / weights.NAME
        with writing(path), path.open("wb") as file:
            async for chunk in request.stream():
                await run_in_threadpool(file.write, chunk)
        digest = "" if key_of(request) is None else await run_in_threadpool(_digest, path)
        async with claimed(request, digest) as claim:
            stored, tensors = await run_in_threadpool(weights.store, context, path)
            claim.answer = stored.sha256
    return WeightsOut.of(stored, tensors)


def _digest(path: Path) -> str:
    """Of all that tells an upload from others."""
    return digest_of({"POST": f"{API}/weights", "sha256": sha256_file(path)})
