"""What goes in and out as JSON. What comes in is strict: unknown fields, NaN and numbers as text are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from latency_tables.budget import NAME_PATTERN
from service import fronts
from service.api import API
from service.domain import (
    Device,
    FrontRecord,
    FrontSpec,
    Job,
    JobState,
    StoredFile,
    SubnetRecord,
    SubnetRequest,
    SupernetRecord,
    TableRecord,
)
from service.tables import RegisteredTable

Name = Annotated[str, Field(pattern=NAME_PATTERN, examples=["note10"])]
Item = TypeVar("Item")


class Incoming(BaseModel):
    """Base of bodies and queries."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True, frozen=True)

    @field_validator("*", mode="after")
    @classmethod
    def _no_zero_character(cls, value: Any) -> Any:
        """PostgreSQL holds none, and nothing that is asked for has one."""
        if isinstance(value, str) and "\0" in value:
            raise ValueError("it holds a zero character, \\u0000; leave it out")
        return value


class PageQuery(Incoming):
    """Which slice of a list."""

    model_config = ConfigDict(strict=False)

    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=1000)


class SubnetQuery(PageQuery):
    """Which subnets and pruned networks, in which order. `latency_ms` is the predicted one and needs `device`."""

    sort: str = Field(default="-created_at", max_length=40, examples=["-accuracy"])
    supernet: str | None = Field(default=None, max_length=64)
    pruned: bool | None = Field(default=None, description="pruned networks alone, or none of them")
    device: str | None = Field(default=None, pattern=NAME_PATTERN)
    accuracy_gte: float | None = Field(default=None, alias="accuracy.gte", ge=0, le=1)
    predicted_accuracy_gte: float | None = Field(default=None, alias="predicted_accuracy.gte", ge=0, le=1)
    macs_lte: float | None = Field(default=None, alias="macs.lte", gt=0)
    params_lte: float | None = Field(default=None, alias="params.lte", gt=0)
    latency_ms_lte: float | None = Field(default=None, alias="latency_ms.lte", gt=0)


class DeviceIn(Incoming):
    """What subnets run on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "note10",
                    "hardware": "Samsung Note10, Snapdragon 855",
                    "runtime": "tflite",
                    "precision": "fp32",
                    "threads": 1,
                    "batch": 1,
                }
            ]
        }
    )

    name: Name
    hardware: str = Field(default="not described", min_length=1, max_length=200)
    runtime: str = Field(default="torch-eager", min_length=1, max_length=64)
    precision: str = Field(default="fp32", min_length=1, max_length=32)
    threads: int = Field(default=1, ge=1, le=1024)
    batch: int = Field(default=1, ge=1, le=65536)


class Constraint(Incoming):
    """One upper limit. `device` and `quantile` belong to `latency_ms` and to no other metric."""

    metric: Literal["latency_ms", "macs", "params", "peak_memory_bytes", "size_bytes"]
    device: Name | None = None
    max: float = Field(gt=0, description="in the metric's unit, or a share of the largest subnet's cost if `relative`")
    relative: bool = False
    quantile: float | None = Field(default=None, ge=0.5, le=0.999, description="share of the runs within the limit")


class SubnetRequestIn(Incoming):
    """A budget: the best subnet that meets every limit is wanted."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "supernet": "cifar10",
                    "constraints": [
                        {"metric": "latency_ms", "device": "note10", "max": 20},
                        {"metric": "macs", "max": 3000000},
                    ],
                    "seed": 0,
                    "formats": ["onnx"],
                }
            ]
        }
    )

    supernet: str = Field(min_length=1, max_length=64, description="name or id of the supernet")
    constraints: list[Constraint] = Field(min_length=1, max_length=16)
    seed: int = Field(default=0, ge=0, lt=2**31)
    formats: list[Literal["safetensors", "onnx", "pt2"]] = Field(
        default=[], max_length=3, description="to make besides safetensors, which are there always"
    )


class EstimateIn(Incoming):
    """Subnets to price with one latency table."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "subnets": [
                        {
                            "space": "mobilenet_v3_tiny",
                            "resolution": 24,
                            "depths": [2, 2, 2],
                            "kernels": [3, 3, 3, 3, 3, 3],
                            "expands": [3, 3, 3, 3, 3, 3],
                        }
                    ]
                }
            ]
        }
    )

    subnets: list[dict[str, Any]] = Field(
        min_length=1, max_length=100, description="configs: space, resolution, depths, kernels, expands, widths"
    )


class PageOut(BaseModel, Generic[Item]):
    """A slice of a list; pass `next_cursor` as `cursor` for the next one."""

    items: list[Item]
    next_cursor: str | None


class SupernetOut(BaseModel):
    """A registered supernet. `recipe` is how it was trained: the settings of its run."""

    id: str
    name: str
    space: str
    num_classes: int
    class_names: list[str]
    data: dict[str, Any]
    recipe: Any
    weights_sha256: str
    predictor_sha256: str
    size_bytes: int
    created_at: str

    @classmethod
    def of(cls, record: SupernetRecord) -> SupernetOut:
        """From the domain."""
        manifest = record.manifest
        return cls(
            id=record.id,
            name=record.name,
            space=record.space,
            num_classes=record.num_classes,
            class_names=[str(name) for name in manifest.get("class_names", [])],
            data=dict(manifest.get("data", {})),
            recipe=manifest.get("settings"),
            weights_sha256=manifest["weights"]["sha256"],
            predictor_sha256=record.predictor_digest,
            size_bytes=sum(file.size_bytes for file in record.files.values()),
            created_at=record.created_at,
        )


class DimensionOut(BaseModel):
    """An elastic dimension and the values that it may take."""

    name: str
    choices: list[float]


class SpaceOut(BaseModel):
    """The subnets that a supernet holds. `cardinality` is text, because it may not fit a JSON number."""

    name: str
    num_classes: int
    cardinality: str
    dimensions: list[DimensionOut]


class DeviceOut(BaseModel):
    """A device."""

    name: str
    hardware: str
    runtime: str
    precision: str
    threads: int
    batch: int
    created_at: str

    @classmethod
    def of(cls, device: Device) -> DeviceOut:
        """From the domain."""
        return cls(**vars(device))


class TableOut(BaseModel):
    """One version of a device's latency table."""

    id: str
    device: str
    version: int
    space: str
    num_classes: int
    rows: int
    complete: bool
    missing: list[str]
    provenance: dict[str, Any]
    format: str
    size_bytes: int
    created_at: str
    content_url: str

    @classmethod
    def of(cls, record: TableRecord) -> TableOut:
        """From the domain."""
        return cls(**_table_values(record))


class RegisteredTableOut(TableOut):
    """An uploaded table, and what is doubtful about it."""

    stored: bool
    coverage: float
    outliers: list[str]
    unknown: list[str]

    @classmethod
    def of_registered(cls, table: RegisteredTable) -> RegisteredTableOut:
        """From the domain."""
        record = table.record
        present = record.rows - len(table.unknown)
        return cls(
            **_table_values(record),
            stored=table.stored,
            coverage=present / (present + len(record.missing)),
            outliers=list(table.outliers),
            unknown=list(table.unknown),
        )


class LayerLatencyOut(BaseModel):
    """One layer's share of a subnet's latency."""

    name: str
    layer: str
    latency_ms: float


class EstimateOut(BaseModel):
    """A subnet's latency and what it is made of."""

    config: dict[str, Any]
    latency_ms: float
    layers: list[LayerLatencyOut]


class EstimatesOut(BaseModel):
    """Answers in the order of the question."""

    device: str
    table: str
    items: list[EstimateOut]


class JobOut(BaseModel):
    """A job: what it does, how far it is, how it ended."""

    id: str
    kind: str
    state: JobState
    stage: str
    fraction: float
    attempts: int
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: str
    updated_at: str
    url: str
    events_url: str

    @classmethod
    def of(cls, job: Job) -> JobOut:
        """From the domain."""
        values = {name: value for name, value in vars(job).items() if name in cls.model_fields}
        return cls(**values, url=f"{API}/jobs/{job.id}", events_url=f"{API}/jobs/{job.id}/events")


class FileOut(BaseModel):
    """A file to download; its ETag is its sha256."""

    format: str
    name: str
    sha256: str
    size_bytes: int
    url: str


class SubnetBriefOut(BaseModel):
    """A finished subnet as lists have it: without its card. What was predicted and what was measured stand apart.

    Of a pruned network, `request` is its pruning run, `supernet` and `space` are those of the subnet that was pruned
    (empty where it was none), `config` says its `resolution` alone, and `predicted.accuracy` is null.
    """

    id: str
    pruned: bool
    request: str
    supernet: str
    space: str
    config: dict[str, Any]
    config_digest: str
    budget: list[dict[str, Any]]
    predicted: dict[str, Any]
    measured: dict[str, Any] = Field(
        description=(
            "on the real network: `accuracy` in [0, 1] with its 95 % confidence interval for new images,"
            " `accuracy_interval` (low and high end, Wilson's), of `correct` and `total` images; `macs`, `params`,"
            " `latency_ms` by device"
        )
    )
    files: list[FileOut]
    created_at: str

    @classmethod
    def values(cls, record: SubnetRecord) -> dict[str, Any]:
        """From the domain."""
        card = record.card
        return {
            "id": record.id,
            "pruned": record.pruned,
            "request": record.request_id,
            "supernet": record.supernet_id,
            "space": record.space,
            "config": dict(record.config),
            "config_digest": record.config_digest,
            "budget": list(card["budget"]),
            "predicted": card["predicted"],
            "measured": card["measured"],
            "files": [file_out(record.id, format, file) for format, file in record.files.items()],
            "created_at": record.created_at,
        }

    @classmethod
    def of(cls, record: SubnetRecord) -> Self:
        """From the domain."""
        return cls(**cls.values(record))


class SubnetOut(SubnetBriefOut):
    """A finished subnet, with its card: everything that decided it."""

    card: dict[str, Any]

    @classmethod
    def values(cls, record: SubnetRecord) -> dict[str, Any]:
        """From the domain."""
        return {**super().values(record), "card": dict(record.card)}


class SubnetRequestOut(BaseModel):
    """A request: the exact spec, its job, and the subnet once it is there."""

    id: str
    spec: dict[str, Any]
    created_at: str
    job: JobOut | None
    subnet: SubnetOut | None

    @classmethod
    def of(cls, request: SubnetRequest, job: Job | None, subnet: SubnetRecord | None) -> SubnetRequestOut:
        """From the domain."""
        return cls(
            id=request.id,
            spec=request.spec.to_dict(),
            created_at=request.created_at,
            job=None if job is None else JobOut.of(job),
            subnet=None if subnet is None else SubnetOut.of(subnet),
        )


class FrontPointOut(BaseModel):
    """A subnet on a front: no other that was searched is cheaper and predicted to be better."""

    config: dict[str, Any]
    predicted_accuracy: float
    costs: dict[str, float]


class FrontOut(BaseModel):
    """A front of predicted accuracy against `metric`, best subnets first; `points` is null while a job searches it."""

    id: str
    supernet: str
    metric: str
    device: str | None
    table: str | None
    search: dict[str, int]
    created_at: str | None
    points: list[FrontPointOut] | None
    job: JobOut | None

    @classmethod
    def of(cls, record: FrontRecord, content: bytes) -> FrontOut:
        """From the domain and the stored front."""
        points = [FrontPointOut(**point) for point in fronts.points(content)]
        return cls(**_front_values(record.spec), created_at=record.created_at, points=points, job=None)

    @classmethod
    def pending(cls, spec: FrontSpec, job: Job | None) -> FrontOut:
        """A front that is not there yet."""
        found = None if job is None else JobOut.of(job)
        return cls(**_front_values(spec), created_at=None, points=None, job=found)


def _front_values(spec: FrontSpec) -> Mapping[str, Any]:
    return {
        "id": spec.digest,
        "supernet": spec.supernet,
        "metric": spec.cost,
        "device": spec.device,
        "table": spec.table,
        "search": {"population": spec.population, "generations": spec.generations, "seed": spec.seed},
    }


def file_out(subnet_id: str, format: str, file: StoredFile) -> FileOut:
    """A subnet's file and where it is."""
    url = f"{API}/subnets/{subnet_id}/download?format={format}"
    return FileOut(format=format, url=url, **vars(file))


def _table_values(record: TableRecord) -> Mapping[str, Any]:
    return {
        "id": record.id,
        "device": record.device,
        "version": record.version,
        "space": record.space,
        "num_classes": record.num_classes,
        "rows": record.rows,
        "complete": not record.missing,
        "missing": list(record.missing),
        "provenance": dict(record.provenance),
        "format": record.format,
        "size_bytes": record.content.size_bytes,
        "created_at": record.created_at,
        "content_url": f"{API}/latency-tables/{record.id}/content",
    }
