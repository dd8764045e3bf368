"""Which subnets a search has looked at, so that none is scored twice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from supernet.spaces import Genotypes


class Seen:
    """A growing set of genotypes, in the order in which they came; about 150 bytes each."""

    def __init__(self) -> None:
        self._keys: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def rows(self) -> Genotypes:
        """All of them in their order, int8 (n, genes)."""
        rows = np.frombuffer(b"".join(self._keys), dtype=np.int8)
        return rows.reshape(len(self._keys), -1) if len(self._keys) else rows.reshape(0, 0)

    def new(self, rows: Genotypes) -> Genotypes:
        """The canonical rows that were not seen before, each once, in order; they are marked as seen."""
        return self.first_new(rows, np.ones(len(rows), dtype=bool), len(rows))[0]

    def first_new(self, rows: Genotypes, allowed: npt.NDArray[np.bool_], most: int) -> tuple[Genotypes, int]:
        """The first `most` allowed rows that were not seen before, and how many rows were looked at."""
        places = np.flatnonzero(allowed)
        found = np.ascontiguousarray(rows[places])
        # a row as one opaque value: a dict of bytes is exact, and faster than np.unique
        keys: list[bytes] = found.view(np.dtype((np.void, found.shape[1])))[:, 0].tolist()
        new = []
        for place, key in enumerate(keys):
            if key not in self._keys:
                self._keys[key] = None
                new.append(place)
                if len(new) == most:
                    return found[new], int(places[place]) + 1
        return found[new], len(rows)
