"""Latency tables: the measured time of every layer on one device, and where the figures come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

from latency_tables.costs import CostModel
from latency_tables.document import FORMAT, VERSION, TableDocument, check
from latency_tables.formats import FORMATS
from supernet.arch import LayerSpec, SubnetConfig
from supernet.errors import TableError, one_of
from supernet.files import write_bytes
from supernet.spaces import SearchSpace


@dataclass(frozen=True)
class Row:
    """The measured time of one layer.

    Attributes:
        median_ms: median over the repeats, ms a batch.
        spread_ms: half of the distance between the quartiles, ms; half of all repeats lie that near to the middle.
        count: number of repeats.
    """

    median_ms: float
    spread_ms: float
    count: int


@dataclass(frozen=True)
class Provenance:
    """How the rows were measured; without it a latency means nothing.

    Attributes:
        hardware: facts about the device, such as its CPU and number of cores.
        runtime: what ran the layers, for example ``torch-eager``.
        runtime_versions: version by package.
        precision: number format of weights and activations, for example ``fp32``.
        memory_format: order of the activations' axes in memory, for example ``channels_last``.
        threads: threads used by the runtime.
        batch: images a forward pass.
        date: day of the measurement, YYYY-MM-DD.
        repeats: timed rounds.
        warmup: rounds before them that were not timed.
    """

    hardware: Mapping[str, str | int]
    runtime: str
    runtime_versions: Mapping[str, str | int]
    precision: str
    memory_format: str
    threads: int
    batch: int
    date: str
    repeats: int
    warmup: int


@dataclass(frozen=True)
class Coverage:
    """How much of a space a table knows.

    Attributes:
        present: number of the space's layers that have a row.
        missing: keys of those that have none.
        unknown: keys of rows that no subnet of the space needs (a typing error, or another number of classes).
    """

    present: int
    missing: list[str]
    unknown: list[str]

    @property
    def complete(self) -> bool:
        """Whether every subnet of the space can be estimated."""
        return not self.missing


@dataclass(frozen=True)
class LatencyTable:
    """Measured latencies of a space's layers on one device. A subnet's latency is the sum of its layers'.

    Attributes:
        device: name of the device, `^[a-z0-9][a-z0-9._-]{0,63}$`.
        space: name of the search space whose layers these are.
        num_classes: outputs of the classifier that was measured.
        rows: layer key (`LayerSpec.key`) -> row; read-only, sorted by key.
        provenance: how they were measured.
    """

    device: str
    space: str
    num_classes: int
    rows: Mapping[str, Row]
    provenance: Provenance

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", MappingProxyType(dict(sorted(self.rows.items()))))

    def __reduce__(self) -> tuple[Any, ...]:
        return LatencyTable, (self.device, self.space, self.num_classes, dict(self.rows), self.provenance)

    def __hash__(self) -> int:
        return hash(self.digest)

    @classmethod
    def parse(cls, data: bytes, format: str) -> LatencyTable:
        """Read a table from a file's content.

        Args:
            data: the whole content.
            format: ``json`` or ``yaml``.

        Raises:
            TableError: unknown format, too large, malformed; every fault is named, the first five in words.
        """
        if format not in FORMATS:
            raise TableError(one_of("table format", format, list(FORMATS)))
        limit = FORMATS[format].max_bytes
        if len(data) > limit:
            raise TableError(f"latency table: {len(data)} bytes of {format}; allowed: at most {limit}")
        return cls._from_document(check(FORMATS[format].decode(data)))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> LatencyTable:
        """Read a table from a file; the format follows from the name's ending.

        Raises:
            TableError: absent, unreadable, or as `parse`; the path is named.
        """
        path = Path(path)
        format = format_of(path)
        try:
            size = path.stat().st_size
            if size > FORMATS[format].max_bytes:
                raise TableError(f"latency table: {size} bytes; allowed: at most {FORMATS[format].max_bytes}")
            return cls.parse(path.read_bytes(), format)
        except OSError as error:
            raise TableError(
                f"cannot read latency table {str(path)!r}: {error.strerror}; check the path, or measure one with: "
                "onceforall profile"
            ) from None
        except TableError as error:
            raise TableError(f"{str(path)!r}: {error}") from None

    def save(self, path: str | PathLike[str]) -> None:
        """Write the table atomically; the format follows from the name's ending (.json, .yaml, .yml).

        Raises:
            TableError: another ending, or the table's own values are not allowed in a file.
            StorageError: the path cannot be written.
        """
        path = Path(path)
        write_bytes(path, self.render(format_of(path)))

    def render(self, format: str) -> bytes:
        """The content of the table's file; `parse` gives an equal table back.

        Raises:
            TableError: unknown format, or the table's own values are not allowed in a file.
        """
        if format not in FORMATS:
            raise TableError(one_of("table format", format, list(FORMATS)))
        document = self._to_document()
        check(document)
        return FORMATS[format].encode(document)

    @property
    def digest(self) -> str:
        """SHA-256 of the table's canonical JSON, 64 hexadecimal digits; the same for every file format."""
        text = json.dumps(self._to_document(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def estimate_ms(self, space: SearchSpace, config: SubnetConfig) -> float:
        """The subnet's latency, ms: the sum of its layers' medians.

        Raises:
            TableError: the table is for another space, or lacks layers of the subnet.
            ConfigError: the config belongs to another space.
        """
        self._check_space(space)
        return self.cost_model().of_layers(space.layers(config))

    def coverage(self, space: SearchSpace) -> Coverage:
        """Which of the space's layers have a row.

        Raises:
            TableError: the table is for another space.
        """
        self._check_space(space)
        needed = [spec.key for spec in space.all_layers()]
        missing = [key for key in needed if key not in self.rows]
        unknown = sorted(set(self.rows) - set(needed))
        return Coverage(len(needed) - len(missing), missing, unknown)

    def cost_model(self) -> CostModel:
        """The table as a cost model, ``latency_ms@<device>``."""
        return _TableCost(self)

    def _check_space(self, space: SearchSpace) -> None:
        if space.name != self.space:
            raise TableError(
                f"the latency table of {self.device!r} is for space {self.space!r}, not for {space.name!r}; "
                f"measure one with: {_profile_command(self.device)}"
            )

    @classmethod
    def _from_document(cls, document: TableDocument) -> LatencyTable:
        return cls(
            document.device,
            document.space,
            document.num_classes,
            {row.layer: Row(row.median_ms, row.spread_ms, row.count) for row in document.rows},
            Provenance(**document.provenance.model_dump()),
        )

    def _to_document(self) -> dict[str, Any]:
        provenance = self.provenance
        return {
            "format": FORMAT,
            "version": VERSION,
            "unit": "ms",
            "device": self.device,
            "space": self.space,
            "num_classes": self.num_classes,
            "provenance": {
                **{name: getattr(provenance, name) for name in Provenance.__dataclass_fields__},
                "hardware": dict(provenance.hardware),
                "runtime_versions": dict(provenance.runtime_versions),
            },
            "rows": [{"layer": key, **asdict(row)} for key, row in self.rows.items()],
        }


@dataclass(frozen=True)
class _TableCost(CostModel):
    table: LatencyTable

    @property
    def name(self) -> str:
        return f"latency_ms@{self.table.device}"

    @property
    def space(self) -> str:
        return self.table.space

    def of_each(self, layers: Sequence[LayerSpec]) -> list[float]:
        keys = [spec.key for spec in layers]
        rows = self.table.rows
        missing = sorted({key for key in keys if key not in rows})
        if missing:
            raise TableError(
                f"no latency for {missing[0]} on {self.table.device!r}; "
                f"{len(missing)} of {len(set(keys))} rows missing; "
                f"measure them with: {_profile_command(self.table.device)}"
            )
        return [rows[key].median_ms for key in keys]


def parse_table(data: bytes, format: str) -> LatencyTable:
    """Read a table from a file's content; see `LatencyTable.parse`."""
    return LatencyTable.parse(data, format)


def _profile_command(device: str) -> str:
    return f"onceforall profile RUN_FOLDER --device {device}"


def format_of(path: Path) -> str:
    """The name of the table format that a file's ending stands for.

    Raises:
        TableError: it stands for none.
    """
    for name, format in FORMATS.items():
        if path.suffix.lower() in format.suffixes:
            return name
    endings = ", ".join(suffix for format in FORMATS.values() for suffix in format.suffixes)
    raise TableError(f"the ending of {str(path)!r} names no table format; allowed: {endings}")
