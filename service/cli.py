"""The `onceforall` command. Commands import what they need when they run, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from service.commands.auto_compress import auto_compress
from service.commands.backup import backup, restore
from service.commands.demo import demo
from service.commands.export import export
from service.commands.extract import evaluate, extract
from service.commands.front import front
from service.commands.import_ofa import import_ofa
from service.commands.keys import keys
from service.commands.predictor import predictor
from service.commands.profile import profile
from service.commands.prune import prune
from service.commands.request import prune_request, request
from service.commands.search import search
from service.commands.serve import serve
from service.commands.settings import settings
from service.commands.storage import storage
from service.commands.tables import tables
from service.commands.train import train
from service.commands.worker import worker
from supernet.errors import OnceForAllError

app = typer.Typer(
    help="Train one elastic supernet, and serve the right piece of it to every device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    *(train, evaluate, predictor, profile, search, front, extract, export, import_ofa),
    *(serve, worker, request, settings, backup, restore, demo),
):
    app.command()(command)
app.add_typer(tables, name="tables")
prune.command("auto-compress")(auto_compress)
prune.command("request")(prune_request)
app.add_typer(storage, name="storage")
app.add_typer(keys, name="keys")
app.add_typer(prune, name="prune")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("onceforall"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors that a user can mend are one line, and exit status 2."""
    # OpenMP reads this when torch is loaded. Threads that spin while they wait make a training step 60 times slower
    # as soon as another program wants a core (measured: 6 s, not 0.1 s, on 2 cores); threads that sleep cost nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except OnceForAllError as error:
        if int(os.environ.get("RANK", "0")) == (error.process or 0):  # of many that torchrun started, one speaks
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
