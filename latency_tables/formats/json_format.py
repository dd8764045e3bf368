"""JSON; a key that stands twice in an object is refused, because the parser would silently keep the last."""

from __future__ import annotations

import json
from typing import Any

from supernet.errors import TableError

MAX_BYTES = 4 * 2**20


def decode(data: bytes) -> Any:
    """Plain data from UTF-8 JSON.

    Raises:
        TableError: not JSON, nested too deeply, or a key stands twice.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise TableError("latency table: JSON nested too deeply; a table needs 3 levels") from None
    except ValueError as error:  # JSON, UTF-8, and integers of too many digits alike
        raise TableError(f"latency table: not JSON ({_one_line(error)}); check that the whole file arrived") from None


def encode(document: Any) -> bytes:
    """Indented UTF-8 JSON; NaN and infinity are a ValueError."""
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"key {twice[:80]!r} stands twice in one object")
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
