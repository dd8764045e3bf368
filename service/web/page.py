"""/: the first page, the fragment that its script refreshes, and the list of endpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from service.api.dependencies import ContextDep
from service.api.schemas import SubnetOut
from service.context import Context
from service.storage import devices, subnets, supernets

_HERE = Path(__file__).parent
_SHOWN = 100


def install(app: FastAPI) -> None:
    """Add the page to `app`."""
    templates = Jinja2Templates(_HERE / "templates")
    templates.env.filters.update(millions=_millions, percent=_percent, short=_short)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")

    @app.get("/", include_in_schema=False)
    def index(request: Request, context: ContextDep) -> Response:
        with context.database.session() as session:
            values: dict[str, Any] = {
                "supernets": supernets.page(session, _SHOWN, None).items,
                "devices": devices.device_page(session, _SHOWN, None).items,
            }
        return templates.TemplateResponse(request, "index.html", values | _subnets(context))

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> Response:
        operations = [
            {"method": method.upper(), "path": path, **operation}
            for path, methods in app.openapi()["paths"].items()
            for method, operation in methods.items()
        ]
        return templates.TemplateResponse(request, "docs.html", {"operations": operations})

    @app.get("/fragments/subnets", include_in_schema=False)
    def fragment(request: Request, context: ContextDep) -> Response:
        return templates.TemplateResponse(request, "subnets.html", _subnets(context))


def _subnets(context: Context) -> dict[str, Any]:
    with context.database.session() as session:
        found = subnets.subnet_page(session, _SHOWN, None)
    return {"subnets": [SubnetOut.of(record) for record in found.items], "more": found.next_cursor is not None}


def _millions(value: float) -> str:
    return f"{value / 1e6:.3g} M"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _short(digest: str) -> str:
    return digest[:10]
