"""What goes in and out as JSON where networks are pruned."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from latency_tables.budget import NAME_PATTERN
from service.api.schemas import Constraint, Incoming, JobOut, Name, PageQuery, SubnetOut
from service.domain import DIGEST_PATTERN, Job, StoredFile, SubnetRecord
from service.pruning_spec import METHODS, PruningRun

_CONFIG: dict[str, Any] = {
    "space": "mobilenet_v3_tiny",
    "resolution": 16,
    "depths": [1, 1, 1],
    "kernels": [3, 0, 3, 0, 3, 0],
    "expands": [3, 0, 3, 0, 3, 0],
}


class StoredSubnetIn(Incoming):
    """A subnet that the service holds."""

    subnet: str = Field(pattern=DIGEST_PATTERN, description="its id")


class SupernetConfigIn(Incoming):
    """A subnet that is to be cut out of a supernet first."""

    supernet: str = Field(min_length=1, max_length=64, description="name or id of the supernet")
    config: dict[str, Any] = Field(description="space, resolution, depths, kernels, expands, widths")


class ArchitectureIn(Incoming):
    """A classifier of torchvision by its name there, such as resnet18."""

    architecture: str = Field(pattern=r"^[a-z0-9_]{1,64}$")
    num_classes: int = Field(default=10, ge=2, le=100_000)
    resolution: int = Field(default=32, ge=8, le=4096, description="side of its input, pixels")
    weights: str | None = Field(
        default=None, pattern=DIGEST_PATTERN, description="sha256 of a file sent to /weights; null: random ones"
    )


def _source_kind(value: Any) -> str | None:
    names = value if isinstance(value, dict) else {}
    return next((name for name in ("subnet", "supernet", "architecture") if name in names), None)


SourceIn = Annotated[
    Annotated[StoredSubnetIn, Tag("subnet")]
    | Annotated[SupernetConfigIn, Tag("supernet")]
    | Annotated[ArchitectureIn, Tag("architecture")],
    Discriminator(
        _source_kind,
        custom_error_type="source",
        custom_error_message="allowed: an object with subnet, with supernet and config, or with architecture",
    ),
]


class UnitLatenciesIn(Incoming):
    """What `onceforall prune latencies` writes: times of the network with fewer units of one set at a time."""

    format: Literal["onceforall-unit-latencies"]
    version: Literal[1]
    device: Name
    whole_ms: float = Field(gt=0)
    rows: dict[str, list[Annotated[list[float], Field(min_length=2, max_length=2)]]] = Field(
        max_length=4096, description="set of units -> [units kept, ms], in rising order"
    )


class AutoCompressIn(Incoming):
    """What AutoCompress alone knows."""

    dimensions: Literal["channels", "combined", "filters", "weights"] | None = None
    proposals: int | None = Field(
        default=None, ge=0, le=1000, description="quick evaluations of each round's search; 0: none"
    )
    blocks: int | None = Field(default=None, ge=1, le=50, description="epochs of ADMM a round, at most")
    purify_proposals: int | None = Field(default=None, ge=0, le=500, description="of each purification; 0: none")


class PruningRunIn(Incoming):
    """A network, and what it is to be pruned to."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "method": "auto-compress",
                    "source": {"supernet": "cifar10", "config": _CONFIG},
                    "data": "run-images",
                    "constraints": [{"metric": "macs", "max": 500000}],
                },
                {
                    "method": "oto",
                    "source": {"architecture": "resnet18", "num_classes": 10, "resolution": 32},
                    "data": "digits",
                    "constraints": [{"metric": "params", "max": 0.5, "relative": True}],
                    "epochs": 20,
                },
                {"method": "oto", "source": {"subnet": "0" * 64}, "sparsity": 0.5, "formats": ["onnx"]},
            ]
        }
    )

    method: Literal[METHODS]  # type: ignore[valid-type]
    source: SourceIn
    data: str | None = Field(
        default=None,
        pattern=NAME_PATTERN,
        description="digits, a data set of the operator's, or run-images: what the supernet's run stores. null: the"
        " supernet's own data where they can be read, else run-images",
    )
    sparsity: float | None = Field(default=None, gt=0, lt=1, description="least share of units that go; for oto")
    constraints: list[Constraint] = Field(default=[], max_length=16, description="relative: of the dense network")
    latencies: UnitLatenciesIn | None = Field(default=None, description="for a limit on latency_ms")
    epochs: int | None = Field(
        default=None, ge=1, description="oto: of training in all; auto-compress: of retraining in every round"
    )
    batch_size: int = Field(default=64, ge=2, le=1024)
    learning_rate: float | None = Field(default=None, gt=0, le=10)
    auto_compress: AutoCompressIn | None = None
    seed: int = Field(default=0, ge=0, lt=2**31)
    formats: list[Literal["safetensors", "onnx", "pt2"]] = Field(
        default=[], max_length=3, description="to make besides safetensors and pt2, which are there always"
    )


class PruningRunQuery(PageQuery):
    """Which runs."""

    method: Literal[METHODS] | None = None  # type: ignore[valid-type]
    source: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="id of the subnet or supernet, or name of the architecture",
    )


class PruningRunBriefOut(BaseModel):
    """A run as lists have it: the exact spec, its job, and the id of the pruned network once it is there."""

    id: str
    spec: dict[str, Any]
    created_at: str
    job: JobOut | None
    subnet_id: str | None

    @classmethod
    def values(cls, run: PruningRun, job: Job | None) -> dict[str, Any]:
        """From the domain."""
        return {
            "id": run.id,
            "spec": run.spec.to_dict(),
            "created_at": run.created_at,
            "job": None if job is None else JobOut.of(job),
            "subnet_id": run.subnet_id,
        }

    @classmethod
    def of(cls, run: PruningRun, job: Job | None) -> Self:
        """From the domain."""
        return cls(**cls.values(run, job))


class PruningRunOut(PruningRunBriefOut):
    """A run, with the pruned network once it is there; it is listed among the subnets."""

    subnet: SubnetOut | None

    @classmethod
    def of_answer(cls, run: PruningRun, job: Job | None, subnet: SubnetRecord | None) -> Self:
        """From the domain."""
        return cls(**cls.values(run, job), subnet=None if subnet is None else SubnetOut.of(subnet))


class WeightsOut(BaseModel):
    """Weights that were uploaded; a pruning run that names their `sha256` keeps them, otherwise they go in an hour."""

    sha256: str
    size_bytes: int
    tensors: int

    @classmethod
    def of(cls, file: StoredFile, tensors: int) -> WeightsOut:
        """From the domain."""
        return cls(sha256=file.sha256, size_bytes=file.size_bytes, tensors=tensors)
