"""Where another process's checkpoint stands, read while that process may be replacing the file."""

from __future__ import annotations

import json
from pathlib import Path

from supernet.training.checkpoint import Position


def saved_position(run: Path) -> Position | None:
    """The position in a run's checkpoint, or None before the first; one open file, so never half of two."""
    try:
        with (run / "checkpoint.safetensors").open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except FileNotFoundError:
        return None
    return Position(**json.loads(header["__metadata__"]["position"]))
