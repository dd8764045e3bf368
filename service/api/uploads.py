"""Large uploads: few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter
from fastapi import HTTPException


class Uploads:
    """How many runs and weights may be on their way into one application, and how many runs may be opened at a time.

    An upload takes room on the disk, and opening a run a process with torch: 2 s and 500 MB.

    Args:
        most: uploads at a time.
        opening: of these, how many may be opened.
    """

    def __init__(self, most: int, opening: int = 1) -> None:
        self._most = most
        self._running = 0
        self.opening = CapacityLimiter(opening)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Be one of them for the length of a `with` block.

        Raises:
            HTTPException: there are as many as may be.
        """
        if self._running >= self._most:
            detail = f"{self._running} runs or weights are uploaded, no more at a time; send the request again later"
            raise HTTPException(429, detail, {"Retry-After": "5", "Connection": "close"})  # the body is not read
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
