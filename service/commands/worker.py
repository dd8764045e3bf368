"""`onceforall worker`: a host that does the jobs of a service whose database several machines share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.settings import Settings


def worker(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of this host's caches.  [default: onceforall-data]")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Jobs that run at a time.  [default: 1]")] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only say whether this machine's worker lives; exit status 1 where it does not."),
    ] = False,
) -> None:
    """Do the service's jobs on this machine, until interrupted; ONCEFORALL_DATABASE_URL and _ARTIFACT_URL say whose."""
    import signal
    import threading

    from service import logs
    from service.folder import DataFolder
    from service.jobs.host import run
    from service.settings import load_settings
    from supernet.errors import ConfigError

    settings = load_settings(data_dir=data_dir, job_workers=workers)
    if settings.embedded:
        raise ConfigError(
            f"a worker needs a database that it can share with the service, and has {settings.resolved_database_url!r};"
            " set ONCEFORALL_DATABASE_URL to postgresql://..., or use: onceforall serve, which does its jobs itself"
        )
    if not settings.job_workers:
        raise ConfigError("a worker with 0 jobs at a time does nothing; allowed: --workers 1 to 64")
    if check:
        _check(settings)
        return
    logs.configure(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    folder = DataFolder(settings.data_dir, settings.cache_dir, shared=True)
    folder.hold()
    try:
        run(settings, stop, on_ready=lambda name: typer.echo(f"working as {name}; stop with Ctrl-C"))
    finally:
        folder.release()


def _check(settings: Settings) -> None:
    """For health checks of containers: a worker that does not reach the database does no jobs."""
    import socket

    from service.jobs import queue
    from service.storage import executors
    from service.storage.database import Database

    database = Database(settings.resolved_database_url)
    try:
        with database.session() as session:
            alive = executors.alive_at(session, socket.gethostname(), queue.SILENCE_S)
    finally:
        database.close()
    if not alive:
        typer.echo(f"no worker of {socket.gethostname()!r} gave a sign of life within {queue.SILENCE_S:g} s", err=True)
        raise typer.Exit(1)
    typer.echo(f"the worker of {socket.gethostname()!r} lives")
