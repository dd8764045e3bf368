"""What the routers ask for: the context, checked ids, the kind of body.

All are coroutines: FastAPI gives each plain function a thread, which costs more than they do.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Path, Query, Request

from latency_tables.budget import NAME_PATTERN
from service.api.downloads import Checked
from service.api.schemas import PageQuery
from service.callers import ANYBODY, Caller
from service.context import Context
from service.domain import DIGEST_PATTERN
from service.metrics import Metrics


async def context_of(request: Request) -> Context:
    """The context that the composition root put into the application."""
    context: Context = request.app.state.context
    return context


async def metrics_of(request: Request) -> Metrics:
    """The figures of this application."""
    metrics: Metrics = request.app.state.metrics
    return metrics


async def caller_of(request: Request) -> Caller:
    """Who sent the request; `access` found it out."""
    caller: Caller = getattr(request.state, "caller", ANYBODY)
    return caller


async def checked_of(request: Request) -> Checked:
    """The files that were found sound."""
    checked: Checked = request.app.state.checked
    return checked


def media_type(request: Request) -> str:
    """The body's type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request) -> None:
    """Refuse a body that is not declared as JSON."""
    if media_type(request) != "application/json":
        raise HTTPException(415, f"Content-Type is {media_type(request)[:80]!r}; allowed: application/json")


CallerDep = Annotated[Caller, Depends(caller_of)]
CheckedDep = Annotated[Checked, Depends(checked_of)]
ContextDep = Annotated[Context, Depends(context_of)]
MetricsDep = Annotated[Metrics, Depends(metrics_of)]
DigestPath = Annotated[str, Path(pattern=DIGEST_PATTERN, description="64 hexadecimal digits")]
SupernetPath = Annotated[str, Path(max_length=64, pattern=NAME_PATTERN, description="name or id", examples=["cifar10"])]
NamePath = Annotated[str, Path(pattern=NAME_PATTERN)]
PageDep = Annotated[PageQuery, Query()]
JSON_BODY = Depends(json_body)
