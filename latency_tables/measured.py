"""Whole subnets that were measured on a device, and their file: a JSON list, one object a subnet.

    [{"config": {"space": "mobilenet_v3_tiny", "resolution": 32, ...}, "latency_ms": 12.3, "spread_ms": 0.1}, ...]

`config` is `SubnetConfig.to_dict`; `spread_ms` may be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from latency_tables.document import Milliseconds, Spread, Strict, problem_of, refuse
from latency_tables.formats import json_format
from latency_tables.formats.capped import read_capped
from supernet.arch import SubnetConfig
from supernet.errors import ConfigError, TableError
from supernet.files import write_json

MAX_SUBNETS = 500
"""More take a correction minutes, and tell it nothing new."""
_WHAT = "measured subnets"


@dataclass(frozen=True)
class MeasuredSubnet:
    """A subnet's latency on a device.

    Attributes:
        config: the subnet.
        latency_ms: of a forward pass, ms a batch.
        spread_ms: half of the distance between the quartiles, ms; None: not known. For people; nothing is fitted to it.
    """

    config: SubnetConfig
    latency_ms: float
    spread_ms: float | None = None


class _Entry(Strict):
    config: dict[str, Any]
    latency_ms: Milliseconds
    spread_ms: Spread | None = None


_ENTRIES = TypeAdapter(Annotated[list[_Entry], Field(min_length=1)])


def read_measured(path: str | PathLike[str]) -> list[MeasuredSubnet]:
    """Read measured subnets from a file.

    Raises:
        TableError: absent, too large, malformed; every fault is named with its place, the first five in words.
    """
    try:
        data = json_format.decode(read_capped(Path(path), json_format.MAX_BYTES, _WHAT), _WHAT)
        return _checked(data)
    except OSError as error:
        raise TableError(
            f"cannot read {_WHAT} {str(path)!r}: {error.strerror}; check the path, or measure some with: "
            "onceforall profile --correct"
        ) from None
    except TableError as error:
        raise TableError(f"{str(path)!r}: {error}") from None


def write_measured(path: str | PathLike[str], subnets: Sequence[MeasuredSubnet]) -> None:
    """Write measured subnets atomically.

    Raises:
        StorageError: the path cannot be written.
    """
    write_json(
        Path(path),
        [
            {"config": subnet.config.to_dict(), "latency_ms": subnet.latency_ms}
            | ({} if subnet.spread_ms is None else {"spread_ms": subnet.spread_ms})
            for subnet in subnets
        ],
    )


def _checked(data: Any) -> list[MeasuredSubnet]:
    if not isinstance(data, list):
        raise TableError(f"{_WHAT}: expected a list of objects, got {type(data).__name__}")
    if len(data) > MAX_SUBNETS:
        raise TableError(f"{_WHAT}: {len(data)}; allowed: at most {MAX_SUBNETS}; leave some out")
    faults: list[str] = []
    try:
        _ENTRIES.validate_python(data)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            place = [str(part)[:80] for part in fault["loc"]]
            faults.append(" ".join(["subnet " + ", ".join(place) if place else "the list", problem_of(fault)]))
    found = []
    for number, entry in enumerate(data):
        try:
            if isinstance(entry, dict) and isinstance(entry.get("config"), dict):
                config = SubnetConfig.from_dict(entry["config"])
                found.append(MeasuredSubnet(config, entry.get("latency_ms", 0), entry.get("spread_ms")))
        except ConfigError as error:
            faults.append(f"subnet {number}, config: {str(error)[:300]}")
    refuse(faults, _WHAT)
    return found
