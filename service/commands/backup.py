"""`onceforall backup` and `onceforall restore`: copies of what a service on one machine stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.output import Json, print_json, progress_bar

DataDir = Annotated[Path | None, typer.Option(help="Folder of the service.  [default: onceforall-data]")]


def backup(
    out: Annotated[Path, typer.Option(help="Folder to make; it must not exist.")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Copy a service's database and files while it runs; the copy is checked by digests, and whole or absent."""
    from service import backup as backups
    from service.settings import load_settings

    with progress_bar("files") as progress:
        report = backups.backup(load_settings(data_dir=data_dir), out, progress=progress)
    if json:
        print_json(report.to_dict())
    else:
        typer.echo(
            f"{report.path}: {report.files} files and the database, {report.size_bytes / 1e6:.1f} MB, as of"
            f" {report.created_at}; bring it back with: onceforall restore {report.path} --data-dir NEW_FOLDER"
        )


def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `onceforall backup` made.")],
    data_dir: DataDir = None,
    check: Annotated[bool, typer.Option("--check", help="Only read the backup and check it by its digests.")] = False,
    json: Json = False,
) -> None:
    """Bring a backup back into a folder that has no service yet; every byte is checked before and after."""
    from service import backup as backups
    from service.settings import load_settings

    if check:
        report = backups.verify(source)
    else:
        with progress_bar("files") as progress:
            report = backups.restore(load_settings(data_dir=data_dir), source, progress=progress)
    if json:
        print_json(report.to_dict())
    else:
        done = "whole" if check else "restored"
        typer.echo(f"{report.path}: {done}; {report.files} files and the database, as of {report.created_at}")
