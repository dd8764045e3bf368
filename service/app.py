"""The composition root: settings in, application out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.concurrency import run_in_threadpool

from service.api import (
    API,
    devices,
    jobs,
    latency_tables,
    openapi,
    operations,
    pareto_fronts,
    problems,
    pruning_runs,
    subnet_requests,
    subnets,
    supernets,
    weights,
)
from service.api.access import Access
from service.api.downloads import Checked
from service.api.guards import Guards
from service.api.rendered import Rendered
from service.api.request_log import RequestLog
from service.api.uploads import Uploads
from service.context import Context
from service.folder import DataFolder
from service.health import Readiness
from service.jobs import DbosJobEngine
from service.metrics import Metrics, package_version
from service.searches import Searches
from service.settings import Settings
from service.storage.artifacts import open_artifacts
from service.storage.database import Database
from service.web import page


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application; its jobs run while it is served.

    Raises:
        StorageError: the data folder cannot be written.
    """
    context = create_context(settings)
    app = FastAPI(
        title="onceforall",
        summary="Budget in, calibrated subnet out.",
        version=package_version(),
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
        generate_unique_id_function=openapi.operation_id,
        lifespan=_lifespan,
    )
    app.state.context = context
    app.state.event_streams = 0
    app.state.stopping = lambda: False
    app.state.readiness = Readiness(context)
    app.state.metrics = Metrics(context.database)
    app.state.metrics.event_streams.set_function(lambda: app.state.event_streams)
    app.state.rendered = Rendered()
    app.state.threads = subnet_requests.Threads()
    app.state.uploads = Uploads(settings.max_uploads)
    app.state.checked = Checked()
    problems.install(app)
    openapi.install(app)
    api = APIRouter(prefix=API)
    for module in (
        *(supernets, devices, latency_tables, subnet_requests, subnets, pareto_fronts),
        *(pruning_runs, weights, jobs),
    ):
        api.include_router(module.router)
    app.include_router(api)
    app.include_router(operations.router)
    page.install(app)
    app.add_middleware(Access, settings=settings, database=context.database)
    app.add_middleware(Guards, settings=settings, body_limit=_body_limit(settings), hosts=settings.hosts)
    app.add_middleware(RequestLog, metrics=app.state.metrics)  # the last one added is the outermost
    return app


def create_context(settings: Settings) -> Context:
    """The service's parts, not started: only `Context.start` holds the data folder and touches the database."""
    folder = DataFolder(settings.data_dir, settings.cache_dir, shared=not settings.embedded)
    database = Database(settings.resolved_database_url)
    artifacts = open_artifacts(settings.resolved_artifact_url)
    searches = Searches(database, artifacts, settings.cache_dir)
    return Context(settings, folder, database, artifacts, DbosJobEngine(settings, database), searches)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: Context = app.state.context
    context.start()
    try:
        yield
    finally:
        await run_in_threadpool(context.stop)


def _body_limit(settings: Settings) -> Callable[[str], int]:
    def limit(path: str) -> int:
        if path.rstrip("/") == f"{API}/supernets":
            return settings.max_upload_bytes
        if path.rstrip("/") == f"{API}/weights":
            return settings.max_weights_bytes
        return settings.max_table_bytes if path.rstrip("/").endswith("/latency-tables") else settings.max_body_bytes

    return limit
