"""/healthz, /readyz, /version, /metrics: for those who run the service."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.api.dependencies import ContextDep, MetricsDep
from service.metrics import CONTENT_TYPE, package_version

router = APIRouter(tags=["operations"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(context: ContextDep) -> dict[str, str]:
    """The database answers too; otherwise a problem document with status 507."""
    context.database.ping()
    return {"status": "ready"}


@router.get("/version")
def show_version() -> dict[str, str]:
    """The installed version."""
    return {"name": "onceforall", "version": package_version()}


@router.get("/metrics", response_class=Response)
def metrics(metrics: MetricsDep) -> Response:
    """Figures of this process and of the database in Prometheus's text format."""
    return Response(metrics.text(), media_type=CONTENT_TYPE)
