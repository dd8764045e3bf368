"""/subnets: browse, compare, download."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from service.api import API
from service.api.dependencies import ContextDep, DigestPath
from service.api.downloads import file_response
from service.api.schemas import PageOut, SubnetOut, SubnetQuery
from service.context import Context
from service.domain import SubnetRecord
from service.errors import NotFoundError
from service.storage import subnets, supernets

router = APIRouter(prefix="/subnets", tags=["subnets"])

_MEDIA_TYPES = {"safetensors": "application/octet-stream", "config": "application/json", "card": "application/json"}


@router.get("")
def browse(context: ContextDep, query: Annotated[SubnetQuery, Query()]) -> PageOut[SubnetOut]:
    """Subnets that pass the filters; `accuracy` is the measured one, `latency_ms` the predicted one on `device`."""
    at_least = {"accuracy": query.accuracy_gte, "predicted_accuracy": query.predicted_accuracy_gte}
    at_most = {"macs": query.macs_lte, "params": query.params_lte, "latency_ms": query.latency_ms_lte}
    with context.database.session() as session:
        supernet = None if query.supernet is None else supernets.get(session, query.supernet)
        page = subnets.subnet_page(
            session,
            query.limit,
            query.cursor,
            sort=query.sort,
            device=query.device,
            supernet=query.supernet if supernet is None else supernet.id,
            at_least={name: bound for name, bound in at_least.items() if bound is not None},
            at_most={name: bound for name, bound in at_most.items() if bound is not None},
        )
    return PageOut(items=[SubnetOut.of(record) for record in page.items], next_cursor=page.next_cursor)


@router.get("/{subnet}")
def show(context: ContextDep, subnet: DigestPath) -> SubnetOut:
    """One subnet."""
    return SubnetOut.of(_find(context, subnet))


@router.head("/{subnet}/download", include_in_schema=False)
@router.get("/{subnet}/download", response_class=Response)
def download(
    request: Request,
    context: ContextDep,
    subnet: DigestPath,
    format: Literal["safetensors", "config", "card"] = "safetensors",
) -> Response:
    """One of the subnet's three files: weights, config, card."""
    file = _find(context, subnet).files[format]
    return file_response(request, context.artifacts, file, _MEDIA_TYPES[format])


def _find(context: Context, subnet_id: str) -> SubnetRecord:
    with context.database.session() as session:
        record = subnets.get_subnet(session, subnet_id)
    if record is None:
        raise NotFoundError(f"no subnet {subnet_id!r}; see {API}/subnets for those that exist")
    return record
