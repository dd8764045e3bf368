"""The process that does jobs: its limits, and what it says when it meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import LocalStore
from small_service import small_settings

from service.errors import DamagedError
from service.jobs.children import child_environment
from service.storage.artifacts import ObjectArtifacts
from supernet.errors import StorageError

GiB = 1 << 30
WORKER = """
import resource, sys, types

class Workshop:
    def __init__(self, settings):
        import torch
        self.torch = torch

    def do(self, kind, payload, progress, *, executor):
        from service.errors import BackendError, BusyError, DamagedError
        from supernet.errors import StorageError
        match kind:
            case "bytes":
                return {"length": len(bytearray(payload["bytes"]))}
            case "tensor":
                return {"length": len(self.torch.empty(payload["bytes"], dtype=self.torch.uint8))}
            case "limits":
                return {"memory": resource.getrlimit(resource.RLIMIT_AS)[0], "threads": self.torch.get_num_threads()}
            case "away":
                raise StorageError("the bucket is away")
            case "busy":
                raise BusyError("no connection is free")
            case "damaged":
                raise DamagedError("the file is gone")
            case "database":
                raise BackendError("the database 'me@here' refused", "the database refused")
        raise RuntimeError("a fault of ours")

handlers = types.ModuleType("service.handlers")
handlers.Workshop = Workshop
sys.modules["service.handlers"] = handlers
from service.worker import main
main()
"""


class Worker:
    """The process with a workshop of this test's own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def do(self, kind: str, **payload: object) -> dict[str, Any]:
        self.tell({"job_id": "a", "kind": kind, "payload": payload, "executor": "test"})
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def tell(self, message: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    settings = small_settings(tmp_path_factory.mktemp("worker"), job_memory_bytes=8 * GiB, job_threads=1)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=pipe, stdout=pipe, text=True, env=child_environment(settings.job_threads)
    ) as process:
        worker = Worker(process)
        worker.tell(settings.model_dump(mode="json"))
        yield worker
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_a_jobs_process_has_the_memory_and_the_threads_that_the_settings_say(worker: Worker) -> None:
    assert worker.do("limits")["result"] == {"memory": 8 * GiB, "threads": 1}


@pytest.mark.parametrize("kind", ["bytes", "tensor"])
def test_a_job_that_needs_more_memory_fails_and_says_so_and_the_next_one_runs(worker: Worker, kind: str) -> None:
    failed = worker.do(kind, bytes=64 * GiB)
    assert failed["event"] == "failed"
    assert failed["error"]["kind"] == "MemoryError"
    assert "raise ONCEFORALL_JOB_MEMORY_BYTES" in failed["error"]["message"]
    assert worker.do(kind, bytes=1000) == {"event": "done", "result": {"length": 1000}}


@pytest.mark.parametrize(
    ("kind", "transient", "message"),
    [
        ("away", True, "the bucket is away"),
        ("busy", True, "no connection is free"),
        ("database", True, "the database refused"),
        ("damaged", False, "the file is gone"),
    ],
)
def test_what_may_be_over_soon_is_marked_so(worker: Worker, kind: str, transient: bool, message: str) -> None:
    failed = worker.do(kind)
    assert (failed["transient"], failed["error"]["message"]) == (transient, message)


def test_a_fault_of_ours_is_told_as_one(worker: Worker) -> None:
    assert worker.do("anything")["error"]["kind"] == "internal"


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (GenericError("no route to host"), StorageError, "cannot read the stored file .*: no route to host; try again"),
        (TimeoutError("timed out"), StorageError, "cannot read the stored file .*: timed out; try again"),
        (FileNotFoundError("x"), DamagedError, "is gone from the artefact store"),
    ],
)
def test_a_store_that_fails_while_a_file_is_read_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, kind: type[Exception], message: str
) -> None:
    artifacts = ObjectArtifacts(LocalStore(tmp_path))
    stored = artifacts.put_bytes(b"content", name="x")

    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(obstore, "get_range", fail)
    with pytest.raises(kind, match=message):
        artifacts.read(stored.sha256)
