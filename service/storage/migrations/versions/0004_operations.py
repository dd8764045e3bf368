"""What operators ask for: how much is stored, how long jobs take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"

_BATCH = 500


def upgrade() -> None:
    """Add columns and their indexes; what is stored already is counted."""
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("started_at", sa.String(), nullable=True))
        jobs.create_index("jobs_by_kind", ["kind", "state"])
        jobs.create_index("jobs_by_end", ["state", "updated_at"])
    with op.batch_alter_table("subnets") as subnets:
        subnets.add_column(sa.Column("stored_files", sa.Integer(), nullable=False, server_default="0"))
        subnets.add_column(sa.Column("stored_bytes", sa.BigInteger(), nullable=False, server_default="0"))
        subnets.create_index("subnets_by_size", ["created_at", "id", "stored_files", "stored_bytes"])
    _count_files(op.get_bind())


def _count_files(connection: sa.Connection) -> None:
    table = sa.table(
        "subnets",
        sa.column("id", sa.String()),
        sa.column("files", sa.JSON()),
        sa.column("stored_files", sa.Integer()),
        sa.column("stored_bytes", sa.BigInteger()),
    )
    here = sa.update(table).where(table.c.id == sa.bindparam("row_id"))
    count = here.values(stored_files=sa.bindparam("count"), stored_bytes=sa.bindparam("size"))
    last = ""
    while True:
        query = sa.select(table.c.id, table.c.files).where(table.c.id > last).order_by(table.c.id).limit(_BATCH)
        rows = connection.execute(query).all()
        if not rows:
            return
        last = rows[-1].id
        sizes = {row.id: [file["size_bytes"] for file in row.files.values()] for row in rows}
        connection.execute(
            count, [{"row_id": row_id, "count": len(each), "size": sum(each)} for row_id, each in sizes.items()]
        )
