"""/pareto-fronts: predicted accuracy against one cost, of all subnets that a search found."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from latency_tables.budget import NAME_PATTERN
from service import fronts
from service.api import API
from service.api.dependencies import CallerDep, ContextDep
from service.api.downloads import matches, representation_headers
from service.api.openapi import PREFER, problems
from service.api.rendered import Rendered
from service.api.schemas import FrontOut, Incoming
from service.api.waiting import applied, until_ended, wait_for, wished
from service.context import Context
from service.fronts import METRICS, FrontAnswer

router = APIRouter(prefix="/pareto-fronts", tags=["Pareto fronts"])

_RETRY_S = 2
_CSV: dict[str, Any] = {
    "text/csv": {
        "schema": {"type": "string"},
        "example": 'predicted_accuracy,macs,params,config\n0.91,2900000,310000,"{""space"":""mobilenet_v3_tiny""}"\n',
    }
}


class FrontQuery(Incoming):
    """Which front, and how it is written."""

    supernet: str = Field(min_length=1, max_length=64, description="name or id of the supernet", examples=["cifar10"])
    device: str | None = Field(default=None, pattern=NAME_PATTERN, description="of latency_ms", examples=["note10"])
    metric: Literal[METRICS] | None = Field(  # type: ignore[valid-type]
        default=None, description="the cost; without one, latency_ms if there is a device, else macs"
    )
    format: Literal["json", "csv"] = "json"


@router.get(
    "",
    response_model=FrontOut,
    responses={
        200: {"description": "the front; its ETag is the SHA-256 of this answer", "content": _CSV},
        202: {"description": "a job searches it; ask again, or see the job that Location names", "model": FrontOut},
        304: {"description": "unchanged"},
        **problems(422, 429),
    },
    openapi_extra={"parameters": [PREFER]},
)
async def show(
    request: Request, context: ContextDep, caller: CallerDep, query: Annotated[FrontQuery, Query()]
) -> Response:
    """The front of a supernet's predicted accuracy against a cost: searched once, then stored.

    The first request starts the job that searches it; with `Prefer: wait=10` the answer waits for that.
    """
    answer = await run_in_threadpool(fronts.ask, context, caller, query.supernet, query.device, query.metric)
    seconds = wished(request, context)
    headers = {}
    if (
        answer.front is None
        and answer.job is not None
        and seconds is not None
        and await wait_for(request, context, until_ended(context, answer.job.id), seconds)
    ):
        headers = applied(seconds)
        answer = await run_in_threadpool(fronts.find, context, answer.spec)
    if answer.front is None:
        headers |= {"Retry-After": str(_RETRY_S), "Location": f"{API}/jobs/{answer.spec.digest}"}
        return Response(_pending(answer), 202, headers, media_type="application/json")
    content = await run_in_threadpool(_content, context, request.app.state.rendered, answer, query.format)
    headers |= representation_headers(hashlib.sha256(content).hexdigest()) | {"Cache-Control": "private, no-cache"}
    if matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if query.format == "csv":
        headers["Content-Disposition"] = 'attachment; filename="front.csv"'
    return Response(content, 200, headers, media_type="text/csv" if query.format == "csv" else "application/json")


def _content(context: Context, rendered: Rendered, answer: FrontAnswer, format: str) -> bytes:
    front = answer.front
    assert front is not None

    def make() -> bytes:
        stored = fronts.read(context, front)
        return fronts.as_csv(stored) if format == "csv" else FrontOut.of(front, stored).model_dump_json().encode()

    return rendered.get_or_make(("front", front.id, format), front.content.sha256, make)


def _pending(answer: FrontAnswer) -> bytes:
    return FrontOut.pending(answer.spec, answer.job).model_dump_json().encode()
