"""CSV: one line a layer; what else a table states stands above them, as lines ``# name: value``.

A value that is JSON means what it means there (a number, null, an object); all other text is itself, and text that
JSON would take for something else is quoted. The column `layer` is text, the other columns are numbers.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from latency_tables.document import MAX_ROWS, RowDocument, refuse, required_lines, shown
from latency_tables.formats.json_format import unique
from supernet.errors import TableError

MAX_BYTES = 4 * 2**20
MAX_LINES = 200
"""Lines above the column names; a table has 16, and anything more is a fault."""
COLUMNS = tuple(RowDocument.model_fields)


def decode(data: bytes) -> Any:
    """Plain data from UTF-8 CSV.

    Raises:
        TableError: not CSV, lines or columns are absent or stand twice, a row of another length, too many rows.
    """
    try:
        lines = io.StringIO(data.decode("utf-8-sig"), newline="")
        document, columns = _head(lines)
        return document | {"rows": list(_rows(lines, columns))}
    except (csv.Error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TableError(f"latency table: not CSV ({reason}); check that the whole file arrived") from None


def encode(document: Any) -> bytes:
    """UTF-8 CSV, in the document's own order; NaN and infinity are a ValueError."""
    text = io.StringIO(newline="")
    for name, value in document.items():
        if name == "rows":
            continue
        parts = {f"{name}.{part}": inner for part, inner in value.items()} if isinstance(value, dict) else {name: value}
        text.writelines(f"# {key}: {_written(inner)}\n" for key, inner in parts.items())
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(document["rows"])
    return text.getvalue().encode()


def _head(lines: io.StringIO) -> tuple[dict[str, Any], list[str]]:
    """The lines above the rows: what they state, and the columns' names."""
    given: dict[str, Any] = {}
    faults: list[str] = []
    columns: list[str] = []
    for number, line in enumerate(lines, start=1):
        if number > MAX_LINES:
            raise TableError(f"latency table: more than {MAX_LINES} lines above the column names {', '.join(COLUMNS)}")
        text = line.strip()
        if not text.startswith("#"):
            columns = [name.strip() for name in next(csv.reader([text], strict=True), [])]
            if columns:
                break
            continue
        name, colon, value = text[1:].partition(":")
        name = name.strip()
        if not colon or not name:
            faults.append(f"line {number} {shown(text)} is not '# name: value'")
        elif name in given:
            faults.append(f"line {number} says {shown(name)} again")
        else:
            given[name] = _meant(value.strip())
    missing = [name for name in required_lines() if name not in given]
    if missing:
        faults.append(f"no line '# name: value' (null: not known) says {', '.join(missing)}")
    faults += _wrong_columns(columns)
    refuse(faults)
    return _nested(given), columns


def _wrong_columns(columns: list[str]) -> list[str]:
    unknown = [name for name in columns if name not in COLUMNS]
    missing = [name for name in COLUMNS if name not in columns]
    faults = [f"columns {', '.join(map(shown, unknown[:3]))} are not known"] if unknown else []
    if missing:
        faults.append(f"there is no column {', '.join(missing)} (separated by commas)")
    return faults + [f"column {name} stands twice" for name in COLUMNS if columns.count(name) > 1]


def _nested(given: dict[str, Any]) -> dict[str, Any]:
    """``provenance.threads`` becomes ``threads`` inside of ``provenance``."""
    document: dict[str, Any] = {}
    faults = ["rows is not a known field"] if "rows" in given else []
    for name, value in given.items():
        outer, dot, inner = name.partition(".")
        if not dot:
            document.setdefault(name, value)
        elif isinstance(document.setdefault(outer, {}), dict) and outer not in given:
            document[outer][inner] = value
        else:
            faults.append(f"{shown(outer)} and {shown(name)} exclude each other")
    refuse(faults)
    return document


def _rows(lines: io.StringIO, columns: list[str]) -> Iterator[dict[str, Any]]:
    for number, cells in enumerate(row for row in csv.reader(lines, strict=True) if row):
        if number == MAX_ROWS:
            raise TableError(f"latency table: more than {MAX_ROWS} rows; split it by resolution")
        if len(cells) != len(columns):
            raise TableError(
                f"latency table: row {number} {shown(cells[0])} has {len(cells)} cells, there are {len(columns)} "
                "columns; mend it and load it again"
            )
        pairs = zip(columns, cells, strict=True)
        yield {name: cell if name == "layer" else _meant(cell.strip()) for name, cell in pairs if cell}


def _meant(text: str) -> Any:
    """What a value of the file stands for."""
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _written(value: Any) -> str:
    """The inverse of `_meant`."""
    plain = isinstance(value, str) and value == value.strip() and _meant(value) == value
    return str(value) if plain else json.dumps(value, ensure_ascii=False, allow_nan=False)
