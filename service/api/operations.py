"""/healthz, /readyz, /version: for those who run the service."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter

from service.api.dependencies import ContextDep

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


def package_version() -> str:
    """The installed version; "unknown" in a checkout that was not installed."""
    try:
        return version("onceforall")
    except PackageNotFoundError:
        return "unknown"
