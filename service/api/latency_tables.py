"""/latency-tables: one version of a device's table: browse, download again, price subnets with it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from service import tables
from service.api import API
from service.api.dependencies import JSON_BODY, CheckedDep, ContextDep, DigestPath
from service.api.downloads import file_response
from service.api.openapi import ETAG, IF_NONE_MATCH, problems
from service.api.schemas import EstimateIn, EstimateOut, EstimatesOut, LayerLatencyOut, TableOut
from service.context import Context
from service.domain import TableRecord
from service.errors import Fault, FaultsError, NotFoundError
from service.storage import devices
from supernet.arch import SubnetConfig
from supernet.errors import ConfigError
from supernet.spaces import get_space

router = APIRouter(prefix="/latency-tables", tags=["latency tables"])

_FILE: dict[str, Any] = {
    kind: {"schema": {"type": "object"} if format == "json" else {"type": "string"}}
    for kind, format in tables.MEDIA_TYPES.items()
}


@router.get("/{table}", responses=problems(404, 422))
def show(context: ContextDep, table: DigestPath) -> TableOut:
    """One latency table."""
    return TableOut.of(_find(context, table))


@router.head("/{table}/content", include_in_schema=False)
@router.get(
    "/{table}/content",
    response_class=Response,
    responses={
        200: {"description": "the file", "content": _FILE, "headers": ETAG},
        304: {"description": "unchanged"},
        **problems(404, 422),
    },
    openapi_extra={"parameters": [IF_NONE_MATCH]},
)
def content(request: Request, context: ContextDep, checked: CheckedDep, table: DigestPath) -> Response:
    """The file as it was uploaded; of tables of the ofa package, the JSON document that was made of them."""
    record = _find(context, table)
    kind = next(kind for kind, format in tables.MEDIA_TYPES.items() if format == record.format)
    return file_response(request, context.artifacts, record.content, kind, checked)


@router.delete("/{table}", status_code=204, responses=problems(409, 422))
def delete(context: ContextDep, table: DigestPath) -> None:
    """Remove a latency table that has missing rows or that no request was priced with; 204 when it is gone already."""
    tables.delete(context, table)


@router.post("/{table}/estimate", dependencies=[JSON_BODY], responses=problems(404, 422))
def estimate(context: ContextDep, table: DigestPath, body: EstimateIn) -> EstimatesOut:
    """Latency of given subnets, with a breakdown by layer."""
    record = _find(context, table)
    loaded = context.searches.table(record)
    space = get_space(record.space).with_num_classes(record.num_classes)
    model = loaded.cost_model()
    items: list[EstimateOut] = []
    faults: list[Fault] = []
    for number, values in enumerate(body.subnets):
        try:
            config = SubnetConfig.from_dict(values)
            named = [(name, spec) for name, spec in space.named_layers(config) if spec is not None]
        except (ConfigError, TypeError) as error:
            faults.append(Fault(f"body.subnets.{number}", str(error)))
            continue
        layers = [
            LayerLatencyOut(name=name, layer=spec.key, latency_ms=value)
            for (name, spec), value in zip(named, model.of_each([spec for _, spec in named]), strict=True)
        ]
        total = loaded.estimate_ms(space, config)
        items.append(EstimateOut(config=config.to_dict(), latency_ms=total, layers=layers))
    if faults:
        raise FaultsError(faults)
    return EstimatesOut(device=record.device, table=record.id, items=items)


def _find(context: Context, table_id: str) -> TableRecord:
    with context.database.session() as session:
        record = devices.get_table(session, table_id)
    if record is None:
        raise NotFoundError(
            f"no latency table {table_id!r}; see {API}/devices/NAME/latency-tables for those that exist"
        )
    return record
