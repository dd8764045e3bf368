"""The service's nouns: frozen data that knows no web and no SQL."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

DIGEST_PATTERN = r"^[0-9a-f]{64}$"


def is_digest(text: str) -> bool:
    """Whether `text` is 64 lower-case hexadecimal digits."""
    return re.fullmatch(DIGEST_PATTERN[1:-1], text) is not None


def canonical_json(value: Any) -> str:
    """Sorted keys, no white space, no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 of `canonical_json(value)`, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def utc_now() -> str:
    """Now as ISO 8601 text in UTC with microseconds, so that text order is time order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class StoredFile:
    """A file in the artefact store.

    Attributes:
        name: what it is called when downloaded.
        sha256: digest of its content; also its key.
        size_bytes: its length.
    """

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class SupernetRecord:
    """A registered run: a trained supernet, its images and its predictor.

    Attributes:
        id: digest of its files' digests.
        name: unique name given by its owner.
        space: name of its search space.
        num_classes: outputs of the classifier.
        manifest: the run's manifest.
        predictor_digest: digest of the accuracy predictor.
        files: path inside the run folder -> stored file.
    """

    id: str
    name: str
    space: str
    num_classes: int
    manifest: Mapping[str, Any]
    predictor_digest: str
    files: Mapping[str, StoredFile]
    created_at: str


@dataclass(frozen=True)
class Device:
    """What subnets run on: one machine, runtime and way of running.

    Attributes:
        name: unique name; latency limits refer to it.
        hardware: the machine in words.
        runtime: the software that executes the subnet.
        precision: number format of weights and activations.
        threads: threads that execute one subnet.
        batch: images a call.
    """

    name: str
    hardware: str
    runtime: str
    precision: str
    threads: int
    batch: int
    created_at: str


@dataclass(frozen=True)
class TableRecord:
    """One immutable version of a device's latency table.

    Attributes:
        id: the table's digest.
        device: name of the device.
        version: 1 for the device's first table, then counted up.
        space: name of the search space that it was measured for.
        num_classes: outputs of the classifier that it was measured with.
        rows: number of rows.
        missing: rows that the space needs and the table lacks.
        provenance: how it was measured.
        content: the uploaded file.
        format: "json", "yaml" or "csv".
    """

    id: str
    device: str
    version: int
    space: str
    num_classes: int
    rows: int
    missing: tuple[str, ...]
    provenance: Mapping[str, Any]
    content: StoredFile
    format: str
    created_at: str


@dataclass(frozen=True)
class SubnetSpec:
    """Everything that decides which subnet is made; equal specs are one request, one job, one artefact.

    Attributes:
        supernet: id of the supernet.
        budget: the canonical budget: [{metric, device, max}, ...].
        tables: device -> digest of the latency table that prices it.
        seed: seed of the search.
        population, generations: size of the search.
    """

    supernet: str
    budget: tuple[Mapping[str, Any], ...]
    tables: Mapping[str, str]
    seed: int
    population: int
    generations: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "format": 1,
            "supernet": self.supernet,
            "budget": [dict(limit) for limit in self.budget],
            "tables": dict(sorted(self.tables.items())),
            "seed": self.seed,
            "search": {"population": self.population, "generations": self.generations},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SubnetSpec:
        """The inverse of `to_dict`."""
        search = data["search"]
        return cls(
            data["supernet"],
            tuple(data["budget"]),
            dict(data["tables"]),
            data["seed"],
            search["population"],
            search["generations"],
        )

    @property
    def digest(self) -> str:
        """The request's id and its job's id."""
        return digest_of(self.to_dict())


@dataclass(frozen=True)
class SubnetRequest:
    """A budget somebody asked for.

    Attributes:
        id: digest of the spec; also the id of its job.
        spec: what was asked for, with every name resolved.
        subnet_id: the answer, once it is there.
    """

    id: str
    spec: SubnetSpec
    subnet_id: str | None
    created_at: str


@dataclass(frozen=True)
class Latency:
    """A subnet's latency on one device, milliseconds; None where it was not measured on that device."""

    predicted_ms: float
    measured_ms: float | None


@dataclass(frozen=True)
class SubnetRecord:
    """A finished network: a subnet that was cut from a supernet, or a network that was pruned.

    Attributes:
        id: digest of the request and the config; of a pruned network, of its run.
        request_id: the subnet request, or the pruning run, that it answers.
        supernet_id: the supernet that it, or the subnet that was pruned, was cut from; empty: from none.
        space: name of the search space; empty where there is no supernet.
        config: its elastic choices, as `SubnetConfig.to_dict()`; of a pruned network its `resolution` alone.
        config_digest: `SubnetConfig.digest`; of a pruned network, of its plan.
        predicted_accuracy: by the predictor, in [0, 1]; None: it was pruned, and nothing predicts that.
        accuracy: measured on the held-out images, in [0, 1].
        macs, params: counted on the real module.
        latencies: device -> latency.
        card: everything known about it.
        files: download format -> stored file.
    """

    id: str
    request_id: str
    supernet_id: str
    space: str
    config: Mapping[str, Any]
    config_digest: str
    predicted_accuracy: float | None
    accuracy: float
    macs: int
    params: int
    latencies: Mapping[str, Latency]
    card: Mapping[str, Any]
    files: Mapping[str, StoredFile]
    created_at: str

    @property
    def pruned(self) -> bool:
        """Whether it was pruned, not only cut out of a supernet."""
        return self.predicted_accuracy is None


@dataclass(frozen=True)
class FrontSpec:
    """Everything that decides a front of predicted accuracy against one cost; equal specs are one job and one front.

    Attributes:
        supernet: id of the supernet.
        metric: the cost, as budgets name it: ``macs``, ``latency_ms``.
        device: of a latency; None otherwise.
        table: id of the device's latency table; None otherwise.
        population, generations, seed: of the search.
    """

    supernet: str
    metric: str
    device: str | None
    table: str | None
    population: int
    generations: int
    seed: int = 0

    @property
    def cost(self) -> str:
        """The metric as searches name it, such as ``latency_ms@note10``."""
        return self.metric if self.device is None else f"{self.metric}@{self.device}"

    @property
    def tables(self) -> dict[str, str]:
        """Device -> id of its latency table."""
        return {} if self.device is None or self.table is None else {self.device: self.table}

    @property
    def digest(self) -> str:
        """The front's id and its job's id."""
        return digest_of({"front": self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"format": 1, **vars(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FrontSpec:
        """The inverse of `to_dict`."""
        return cls(**{name: value for name, value in data.items() if name != "format"})


@dataclass(frozen=True)
class FrontRecord:
    """A front that was searched.

    Attributes:
        id: digest of its spec; also the id of its job.
        spec: what decided it.
        content: the front as `search.ParetoFront` writes it.
    """

    id: str
    spec: FrontSpec
    content: StoredFile
    created_at: str


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens unless somebody submits the job again."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class Job:
    """A piece of work that outlives a request.

    Attributes:
        id: chosen by who submits it; submitting it twice is one job.
        kind: which handler does it.
        payload: the handler's input.
        state: where it stands.
        stage: what it is doing, in words.
        fraction: how far it is, in [0, 1].
        attempts: times it was started.
        result: the handler's output, when it succeeded.
        error: {kind, message, details}, when it failed.
    """

    id: str
    kind: str
    payload: Mapping[str, Any]
    state: JobState
    stage: str
    fraction: float
    attempts: int
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    created_at: str
    updated_at: str


Item = TypeVar("Item")


@dataclass(frozen=True)
class Page(Generic[Item]):
    """A slice of a long list.

    Attributes:
        items: in order.
        next_cursor: where the next slice starts; None at the end.
    """

    items: tuple[Item, ...] = ()
    next_cursor: str | None = field(default=None)
