"""Where a search stands after a generation, and the file from which an interrupted one goes on."""

from __future__ import annotations

import glob
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as format_tensors

from search.seen import Seen
from supernet.errors import CheckpointError
from supernet.files import require_writable, write_bytes
from supernet.spaces import Genotypes

FORMAT = "onceforall.search/1"
"""To be changed when a search breeds otherwise than before: a checkpoint promises the uninterrupted search's result."""
SECONDS = 10.0
"""Least time between two saves; one of 640,000 subnets takes a quarter of a second."""
Scores = npt.NDArray[np.floating]
_COUNTERS = ("drawn", "generation", "stale")


@dataclass
class State:
    """Where a search stands after a generation; with its settings, all that the next one depends on.

    Attributes:
        rng: source of all random choices.
        seen: what was scored.
        rows: those of it that may breed, int8 (n, genes).
        scores: theirs, (n,).
        history: scores of all that was seen, in that order; a search for one budget needs none and leaves it empty.
        drawn: children to draw in the next generation, where a search adapts that.
        generation: how many generations are done.
        stale: how many of the last ones in a row scored nothing new.
    """

    rng: np.random.Generator
    seen: Seen
    rows: Genotypes
    scores: Scores
    history: list[Scores] = field(default_factory=list)
    drawn: int = 0
    generation: int = 0
    stale: int = 0


class Checkpoint:
    """One search's state in a safetensors file that is whole or absent.

    Args:
        path: the file; None: nothing is kept.
        search: all that the search's result depends on, name -> plain JSON; with another one the file is refused.
    """

    def __init__(self, path: Path | None, search: Mapping[str, Any]) -> None:
        self._path = path
        self._search = json.dumps(search, sort_keys=True, default=str)
        self._saved_at = time.monotonic()

    def load(self) -> State | None:
        """The state that was saved, or None where there is none yet.

        Raises:
            CheckpointError: the file is damaged, something else, or of another search; what differs is named.
            StorageError: nothing could be saved there.
        """
        if self._path is None:
            return None
        require_writable(self._path)
        for half_written in self._path.parent.glob(f".{glob.escape(self._path.name)}.*.tmp"):  # by a killed process
            half_written.unlink(missing_ok=True)
        if not self._path.exists():
            return None
        try:
            metadata, arrays = _read(self._path)
            theirs, state = json.loads(metadata["search"]), json.loads(metadata["state"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{str(self._path)!r} is no search's checkpoint, or is damaged ({error}); choose another file, or "
                "delete this one to start the search anew"
            ) from None
        ours = json.loads(self._search)
        differences = [
            f"{name} is {_shown(theirs.get(name))} there and {_shown(ours.get(name))} here"
            for name in sorted({*theirs, *ours})
            if theirs.get(name) != ours.get(name)
        ]
        if differences:
            raise CheckpointError(
                f"{str(self._path)!r} is the checkpoint of another search: {'; '.join(differences)}; search with the "
                "same arguments, choose another file, or delete this one"
            )
        return _unpacked(state, arrays)

    def save(self, state: State) -> None:
        """Replace the file, if the last time is `SECONDS` ago.

        Raises:
            StorageError: the disk is full or read-only; the earlier file is still there.
        """
        if self._path is None or time.monotonic() - self._saved_at < SECONDS:
            return
        arrays = {"seen": state.seen.rows(), "rows": state.rows, "scores": state.scores}
        if state.history:
            arrays["history"] = np.concatenate(state.history)
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        counters = {name: getattr(state, name) for name in _COUNTERS}
        metadata = {
            "format": FORMAT,
            "search": self._search,
            "state": json.dumps({**counters, "rng": state.rng.bit_generator.state}),
        }
        metadata["digest"] = _digest(metadata, arrays)
        write_bytes(self._path, format_tensors(arrays, metadata))
        self._saved_at = time.monotonic()

    def remove(self) -> None:
        """The search is done: what was saved is of no more use."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    with safe_open(path, "numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if metadata.pop("digest", None) != _digest(metadata, arrays):
        raise ValueError("its content does not have the digest that its header states")
    return metadata, arrays


def _unpacked(state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> State:
    rng, seen = np.random.default_rng(), Seen()
    rng.bit_generator.state = state["rng"]
    seen.new(arrays["seen"])
    history = [arrays["history"]] if "history" in arrays else []
    counters = {name: state[name] for name in _COUNTERS}
    return State(rng, seen, arrays["rows"], arrays["scores"], history, **counters)


def _digest(metadata: Mapping[str, str], arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _shown(value: object) -> str:
    """A digest's first digits are enough to see that two differ."""
    return "absent" if value is None else str(value)[:12] if len(str(value)) == 64 else repr(value)
