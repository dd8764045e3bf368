"""Jobs on several hosts: submission numbers, hosts with their signs of life, files on their way into the store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    """Add them; counts of MACs and parameters may pass 2^31."""
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("submission", sa.Integer(), nullable=False, server_default="0"))
        jobs.add_column(sa.Column("executor", sa.String(), nullable=True))
        jobs.create_index("jobs_by_time", ["created_at", "id"])
    if op.get_bind().dialect.name != "sqlite":  # its integers have 64 bits already
        for name in ("macs", "params"):
            op.alter_column("subnets", name, type_=sa.BigInteger(), existing_nullable=False)
    op.create_table(
        "executors",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("beat_at", sa.Double(), nullable=False),
    )
    op.create_table(
        "staged_files",
        sa.Column("sha256", sa.String(), primary_key=True),
        sa.Column("ticket", sa.String(), primary_key=True),
        sa.Column("process", sa.String(), nullable=False),
        sa.Column("staged_at", sa.String(), nullable=False),
    )
