"""The database's tables. Times are ISO 8601 text in UTC; JSON columns hold plain JSON."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, validates

_Count = BigInteger().with_variant(Integer, "sqlite")  # whose integers have 64 bits


class Base(DeclarativeBase):
    """Base of all rows."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 (SQLAlchemy's way)


class SupernetRow(Base):
    """A registered supernet."""

    __tablename__ = "supernets"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    space: Mapped[str]
    num_classes: Mapped[int]
    manifest: Mapped[dict[str, Any]]
    predictor_digest: Mapped[str]
    files: Mapped[dict[str, Any]]
    created_at: Mapped[str]


class DeviceRow(Base):
    """A device."""

    __tablename__ = "devices"

    name: Mapped[str] = mapped_column(primary_key=True)
    hardware: Mapped[str]
    runtime: Mapped[str]
    precision: Mapped[str]
    threads: Mapped[int]
    batch: Mapped[int]
    created_at: Mapped[str]


class TableRow(Base):
    """One version of a device's latency table."""

    __tablename__ = "latency_tables"
    __table_args__ = (UniqueConstraint("device", "version"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.name"))
    version: Mapped[int]
    space: Mapped[str]
    num_classes: Mapped[int]
    rows: Mapped[int]
    missing: Mapped[list[Any]]
    complete: Mapped[bool]
    provenance: Mapped[dict[str, Any]]
    content: Mapped[dict[str, Any]]
    format: Mapped[str]
    created_at: Mapped[str]


class RequestRow(Base):
    """What becomes one stored network: a budget somebody asked for, or a pruning run.

    `formats` are those that its job is to make. The last three are of a pruning run alone: its method, what it prunes
    (`PruningSpec.source_name`), and the file of weights that came with it.
    """

    __tablename__ = "subnet_requests"
    __table_args__ = (
        Index("subnet_requests_by_method", "method", "created_at", "id"),
        Index("subnet_requests_by_subnet", "subnet_id"),
        Index("subnet_requests_by_source", "source"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    spec: Mapped[dict[str, Any]]
    subnet_id: Mapped[str | None]
    created_at: Mapped[str]
    formats: Mapped[list[Any]]
    method: Mapped[str | None]
    source: Mapped[str | None]
    weights: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


FIGURES = ("created_at", "accuracy", "predicted_accuracy", "macs", "params")
"""What subnets are sorted and filtered by; `LatencyRow` repeats them, so that a browse reads one index."""


def _figures_but(name: str, *more: str) -> list[str]:
    return [other for other in (*FIGURES, *more) if other not in (name, "created_at")]


class SubnetRow(Base):
    """A finished subnet or pruned network. It outlives its supernet's row: the ids are provenance, not foreign keys."""

    __tablename__ = "subnets"
    __table_args__ = (
        *(Index(f"subnets_by_{name}", name, "id", *_figures_but(name), "supernet_id") for name in FIGURES),
        Index("subnets_by_size", "created_at", "id", "stored_files", "stored_bytes"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[str]
    supernet_id: Mapped[str]
    space: Mapped[str]
    config: Mapped[dict[str, Any]]
    config_digest: Mapped[str]
    predicted_accuracy: Mapped[float | None]
    accuracy: Mapped[float]
    macs: Mapped[int] = mapped_column(_Count)
    params: Mapped[int] = mapped_column(_Count)
    card: Mapped[dict[str, Any]]
    files: Mapped[dict[str, Any]]
    stored_files: Mapped[int]
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[str]
    latencies: Mapped[list[LatencyRow]] = relationship(lazy="selectin", order_by="LatencyRow.device")

    @validates("files")
    def _count(self, _name: str, files: dict[str, Any]) -> dict[str, Any]:
        """Keep sums over the files as columns: the databases read JSON in different ways, and slowly."""
        self.stored_files = len(files)
        self.stored_bytes = sum(file["size_bytes"] for file in files.values())
        return files


class LatencyRow(Base):
    """A subnet's latency on one device, and the subnet's figures."""

    __tablename__ = "subnet_latencies"
    __table_args__ = tuple(
        Index(
            f"subnet_latencies_by_{name}",
            "device",
            name,
            "subnet_id",
            *_figures_but(name, "predicted_ms"),
            "supernet_id",
        )
        for name in (*FIGURES, "predicted_ms")
    )

    subnet_id: Mapped[str] = mapped_column(ForeignKey("subnets.id"), primary_key=True)
    device: Mapped[str] = mapped_column(primary_key=True)
    predicted_ms: Mapped[float]
    measured_ms: Mapped[float | None]
    created_at: Mapped[str]
    accuracy: Mapped[float]
    predicted_accuracy: Mapped[float | None]
    macs: Mapped[int] = mapped_column(BigInteger)
    params: Mapped[int] = mapped_column(BigInteger)
    supernet_id: Mapped[str]


class FrontRow(Base):
    """A front of predicted accuracy against one cost."""

    __tablename__ = "fronts"
    __table_args__ = (Index("fronts_by_supernet", "supernet_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    supernet_id: Mapped[str]
    spec: Mapped[dict[str, Any]]
    content: Mapped[dict[str, Any]]
    created_at: Mapped[str]


class KeyRow(Base):
    """A key; only a digest of its secret is stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    secret_sha256: Mapped[str]
    scopes: Mapped[list[Any]]
    requests_per_minute: Mapped[int | None]
    max_active_jobs: Mapped[int | None]
    created_at: Mapped[str]
    expires_at: Mapped[str | None]
    revoked_at: Mapped[str | None]


class JobOwnerRow(Base):
    """The key that last submitted a job."""

    __tablename__ = "job_owners"
    __table_args__ = (Index("job_owners_by_key", "key_id"),)

    job_id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str]


class IdempotencyRow(Base):
    """An Idempotency-Key that was used, by whom and for what."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("idempotency_keys_by_time", "created_at"),)

    owner: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_digest: Mapped[str]
    response_digest: Mapped[str | None]
    created_at: Mapped[str]


class JobRow(Base):
    """A job."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_by_state", "state", "created_at"),
        Index("jobs_by_time", "created_at", "id"),
        Index("jobs_by_kind", "kind", "state"),
        Index("jobs_by_end", "state", "updated_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]]
    state: Mapped[str]
    stage: Mapped[str]
    fraction: Mapped[float]
    attempts: Mapped[int]
    submission: Mapped[int] = mapped_column(_Count)
    executor: Mapped[str | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[str]
    started_at: Mapped[str | None]
    updated_at: Mapped[str]


class ExecutorRow(Base):
    """A job host."""

    __tablename__ = "executors"

    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    beat_at: Mapped[float]


class UseRow(Base):
    """A row that needs a file (by its SHA-256) or a latency table ("table" and its id); see `service.storage.uses`."""

    __tablename__ = "uses"
    __table_args__ = (Index("uses_by_owner", "owner"),)

    needed: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(primary_key=True)


class StagedFileRow(Base):
    """A file on its way into the artefact store, or out of it; see `service.storage.staging`."""

    __tablename__ = "staged_files"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    ticket: Mapped[str] = mapped_column(primary_key=True)
    process: Mapped[str]
    staged_at: Mapped[str]
