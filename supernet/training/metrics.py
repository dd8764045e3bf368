"""What a training reports: lines of JSON, TensorBoard curves, and a live display."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from supernet.errors import writing
from supernet.files import write_bytes
from supernet.training.checkpoint import Position
from supernet.training.schedule import Stage


class Display(Protocol):
    """Someone who watches a training."""

    def stage_started(self, stage: Stage, done: int, total: int) -> None:
        """A stage begins, or goes on, at step `done` of `total`."""

    def step(self, metrics: dict[str, float]) -> None:
        """One step is done; keys: loss, accuracy, images_per_second, learning_rate, resolution."""

    def stage_ended(self, stage: Stage, report: dict[str, Any]) -> None:
        """A stage is over; `report` is the line written to metrics.jsonl."""


class Silence:
    """A display that shows nothing."""

    def stage_started(self, stage: Stage, done: int, total: int) -> None:
        """Nothing."""

    def step(self, metrics: dict[str, float]) -> None:
        """Nothing."""

    def stage_ended(self, stage: Stage, report: dict[str, Any]) -> None:
        """Nothing."""


class MetricsWriter:
    """Writes `metrics.jsonl` and TensorBoard event files of a run.

    Args:
        folder: the run.
        position: from where the run goes on; lines of later steps (of a killed process) are removed.
    """

    def __init__(self, folder: Path, position: Position) -> None:
        self.path = folder / "metrics.jsonl"
        self._keep_until(position.total_steps)
        from torch.utils.tensorboard.writer import SummaryWriter

        with writing(folder / "tensorboard"):
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=position.total_steps + 1)
            self._lines = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._board.close()

    def write(self, total_steps: int, values: dict[str, Any]) -> None:
        """Append one line and one point of every curve."""
        with writing(self.path):
            self._lines.write(json.dumps({"total_steps": total_steps, **values}) + "\n")
            self._lines.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, total_steps)

    def _keep_until(self, total_steps: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
            except json.JSONDecodeError:  # the line that a killed process was writing
                break
            if values["total_steps"] > total_steps:
                break
            kept.append(line + "\n")
        write_bytes(self.path, "".join(kept).encode())
