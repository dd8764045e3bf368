"""The web pages: one a use, drawn by the server so that lists need no JavaScript; refusals are pages too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from service.api import jobs as api_jobs
from service.api import problems
from service.api.dependencies import CallerDep, ContextDep
from service.callers import ANYBODY, Caller
from service.errors import told
from service.web import ask_view, job_views, subnet_views, table_views, words
from supernet.errors import OnceForAllError

_HERE = Path(__file__).parent
Values = dict[str, Any]


def install(app: FastAPI) -> None:
    """Add the pages to `app`."""
    templates = Jinja2Templates(_HERE / "templates", context_processors=[_who])
    filters = (words.percent, words.figure, words.metric_name, words.limit, words.short, words.when, words.counted)
    templates.env.filters.update({function.__name__: function for function in filters})
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")

    def show(request: Request, template: str, make: Callable[[], Values]) -> Response:
        """A page, or the page that says why there is none."""
        try:
            values = make()
        except OnceForAllError as error:
            status = problems.status_of(error)
            return templates.TemplateResponse(request, "refused.html", {"error": told(error)}, status_code=status)
        return templates.TemplateResponse(request, template, values)

    @app.get("/", include_in_schema=False)
    def ask(request: Request, context: ContextDep) -> Response:
        def make() -> Values:
            with context.database.session() as session:
                return ask_view.ask(session)

        return show(request, "ask.html", make)

    @app.get("/subnets", include_in_schema=False)
    def browse_subnets(request: Request, context: ContextDep) -> Response:
        def make() -> Values:
            with context.database.session() as session:
                return subnet_views.browse(session, subnet_views.Query.read(request.query_params))

        return show(request, "subnets.html", make)

    @app.get("/subnets/compare", include_in_schema=False)
    def compare_subnets(
        request: Request, context: ContextDep, id: Annotated[list[str] | None, Query()] = None
    ) -> Response:
        def make() -> Values:
            with context.database.session() as session:
                return subnet_views.compared(session, id or [])

        return show(request, "compare_subnets.html", make)

    @app.get("/subnets/{subnet}", include_in_schema=False)
    def show_subnet(request: Request, context: ContextDep, subnet: str) -> Response:
        def make() -> Values:
            with context.database.session() as session:
                return subnet_views.one(session, subnet)

        return show(request, "subnet.html", make)

    @app.get("/tables", include_in_schema=False)
    def browse_tables(request: Request, context: ContextDep, cursor: str | None = None) -> Response:
        def make() -> Values:
            with context.database.session() as session:
                return table_views.browse(session, cursor)

        return show(request, "tables.html", make)

    @app.get("/tables/compare", include_in_schema=False)
    def compare_tables(request: Request, context: ContextDep, a: str = "", b: str = "") -> Response:
        return show(request, "compare_tables.html", lambda: table_views.compared(context, a, b))

    @app.get("/jobs", include_in_schema=False)
    def browse_jobs(
        request: Request, context: ContextDep, state: str | None = None, cursor: str | None = None
    ) -> Response:
        def make() -> Values:
            with context.database.session() as session:
                return job_views.browse(session, state, cursor)

        return show(request, "jobs.html", make)

    @app.post("/jobs/{job}/cancel", include_in_schema=False)
    def cancel_job(request: Request, context: ContextDep, caller: CallerDep, job: str) -> Response:
        """What the button of a page without JavaScript sends."""

        def make() -> Values:
            api_jobs.cancel(context, caller, job)
            return {}

        refused = show(request, "refused.html", make)
        return refused if refused.status_code >= 400 else RedirectResponse("/jobs", 303)

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> Response:
        operations = [
            {"method": method.upper(), "path": path, **operation}
            for path, methods in app.openapi()["paths"].items()
            for method, operation in methods.items()
        ]
        return templates.TemplateResponse(request, "docs.html", {"operations": operations})


def _who(request: Request) -> Values:
    """What every page says of who looks at it."""
    caller: Caller = getattr(request.state, "caller", ANYBODY)
    return {"key": caller.key_id}
