"""`onceforall keys`: who may use a service that other machines can reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.output import Json, print_json, print_table
from service.keys import Scope

if TYPE_CHECKING:
    from service.keys import Key
    from service.storage.database import Database

keys = typer.Typer(
    help="Make, list and revoke the keys of a service; they work on the service's database, while it runs too.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
DataDir = Annotated[Path | None, typer.Option(help="Folder of the service's database.  [default: onceforall-data]")]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what gets the key, in words.")],
    scope: Annotated[
        list[Scope], typer.Option(help="What it may do; repeat for several. admin: everything, and delete.")
    ] = [Scope.READ, Scope.REQUEST],  # noqa: B006 (typer's way)
    days: Annotated[float | None, typer.Option(min=0, help="Days until it expires.  [default: never]")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Cap on its requests.  [default: the service's]")
    ] = None,
    active_jobs: Annotated[
        int | None, typer.Option(min=1, help="Cap on its jobs that wait or run.  [default: the service's]")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, once: only a digest of it is stored."""
    from service.keys import new_key
    from service.storage import keys as rows

    text, key = new_key(name, scope, days=days, requests_per_minute=requests_per_minute, max_active_jobs=active_jobs)
    with _database(data_dir) as database, database.session() as session:
        rows.add(session, key)
    if as_json:
        print_json(_public(key) | {"key": text})
        return
    typer.echo(text)
    typer.echo(
        f"key {key.id} of {name!r}, scopes: {', '.join(sorted(key.scopes))}; keep it now, nobody can show it again;"
        " send it as Authorization: Bearer KEY, or set ONCEFORALL_KEY for onceforall request",
        err=True,
    )


@keys.command("list")
def list_keys(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List all keys, without their secrets."""
    from service.domain import utc_now
    from service.storage import keys as rows

    with _database(data_dir) as database, database.session() as session:
        found = rows.every(session)
    if as_json:
        print_json([_public(key) for key in found])
        return
    now = utc_now()
    print_table(
        f"{len(found)} key{'s' if len(found) != 1 else ''}",
        ["id", "name", "scopes", "created", "expires", "state"],
        [
            [
                key.id,
                key.name,
                " ".join(sorted(key.scopes)),
                key.created_at[:10],
                (key.expires_at or "never")[:10],
                "valid" if key.ended(now) is None else "revoked" if key.revoked_at else "expired",
            ]
            for key in found
        ],
    )


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key, or the whole key.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End a key; services refuse it within two seconds."""
    from service.keys import parse
    from service.storage import keys as rows
    from supernet.errors import ConfigError

    parsed = parse(key)
    key_id = key if parsed is None else parsed[0]
    with _database(data_dir) as database, database.session(exclusive=True) as session:
        found = rows.revoke(session, key_id)
    if not found:
        raise ConfigError(f"no key {key_id[:40]!r}; see those that exist with: onceforall keys list")
    if as_json:
        print_json({"revoked": key_id})
    else:
        typer.echo(f"revoked {key_id}")


@contextmanager
def _database(data_dir: Path | None) -> Iterator[Database]:
    """The service's database, with the schema of this version."""
    from service.settings import load_settings
    from service.storage.database import Database
    from supernet.errors import writing

    settings = load_settings(data_dir=data_dir)
    if settings.embedded:
        with writing(settings.data_dir):
            settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.resolved_database_url)
    try:
        database.migrate()
        yield database
    finally:
        database.close()


def _public(key: Key) -> dict[str, Any]:
    values = {name: value for name, value in vars(key).items() if name != "secret_sha256"}
    return values | {"scopes": sorted(key.scopes)}
