"""JSON; a key that stands twice in an object is refused, because the parser would silently keep the last."""

from __future__ import annotations

import json
from typing import Any

from supernet.errors import TableError

MAX_BYTES = 4 * 2**20


def decode(data: bytes, what: str = "latency table") -> Any:
    """Plain data from UTF-8 JSON.

    Raises:
        TableError: not JSON, nested too deeply, or a key stands twice.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        raise TableError(f"{what}: JSON nested too deeply; 4 levels are enough") from None
    except ValueError as error:  # JSON, UTF-8, and integers of too many digits alike
        raise TableError(f"{what}: not JSON ({_one_line(error)}); check that the whole file arrived") from None


def encode(document: Any) -> bytes:
    """Indented UTF-8 JSON; NaN and infinity are a ValueError."""
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's fields; ValueError where a key stands twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"key {name[:80]!r} stands twice in one object")
        found[name] = value
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
