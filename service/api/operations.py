"""/healthz, /readyz, /version, /metrics: for those who run the service."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.api.dependencies import MetricsDep
from service.api.openapi import problems
from service.api.problems import problem
from service.errors import Fault
from service.health import Readiness
from service.metrics import CONTENT_TYPE, package_version

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers. Asks nothing of its parts, so that no fault of theirs gets it restarted."""
    return {"status": "ok"}


@router.get("/readyz", response_model=dict[str, str], responses=problems(503))
def readyz(request: Request) -> dict[str, str] | Response:
    """Requests are answered: database, artefact store, free space, somebody who does jobs; no stop is under way."""
    readiness: Readiness = request.app.state.readiness
    stopping = [Fault("process", "it was told to stop")] if request.app.state.stopping() else []
    faults = stopping or readiness.faults()
    if not faults:
        return {"status": "ready"}
    detail = f"not ready: {'; '.join(f'{fault.where}: {fault.message}' for fault in faults)}"
    return problem(503, "not-ready", detail, faults=faults, headers={"Retry-After": "5"})


@router.get("/version")
def show_version() -> dict[str, str]:
    """The installed version."""
    return {"name": "onceforall", "version": package_version()}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": "up 1\n"}}}},
)
def metrics(metrics: MetricsDep) -> Response:
    """Figures of this process and of the database in Prometheus's text format."""
    return Response(metrics.text(), media_type=CONTENT_TYPE)
