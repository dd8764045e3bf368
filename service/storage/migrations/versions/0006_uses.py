"""Who needs a file or a latency table, so that it is looked up and not searched for; submissions count milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision: str | None = "0005"

_BATCH = 500
_USES = sa.table("uses", sa.column("needed", sa.String()), sa.column("owner", sa.String()))


def upgrade() -> None:
    """Add the list, and fill it from the rows that are there."""
    op.create_table(
        "uses",
        sa.Column("needed", sa.String(), primary_key=True),
        sa.Column("owner", sa.String(), primary_key=True),
    )
    op.create_index("uses_by_owner", "uses", ["owner"])
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":  # whose integers have 64 bits
        op.alter_column("jobs", "submission", existing_type=sa.Integer(), type_=sa.BigInteger())
    for table, kind, columns in (
        ("supernets", "supernet", ("files",)),
        ("latency_tables", "table", ("content",)),
        ("fronts", "front", ("content", "spec")),
        ("subnet_requests", "request", ("weights", "spec")),
        ("subnets", "subnet", ("files",)),
    ):
        for batch in _rows(connection, table, columns):
            found = [
                {"needed": one, "owner": f"{kind} {row.id}"}
                for row in batch
                for one in sorted({one for name in columns for one in _needed(name, getattr(row, name))})
            ]
            if found:
                connection.execute(_USES.insert(), found)


def _rows(connection: sa.Connection, table: str, columns: Iterable[str]) -> Iterator[list[Any]]:
    source = sa.table(table, sa.column("id", sa.String()), *(sa.column(name, sa.JSON()) for name in columns))
    last = ""
    while True:
        query = sa.select(source).where(source.c.id > last).order_by(source.c.id).limit(_BATCH)
        rows = list(connection.execute(query))
        if not rows:
            return
        last = rows[-1].id
        yield rows


def _needed(column: str, value: Any) -> Iterator[str]:
    if not value:
        return
    if column == "spec":  # of a request: device -> table; of a front: one table or none
        tables = [*(value.get("tables") or {}).values(), value.get("table")]
        yield from (f"table {table}" for table in tables if table)
    else:
        files = value.values() if column == "files" else [value]
        yield from (file["sha256"] for file in files)
