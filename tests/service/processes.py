"""The service as the processes that an operator starts, with their logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ENDS_S = 60
"""Longest wait for a process that was asked to end; a quiet machine needs 1 s."""


@dataclass
class ServiceProcess:
    """A running `onceforall serve`.

    Attributes:
        process: it.
        url: where it answers.
        log: lines that it wrote to standard error, so far.
    """

    process: subprocess.Popen[str]
    url: str
    log: list[str]
    reader: threading.Thread

    def stop(self, *, expected: int = 0) -> list[dict[str, Any]]:
        """End it by SIGTERM, as a supervisor does; returns its log."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=ENDS_S)
        self.reader.join(timeout=ENDS_S)
        assert status == expected, "".join(self.log[-20:])
        return self.lines()

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far."""
        return [json.loads(line) for line in self.log]


@contextmanager
def service_process(
    folder: Path, *, environment: Mapping[str, str] | None = None, **settings: object
) -> Iterator[ServiceProcess]:
    """`onceforall serve` for the length of a `with` block; killed at its end where it still runs."""
    small = {"ONCEFORALL_SEARCH_POPULATION": "50", "ONCEFORALL_SEARCH_GENERATIONS": "40"}
    arguments = ["serve", "--data-dir", str(folder), "--port", str(settings.pop("port", 0))]
    variables = {f"ONCEFORALL_{name.upper()}": str(value) for name, value in settings.items()}
    with subprocess.Popen(
        [sys.executable, "-m", "service.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **small, **variables, **(environment or {}), "PYTHONWARNINGS": "default"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        log: list[str] = []
        errors = process.stderr
        reader = threading.Thread(target=lambda: log.extend(errors), daemon=True)
        reader.start()
        try:
            first = process.stdout.readline()
            assert first.startswith("serving at "), "".join(log)
            yield ServiceProcess(process, first.split()[2].rstrip(","), log, reader)
        finally:
            process.kill()
