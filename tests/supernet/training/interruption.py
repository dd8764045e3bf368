"""A training that is broken off, for tests of going on."""

from __future__ import annotations

from supernet.training.metrics import Silence


class StopAfter(Silence):
    """Breaks the training off after so many steps, as an error from outside would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, metrics: dict[str, float]) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
