"""The document behind every table file: what it must hold, checked strictly, with all faults in one message."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from latency_tables.budget import device_fault
from supernet.errors import TableError

FORMAT = "onceforall-latency-table"
VERSION = 1
MAX_ROWS = 20_000
_FAULTS_SHOWN = 5


def _device(name: str) -> str:
    fault = device_fault(name)
    if fault:
        raise ValueError(fault)
    return name


def _date(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise ValueError("a date is written YYYY-MM-DD")
    datetime.date.fromisoformat(text)
    return text


Milliseconds = Annotated[float, Field(gt=0, le=1e9)]
Count = Annotated[int, Field(gt=0, le=10**9)]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Facts = Annotated[dict[Text, Text | int], Field(max_length=50)]
Spread = Annotated[float, Field(ge=0, le=1e9)]


class Strict(BaseModel):
    """What is read from a file: exact types, finite numbers, no field that is not known."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class RowDocument(Strict):
    """One measured layer; `layer` is the key of its `LayerSpec`."""

    layer: Text
    median_ms: Milliseconds
    spread_ms: Spread
    count: Count


class CorrectionDocument(Strict):
    """How rows that were measured became the rows of the table."""

    subnets: Count
    scale: Annotated[float, Field(gt=0, le=1e9)]
    per_layer_ms: Annotated[float, Field(ge=-1e9, le=1e9)]
    constant_ms: Annotated[float, Field(ge=-1e9, le=1e9)]
    error_before: Spread
    error_after: Spread
    uncorrected: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ProvenanceDocument(Strict):
    """How the rows were measured; what is not known is null, never left out."""

    hardware: Facts
    runtime: Text | None
    runtime_versions: Facts
    precision: Text | None
    memory_format: Text | None
    threads: Count | None
    batch: Count | None
    date: Annotated[str, AfterValidator(_date)] | None
    repeats: Count | None
    warmup: Annotated[int, Field(ge=0, le=10**9)] | None
    statistic: Literal["median", "mean"] = "median"
    correction: CorrectionDocument | None = None


class TableDocument(Strict):
    """A whole table file."""

    format: Literal["onceforall-latency-table"]
    version: Literal[1]
    unit: Literal["ms"]
    device: Annotated[str, AfterValidator(_device)]
    space: Text
    num_classes: Annotated[int, Field(ge=2, le=10**6)]
    provenance: ProvenanceDocument
    rows: Annotated[list[RowDocument], Field(min_length=1)]


def check(data: Any) -> TableDocument:
    """The document in `data`.

    Raises:
        TableError: every fault with its row; the first five are told.
    """
    if not isinstance(data, dict):
        raise TableError(f"latency table: expected an object with named fields, got {type(data).__name__}")
    rows = data.get("rows")
    if isinstance(rows, list) and len(rows) > MAX_ROWS:
        raise TableError(f"latency table: {len(rows)} rows; allowed: at most {MAX_ROWS}; split it by resolution")
    faults = _duplicates(rows) if isinstance(rows, list) else []
    try:
        document = TableDocument.model_validate(data)
    except ValidationError as error:
        faults += [_sentence(fault, rows) for fault in error.errors(include_url=False)]
    refuse(faults)
    return document


def refuse(faults: Sequence[str], what: str = "latency table", *, remedy: str = "mend them and load it again") -> None:
    """Do nothing where there are no faults.

    Raises:
        TableError: there are; it tells the first five and counts the rest.
    """
    if faults:
        more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise TableError(f"{what}: {'; '.join(faults[:_FAULTS_SHOWN])}{more}; {remedy}")


def required_lines() -> list[str]:
    """Names of all facts that a table must state beside its rows, with a dot where they are the provenance's."""
    table = [name for name in TableDocument.model_fields if name not in ("provenance", "rows")]
    parts = ProvenanceDocument.model_fields.items()
    return [*table, *(f"provenance.{name}" for name, field in parts if field.is_required())]


def _duplicates(rows: list[Any]) -> list[str]:
    first: dict[str, int] = {}
    faults = []
    for number, row in enumerate(rows):
        layer = row.get("layer") if isinstance(row, dict) else None
        if not isinstance(layer, str):
            continue
        if layer in first:
            faults.append(f"row {number} {shown(layer)} repeats row {first[layer]}")
        first.setdefault(layer, number)
    return faults


def _sentence(fault: Any, rows: Any) -> str:
    """A pydantic fault in our words: place, row, value, what is allowed."""
    place = list(fault["loc"])
    problem = problem_of(fault)
    if len(place) >= 2 and place[0] == "rows" and isinstance(place[1], int):
        row = rows[place[1]]
        layer = row.get("layer") if isinstance(row, dict) else None
        named = f" {shown(layer)}" if isinstance(layer, str) else ""
        field = f", {_dotted(place[2:])}" if place[2:] else ""
        return f"row {place[1]}{named}{field} {problem}"
    return f"{_dotted(place)} {problem}"


def problem_of(fault: Any) -> str:
    """What pydantic found wrong, without the place: ``is 'us': input should be 'ms'``."""
    if fault["type"] == "missing":
        return "is missing"
    if fault["type"] == "extra_forbidden":
        return "is not a known field"
    if fault["type"] == "too_short":
        return "is empty; at least one is needed"
    return f"is {shown(fault['input'])}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _dotted(place: list[Any]) -> str:
    return ".".join(str(part)[:80] for part in place)


def shown(value: object) -> str:
    """The value as messages show it: short, on one line."""
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value)}"  # never the repr of a whole upload
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 90 else f"{text[:87]}..."
