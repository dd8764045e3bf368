"""Keys, idempotency keys, fronts, wanted formats; complete tables and subnets' figures where they are searched."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"

FIGURES = ("created_at", "accuracy", "predicted_accuracy", "macs", "params")


def upgrade() -> None:
    """Add them; a browse then reads one index, never the rows, which are 20 times as large."""
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("secret_sha256", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("max_active_jobs", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("expires_at", sa.String(), nullable=True),
        sa.Column("revoked_at", sa.String(), nullable=True),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(), primary_key=True),
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("request_digest", sa.String(), nullable=False),
        sa.Column("response_digest", sa.String(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
    )
    op.create_index("idempotency_keys_by_time", "idempotency_keys", ["created_at"])
    op.create_table(
        "job_owners",
        sa.Column("job_id", sa.String(), primary_key=True),
        sa.Column("key_id", sa.String(), nullable=False),
    )
    op.create_index("job_owners_by_key", "job_owners", ["key_id"])
    op.create_table(
        "fronts",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("supernet_id", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
    )
    op.create_index("fronts_by_supernet", "fronts", ["supernet_id"])
    _requests()
    _tables()
    _figures()


def _requests() -> None:
    with op.batch_alter_table("subnet_requests") as table:
        table.add_column(sa.Column("formats", sa.JSON(), nullable=False, server_default="[]"))
    with op.batch_alter_table("subnet_requests") as table:
        table.alter_column("formats", server_default=None)


def _tables() -> None:
    with op.batch_alter_table("latency_tables") as table:
        table.add_column(sa.Column("complete", sa.Boolean(), nullable=False, server_default=sa.false()))
    tables = sa.table("latency_tables", sa.column("id"), sa.column("missing", sa.JSON()), sa.column("complete"))
    connection = op.get_bind()
    for table_id, missing in connection.execute(sa.select(tables.c.id, tables.c.missing)).all():
        if not missing:
            connection.execute(sa.update(tables).where(tables.c.id == table_id).values(complete=sa.true()))
    with op.batch_alter_table("latency_tables") as table:
        table.alter_column("complete", server_default=None)


def _figures() -> None:
    columns: dict[str, sa.types.TypeEngine[Any]] = {
        "created_at": sa.String(),
        "accuracy": sa.Double(),
        "predicted_accuracy": sa.Double(),
        "macs": sa.BigInteger(),
        "params": sa.BigInteger(),
        "supernet_id": sa.String(),
    }
    with op.batch_alter_table("subnet_latencies") as table:
        for name, kind in columns.items():
            table.add_column(sa.Column(name, kind, nullable=True))
    for name in columns:
        op.execute(
            f"update subnet_latencies set {name} ="
            f" (select {name} from subnets where subnets.id = subnet_latencies.subnet_id)"
        )
    with op.batch_alter_table("subnet_latencies") as table:
        for name, kind in columns.items():
            table.alter_column(name, existing_type=kind, nullable=False)
    for old in ("time", "accuracy", "macs"):
        op.drop_index(f"subnets_by_{old}", "subnets")
    for name in FIGURES:
        others = [other for other in FIGURES if other not in (name, "created_at")]
        op.create_index(f"subnets_by_{name}", "subnets", [name, "id", *others, "supernet_id"])
    for name in (*FIGURES, "predicted_ms"):
        others = [other for other in (*FIGURES, "predicted_ms") if other not in (name, "created_at")]
        op.create_index(
            f"subnet_latencies_by_{name}", "subnet_latencies", ["device", name, "subnet_id", *others, "supernet_id"]
        )
