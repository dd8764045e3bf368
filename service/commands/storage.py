"""`onceforall storage`: what a service stores, whether it is whole, and what need not be kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.backup import DataDir
from service.commands.output import Json, print_json

if TYPE_CHECKING:
    from service.settings import Settings
    from service.storage.artifacts import ArtifactStore
    from service.storage.database import Database

storage = typer.Typer(no_args_is_help=True, help="What a service stores: check it, remove what need not be kept.")


@storage.command()
def check(
    data_dir: DataDir = None,
    read: Annotated[
        bool, typer.Option("--read", help="Read every file and hold it against its digest; takes as long as a copy.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare rows and files; exit status 1 where a file is missing or altered. The service may run."""
    from service import retention

    with _stores(data_dir) as (_, database, artifacts):
        found = retention.take_stock(database, artifacts, read=read)
    if json:
        print_json(asdict(found))
    else:
        altered = "not read" if found.altered is None else str(len(found.altered))
        typer.echo(
            f"{found.files} files, {found.size_bytes / 1e6:.1f} MB; missing: {len(found.missing)}; altered: {altered};"
            f" without a row: {len(found.orphans)}"
        )
        for digest, owner in found.missing:
            typer.echo(f"missing: {digest} of {owner}; bring it back with: onceforall storage repair BACKUP")
        for digest in found.altered or ():
            typer.echo(f"altered: {digest}; bring it back with: onceforall storage repair BACKUP")
    if found.missing or found.altered:
        raise typer.Exit(1)


@storage.command()
def repair(
    backup: Annotated[Path, typer.Argument(help="Folder that onceforall backup made.")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Bring missing and altered files back from a backup; exit status 1 where it lacks one. The service may run."""
    from service import retention
    from service.backup import repair as bring_back

    with _stores(data_dir) as (_, database, artifacts):
        found = retention.take_stock(database, artifacts, read=True)
        needed = sorted({digest for digest, _ in found.missing} | (set(found.altered or ()) - set(found.orphans)))
        lacking = bring_back(backup, artifacts, needed)
    repaired = [digest for digest in needed if digest not in lacking]
    if json:
        print_json({"repaired": repaired, "lacking": list(lacking)})
    else:
        typer.echo(f"repaired: {len(repaired)} files")
        for digest in lacking:
            typer.echo(f"not in {str(backup)!r}, or not whole there: {digest}; try another backup")
    if lacking:
        raise typer.Exit(1)


@storage.command()
def clean(
    data_dir: DataDir = None,
    older_than: Annotated[
        str | None, typer.Option(help="Remove subnets older than that: 90d, 36h, 2w.  [default: the service's setting]")
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option(help="Remove the oldest subnets until the rest fits: 20GiB.  [default: the service's setting]"),
    ] = None,
    orphans_older_than: Annotated[
        str, typer.Option(help="Remove files that no row names and that are older than that; at least 1h.")
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    json: Json = False,
) -> None:
    """Remove subnets that need not be kept, and files that nobody names. The service may run."""
    from service import retention

    with _stores(data_dir) as (settings, database, artifacts):
        limits = retention.Limits.of(settings, orphan_age=retention.parse_age(orphans_older_than))
        if older_than is not None:
            limits = replace(limits, age=retention.parse_age(older_than))
        if max_bytes is not None:
            limits = replace(limits, size_bytes=retention.parse_size(max_bytes))
        done = retention.clean(database, artifacts, limits, dry_run=dry_run)
    if json:
        print_json(asdict(done) | {"dry_run": dry_run})
        return
    typer.echo(
        f"{'would remove' if dry_run else 'removed'}: {done.subnets} subnets ({done.subnet_bytes / 1e6:.1f} MB),"
        f" {done.orphans} files without a row ({done.orphan_bytes / 1e6:.1f} MB), {done.unfinished} unfinished files"
    )


@contextmanager
def _stores(data_dir: DataDir) -> Iterator[tuple[Settings, Database, ArtifactStore]]:
    from service.settings import load_settings
    from service.storage.artifacts import open_artifacts
    from service.storage.database import Database

    settings = load_settings(data_dir=data_dir)
    database = Database(settings.resolved_database_url)
    try:
        database.check()  # not a database that this would make, nor one of another version
        yield settings, database, open_artifacts(settings.resolved_artifact_url)
    finally:
        database.close()
