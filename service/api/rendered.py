"""Answers as bytes, made once for every state of what they tell of: the files of a subnet, the progress of a job."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class Rendered:
    """The answers that were asked for last. Safe to share between threads.

    Args:
        most_bytes: of all of them together.
    """

    def __init__(self, most_bytes: int = 32 << 20) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[Hashable, tuple[Hashable, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, state: Hashable) -> bytes | None:
        """The answer of that key, unless it was made from another state."""
        with self._lock:
            found = self._kept.get(key)
            if found is None or found[0] != state:
                return None
            self._kept.move_to_end(key)
            return found[1]

    def get_or_make(self, key: Hashable, state: Hashable, make: Callable[[], bytes]) -> bytes:
        """The answer of that key, made by `make` where it is not kept or was made from another state."""
        found = self.get(key, state)
        if found is None:
            found = make()
            self.put(key, state, found)
        return found

    def put(self, key: Hashable, state: Hashable, content: bytes) -> None:
        """Keep an answer, and let go of those that nobody asked for in the longest time."""
        with self._lock:
            old = self._kept.pop(key, None)
            self._bytes += len(content) - (0 if old is None else len(old[1]))
            self._kept[key] = state, content
            while self._bytes > self._most_bytes:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._bytes -= len(dropped)
