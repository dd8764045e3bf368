"""What decides a pruned network: frozen data that knows no web, no SQL and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.domain import StoredFile, digest_of

OTO, AUTO_COMPRESS = "oto", "auto-compress"
METHODS = (OTO, AUTO_COMPRESS)
"""Only Train Once, which prunes while it trains; AutoCompress, which prunes what is trained."""
PRUNE_NETWORK = "prune_network"
"""The kind of its jobs."""


@dataclass(frozen=True)
class StoredSubnet:
    """A subnet that the service holds.

    Attributes:
        subnet: its id.
    """

    subnet: str


@dataclass(frozen=True)
class SupernetConfig:
    """A subnet that is yet to be cut out of a supernet.

    Attributes:
        supernet: id of the supernet.
        config: which subnet, as `SubnetConfig.to_dict()`.
    """

    supernet: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A classifier of torchvision.

    Attributes:
        architecture: its name there.
        num_classes: outputs of the classifier.
        resolution: side of its input, pixels.
        weights: SHA-256 of a safetensors file; None: it begins with random weights.
    """

    architecture: str
    num_classes: int
    resolution: int
    weights: str | None


Source = StoredSubnet | SupernetConfig | Architecture


@dataclass(frozen=True)
class PruningSpec:
    """Everything that decides a pruned network; equal specs are one run, one job, one artefact.

    Attributes:
        method: one of `METHODS`.
        source: what is pruned.
        data: name of the data set that trains and judges it.
        sparsity: least share of units that go; None: no such target.
        budget: upper limits on macs, params and latencies, as `Budget.to_dict()`.
        latencies: table of the latencies of units, as `UnitLatencies.to_dict()`, for a limit on a latency.
        epochs: of training in all (OTO), or of retraining at the end of every round (AutoCompress).
        batch_size: images a step.
        learning_rate: the highest.
        seed: decides everything that is random.
        options: what only one of the methods knows, by name.
    """

    method: str
    source: Source
    data: str
    sparsity: float | None
    budget: tuple[Mapping[str, Any], ...]
    latencies: Mapping[str, Any] | None
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    options: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **vars(self),
            "format": 1,
            "source": dict(vars(self.source)),
            "budget": [dict(limit) for limit in self.budget],
            "latencies": None if self.latencies is None else dict(self.latencies),
            "options": dict(self.options),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PruningSpec:
        """The inverse of `to_dict`."""
        values = {name: value for name, value in data.items() if name != "format"}
        kinds = {"subnet": StoredSubnet, "supernet": SupernetConfig, "architecture": Architecture}
        source = values["source"]
        kind = next(kind for name, kind in kinds.items() if name in source)
        return cls(**(values | {"budget": tuple(values["budget"]), "source": kind(**source)}))

    @property
    def digest(self) -> str:
        """The run's id and its job's id."""
        return digest_of({"pruning": self.to_dict()})

    @property
    def source_name(self) -> str:
        """By what runs are filtered: the subnet's id, the supernet's id, or the architecture's name."""
        return str(next(iter(vars(self.source).values())))


@dataclass(frozen=True)
class PruningRun:
    """A network that somebody wants to have pruned.

    Attributes:
        id: digest of the spec; also the id of its job.
        spec: what was asked for, with every name resolved.
        subnet_id: the pruned network among the stored ones, once it is there.
        weights: the uploaded weights that it begins with.
    """

    id: str
    spec: PruningSpec
    subnet_id: str | None
    weights: StoredFile | None
    created_at: str


@dataclass(frozen=True)
class Inputs:
    """Where on this machine is what a run starts from.

    Attributes:
        subnet: folder of the stored subnet.
        run: folder of the supernet's run; None where no supernet is needed.
        weights: file of weights.
    """

    subnet: Path | None = None
    run: Path | None = None
    weights: Path | None = None

    def to_dict(self) -> dict[str, str | None]:
        """Plain JSON types."""
        return {name: None if path is None else str(path) for name, path in vars(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, str | None]) -> Inputs:
        """The inverse of `to_dict`."""
        return cls(**{name: None if path is None else Path(path) for name, path in data.items()})
