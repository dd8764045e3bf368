"""`onceforall serve`: the HTTP service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the database and artefacts.  [default: onceforall-data]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Jobs that run at a time; 0: none here, but by `onceforall worker`.  [default: 1]"),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0: any free one.  [default: 8000]")] = None,
) -> None:
    """Answer budgets with subnets over HTTP, until interrupted; every setting is also an ONCEFORALL_* variable."""
    from service.server import run
    from service.settings import load_settings
    from supernet.memory import share_arenas

    settings = load_settings(data_dir=data_dir, host=host, port=port, job_workers=workers)

    def ready(url: str) -> None:
        typer.echo(f"serving at {url} (page), {url}/docs (API); stop with Ctrl-C")
        if settings.keys_required:
            typer.echo(
                f"keys are needed here; make one with: onceforall keys create NAME --data-dir {settings.data_dir}"
            )

    share_arenas()
    run(settings, on_ready=ready)
