"""Latency tables: the measured time of every layer on one device, and where the figures come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from statistics import NormalDist
from types import MappingProxyType
from typing import Any, Literal

from latency_tables.budget import device_fault, latency_name
from latency_tables.costs import CostModel
from latency_tables.coverage import Coverage, coverage_of
from latency_tables.document import FORMAT, VERSION, TableDocument, check, refuse
from latency_tables.formats import FORMATS, ofa_yaml
from latency_tables.formats.capped import read_capped
from supernet.arch import LayerSpec, SubnetConfig
from supernet.errors import TableError, one_of
from supernet.files import write_bytes
from supernet.spaces import SearchSpace


@dataclass(frozen=True)
class Row:
    """The measured time of one layer.

    Attributes:
        median_ms: median over the repeats, ms a batch; their mean where `Provenance.statistic` says so. Of ONNX
            Runtime, fitted to whole subnets: the median of the quickest of a few passes.
        spread_ms: half of the distance between the quartiles, ms; half of all repeats lie that near to the middle. Of
            ONNX Runtime, that of a normal distribution around `median_ms` which reaches the upper quartile and the 95th
            percentile of single passes (`measure.typical_ms`).
        count: number of repeats.
    """

    median_ms: float
    spread_ms: float
    count: int


@dataclass(frozen=True)
class Correction:
    """How the rows of a table follow from the measured ones (see `latency_tables.correction`).

    Attributes:
        subnets: number of whole subnets that were measured for it.
        scale: what every row and its spread was multiplied by.
        per_layer_ms: what was then added to every row.
        constant_ms: what was added once a subnet.
        error_before, error_after: median relative error of the subnets, without the correction, and with one that was
            fitted to the others.
        uncorrected: digest of the table before.
    """

    subnets: int
    scale: float
    per_layer_ms: float
    constant_ms: float
    error_before: float
    error_after: float
    uncorrected: str


@dataclass(frozen=True)
class Provenance:
    """How the rows were measured; without it a latency means little. What nobody wrote down is None (or empty).

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
        statistic: what of the repeats a row's figure is: ``median`` or ``mean``.
        correction: what was done to the rows since; None: nothing.
    """

    hardware: Mapping[str, str | int]
    runtime: str | None
    runtime_versions: Mapping[str, str | int]
    precision: str | None
    memory_format: str | None
    threads: int | None
    batch: int | None
    date: str | None
    repeats: int | None
    warmup: int | None
    statistic: Literal["median", "mean"] = "median"
    correction: Correction | None = None


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
            format: ``json``, ``yaml`` or ``csv``.

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
    def load(cls, path: str | PathLike[str], *, device: str | None = None) -> LatencyTable:
        """Read a table from a file, or from a folder of the `ofa` package (see `formats.ofa_yaml`).

        Args:
            path: a file, whose format follows from its name; or the folder.
            device: what to call the device; None: as the file says, or as the `ofa` package's folder is named.

        Raises:
            TableError: absent, unreadable, as `parse`, or no name for a device; the path is named.
        """
        path = Path(path)
        try:
            if ofa_yaml.is_for(path):
                return cls._from_document(check(ofa_yaml.read(path, device)))
            format = format_of(path)
            data = read_capped(path, FORMATS[format].max_bytes)
            ofa_yaml.refuse_renamed(data)
            table = cls.parse(data, format)
            if device is None:
                return table
            fault = device_fault(device)
            refuse([fault] if fault else [])
            return replace(table, device=device)
        except OSError as error:
            raise TableError(
                f"cannot read latency table {str(path)!r}: {error.strerror}; check the path, or measure one with: "
                "onceforall profile"
            ) from None
        except TableError as error:
            raise TableError(f"{str(path)!r}: {error}") from None

    def save(self, path: str | PathLike[str]) -> None:
        """Write the table atomically; the format follows from the name's ending (.json, .yaml, .yml, .csv).

        Raises:
            TableError: another ending, or the table's own values are not allowed in a file.
            StorageError: the path cannot be written.
        """
        path = Path(path)
        write_bytes(path, self.render(format_of(path)))

    def render(self, format: str) -> bytes:
        """The content of the table's file; `parse` gives an equal table back.

        Raises:
            TableError: unknown format, the table's own values are not allowed in a file, or it is too large for one.
        """
        if format not in FORMATS:
            raise TableError(one_of("table format", format, list(FORMATS)))
        document = self._to_document()
        check(document)
        data = FORMATS[format].encode(document)
        limit = FORMATS[format].max_bytes
        if len(data) > limit:
            raise TableError(f"latency table: {len(data)} bytes of {format}; allowed: at most {limit}; write JSON")
        return data

    @property
    def digest(self) -> str:
        """SHA-256 of the table's canonical JSON, 64 hexadecimal digits; the same for every file format."""
        text = json.dumps(self._to_document(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def estimate_ms(self, space: SearchSpace, config: SubnetConfig) -> float:
        """The subnet's latency, ms: the sum of its layers' medians.

        Raises:
            TableError: the table is for another space or number of classes, or lacks layers of the subnet; resolutions
                of which it lacks none are named.
            ConfigError: the config belongs to another space.
        """
        self._check_space(space)
        layers = space.layers(config)
        if any(spec.key not in self.rows for spec in layers):
            covered = ", ".join(map(str, self.covered_resolutions(space)))
            choice = f"choose one of the covered resolutions {covered} (not {config.resolution}), or "
            raise self._lacking([spec.key for spec in layers], choice if covered else "")
        return self.cost_model().of_layers(layers)

    def coverage(self, space: SearchSpace) -> Coverage:
        """Which of the space's layers have a row, in all and by resolution.

        Raises:
            TableError: the table is for another space or number of classes.
        """
        self._check_space(space)
        return coverage_of(space, self.rows)

    def covered_resolutions(self, space: SearchSpace) -> tuple[int, ...]:
        """Resolutions, ascending, of which every subnet can be estimated; one is enough to search among its subnets.

        Raises:
            TableError: the table is for another space or number of classes.
        """
        return self.coverage(space).covered

    def cost_model(self, quantile: float | None = None) -> CostModel:
        """The table as a cost model, ``latency_ms@<device>``.

        Args:
            quantile: the share of single runs that are to take no longer, 0.5 to below 1; None: the rows' medians. Each
                layer counts with that quantile of a normal distribution of its median and spread. Where spreads are of
                layers, as torch's are, the sum is the subnet's quantile if slow moments hit all of its layers together,
                as another program or a lower clock does, and above it otherwise; so a limit on it is kept more surely
                than asked. ONNX Runtime's are of whole subnets: sums hold from p75 to p95, are a guess beyond, and
                come down to the quickest of a few runs toward p50.

        Raises:
            TableError: a quantile is asked for, but no row has a spread.
        """
        if quantile is not None and not any(row.spread_ms for row in self.rows.values()):
            raise TableError(
                f"the latency table of {self.device!r} has no spread, so it knows no p{100 * quantile:g}; "
                f"leave the percentile out, or measure the table with: {_profile_command(self.device)}"
            )
        return _TableCost(self, quantile)

    def _check_space(self, space: SearchSpace) -> None:
        if space.name != self.space:
            raise TableError(
                f"the latency table of {self.device!r} is for space {self.space!r}, not for {space.name!r}; "
                f"measure one with: {_profile_command(self.device)}"
            )
        if space.num_classes != self.num_classes:
            raise TableError(
                f"the latency table of {self.device!r} is for {self.num_classes} classes, not for the "
                f"{space.num_classes} of {space.name!r} here; measure one with: {_profile_command(self.device)}"
            )

    def _lacking(self, keys: Sequence[str], choice: str = "") -> TableError:
        """The error that says which of a subnet's layers have no row."""
        missing = sorted({key for key in keys if key not in self.rows})
        return TableError(
            f"no latency for {missing[0]} on {self.device!r}; {len(missing)} of {len(set(keys))} rows missing; "
            f"{choice}measure them with: {_profile_command(self.device)}"
        )

    @classmethod
    def _from_document(cls, document: TableDocument) -> LatencyTable:
        provenance = document.provenance.model_dump()
        if provenance["correction"] is not None:
            provenance["correction"] = Correction(**provenance["correction"])
        return cls(
            document.device,
            document.space,
            document.num_classes,
            {row.layer: Row(row.median_ms, row.spread_ms, row.count) for row in document.rows},
            Provenance(**provenance),
        )

    def _to_document(self) -> dict[str, Any]:
        provenance = self.provenance
        stated: dict[str, Any] = {name: getattr(provenance, name) for name in Provenance.__dataclass_fields__}
        if provenance.statistic == "median":  # not written, like no correction: so older tables keep their digests
            del stated["statistic"]
        if provenance.correction is None:
            del stated["correction"]
        else:
            stated["correction"] = asdict(provenance.correction)
        return {
            "format": FORMAT,
            "version": VERSION,
            "unit": "ms",
            "device": self.device,
            "space": self.space,
            "num_classes": self.num_classes,
            "provenance": {
                **stated,
                "hardware": dict(provenance.hardware),
                "runtime_versions": dict(provenance.runtime_versions),
            },
            "rows": [{"layer": key, **asdict(row)} for key, row in self.rows.items()],
        }


@dataclass(frozen=True)
class _TableCost(CostModel):
    table: LatencyTable
    quantile: float | None

    @property
    def name(self) -> str:
        return latency_name(self.table.device, self.quantile)

    @property
    def space(self) -> str:
        return self.table.space

    def of_each(self, layers: Sequence[LayerSpec]) -> list[float]:
        keys = [spec.key for spec in layers]
        rows = self.table.rows
        if any(key not in rows for key in keys):
            raise self.table._lacking(keys)
        normal = NormalDist()
        above = 0.0 if self.quantile is None else normal.inv_cdf(self.quantile) / normal.inv_cdf(0.75)
        return [rows[key].median_ms + above * rows[key].spread_ms for key in keys]


def parse_table(data: bytes, format: str) -> LatencyTable:
    """Read a table from a file's content; see `LatencyTable.parse`."""
    return LatencyTable.parse(data, format)


def _profile_command(device: str) -> str:
    return f"onceforall profile RUN_FOLDER --device {device}"


def format_of(path: Path) -> str:
    """The name of the table format that a file's ending stands for.

    Raises:
        TableError: it stands for none, or the name is one of the `ofa` package, whose files are only read.
    """
    if ofa_yaml.is_for(path) and not path.is_dir():
        raise TableError(f"the name of {str(path)!r} is that of a table of the ofa package; choose another name")
    for name, format in FORMATS.items():
        if path.suffix.lower() in format.suffixes:
            return name
    endings = ", ".join(suffix for format in FORMATS.values() for suffix in format.suffixes)
    raise TableError(f"the ending of {str(path)!r} names no table format; allowed: {endings}")
