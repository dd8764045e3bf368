"""The child process that does jobs: reads them as JSON lines, answers with events as JSON lines.

Started by the service as `python -m service.worker`. The first line is the settings, each further line one job. When
standard input ends, the service is gone, and so is this process.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import sys
import threading
from typing import Any, TextIO

import structlog

from service import logs
from service.errors import BusyError, told
from service.settings import Settings
from supernet.errors import OnceForAllError, StorageError

_log = structlog.get_logger("service.worker")  # run as a program, this module has no name of its own


def main() -> None:
    """Serve jobs until standard input ends."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not get among the events
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    settings = Settings(**json.loads(sys.stdin.readline()))
    logs.configure(settings)
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (settings.job_memory_bytes, settings.job_memory_bytes))

    from service.handlers import Workshop  # imports torch

    workshop = Workshop(settings)
    while True:
        job = json.loads(lines.get())
        with logs.of_job(job["job_id"], job["payload"]):
            _serve(workshop, job, events)


def _listen(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # at once, whatever the main thread computes


def _serve(workshop: Any, job: dict[str, Any], events: TextIO) -> None:
    def emit(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    def progress(stage: str, fraction: float) -> None:
        _log.debug("job_progress", stage=stage, fraction=round(fraction, 3))
        emit({"event": "progress", "stage": stage, "fraction": fraction})

    try:
        emit({"event": "done", "result": workshop.do(job["kind"], job["payload"], progress, executor=job["executor"])})
    except OnceForAllError as error:
        if told(error) != str(error):
            _log.error("job_refused", error=str(error))
        transient = isinstance(error, StorageError | BusyError)  # a store that is away or full is so for a while
        emit(
            {
                "event": "failed",
                "error": {"kind": type(error).__name__, "message": told(error)},
                "transient": transient,
            }
        )
    except Exception as error:
        if _out_of_memory(error):
            message = "the job needs more memory than it may use; raise ONCEFORALL_JOB_MEMORY_BYTES"
            emit({"event": "failed", "error": {"kind": "MemoryError", "message": message}})
            return
        _log.error("job_crashed", kind=job["kind"], exc_info=error)
        message = f"a fault of the service, not of the request: {type(error).__name__}; its log has the details"
        emit({"event": "failed", "error": {"kind": "internal", "message": message}})


def _out_of_memory(error: Exception) -> bool:
    """Python, torch and C++ each say it in their own way."""
    said = "can't allocate memory" in str(error) or "bad_alloc" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


if __name__ == "__main__":
    main()
