"""A service in a process of its own, for the benchmarks of the service: started, asked for its memory, ended."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "service"))
from small_service import SPACE, make_run, make_table

__all__ = ["SPACE", "Memory", "Service", "machine", "make_run", "make_table", "service"]

SERVE = """
import json, sys
from service import logs
from service.server import run
from service.settings import Settings
settings = Settings(**json.loads(sys.argv[1]))
logs.configure(settings)  # to standard error: nobody reads standard output after the first line
run(settings, on_ready=lambda url: print(url, flush=True))
"""


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes:
        url: of the service.
        pid: of its process.
        data: its folder.
    """

    url: str
    pid: int
    data: Path


@contextmanager
def service(folder: Path, **settings: Any) -> Iterator[Service]:
    """Serve `folder` for the length of a `with` block."""
    values = {
        "data_dir": str(folder),
        "port": 0,
        "search_population": 50,
        "search_generations": 40,
        "log_format": "json",
    }
    values |= settings
    arguments = [sys.executable, "-c", SERVE, json.dumps(values)]
    with (
        (folder.parent / f"{folder.name}.log").open("w") as log,
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            yield Service(process.stdout.readline().strip(), process.pid, folder)
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


class Memory:
    """The greatest resident memory of a process and its descendants during a `with` block, without its job host.

    Attributes:
        before: bytes at the start.
        greatest: bytes, sampled every 5 ms.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.greatest = 0

    def __enter__(self) -> Self:
        self.before = self.greatest = self._now()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        """Bytes by which the memory grew at most."""
        return self.greatest - self.before

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self.greatest = max(self.greatest, self._now())

    def _now(self) -> int:
        return sum(map(resident, tree(self._pid)))


def tree(pid: int) -> list[int]:
    """A process and those that it started, but for the job host, which does what other requests asked for."""
    found = [pid]
    for parent in found:
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            started = [child for task in Path(f"/proc/{parent}/task").iterdir() for child in _children(task)]
        except OSError:
            continue
        found += [child for child in {*map(int, children), *started} if not _is_host(child)]
    return found


def resident(pid: int) -> int:
    """Bytes; 0 where the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def _children(task: Path) -> list[int]:
    try:
        return [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _is_host(pid: int) -> bool:
    try:
        return b"service.jobs.host" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
