"""File formats of latency tables: each module turns bytes into plain data and back, and knows nothing else.

What the data must look like is `latency_tables.document`'s matter, so a format has no rules of its own to get wrong.
Tables of the `ofa` package are several files and only read: `ofa_yaml` makes the same plain data of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from latency_tables.formats import csv_format, json_format, yaml_format


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        suffixes: endings of its files' names.
        max_bytes: greatest size that is read.
        decode: bytes -> plain data; raises TableError with what is wrong.
        encode: plain data -> bytes.
    """

    suffixes: tuple[str, ...]
    max_bytes: int
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]


FORMATS: dict[str, Format] = {
    "json": Format((".json",), json_format.MAX_BYTES, json_format.decode, json_format.encode),
    "yaml": Format((".yaml", ".yml"), yaml_format.MAX_BYTES, yaml_format.decode, yaml_format.encode),
    "csv": Format((".csv",), csv_format.MAX_BYTES, csv_format.decode, csv_format.encode),
}

__all__ = ["FORMATS", "Format"]
