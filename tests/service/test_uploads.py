"""Uploads keep off the memory and leave the other requests their threads."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from processes import service_process
from safetensors.torch import save
from small_service import make_run, serving, small_settings
from test_waiting import upload

from service import runs
from service.verify import verify_run
from supernet.errors import CheckpointError

MANY_S = 60.0
BYTES = {"Content-Type": "application/octet-stream"}


@contextmanager
def begun_upload(url: str, sent_bytes: int) -> Iterator[socket.socket]:
    """An upload of which so many bytes have come, and whose end never does."""
    host, port = url.removeprefix("http://").split(":")
    head = b'--x\r\nContent-Disposition: form-data; name="weights"; filename="w"\r\n\r\n'
    lines = "POST /api/v1/supernets HTTP/1.1", "Host: 127.0.0.1", "Content-Type: multipart/form-data; boundary=x"
    with socket.create_connection((host, int(port)), timeout=MANY_S) as connection:
        connection.sendall("\r\n".join([*lines, "Content-Length: 100000000", "", ""]).encode())
        connection.sendall(head + b"w" * sent_bytes)
        yield connection


def wait_for(what: object) -> None:
    deadline = time.monotonic() + MANY_S
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_great_upload_is_spooled_to_the_data_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "memory"
    elsewhere.mkdir()
    with service_process(tmp_path / "data", environment={"TMPDIR": str(elsewhere)}, job_workers=0) as process:
        files = Path(f"/proc/{process.process.pid}/fd")

        def spooled() -> list[str]:
            found = [str(file.readlink()) for file in files.iterdir() if file.is_symlink()]
            return [path for path in found if re.search(r"/(data|memory)/.*\(deleted\)$", path)]

        with begun_upload(process.url, 3 << 20):
            wait_for(spooled)
            assert all(path.startswith(str(tmp_path / "data" / "cache" / "tmp")) for path in spooled())
        process.stop()


def test_more_uploads_than_may_run_are_a_429_before_their_bodies_are_read(tmp_path: Path) -> None:
    with serving(small_settings(tmp_path, job_workers=0, max_uploads=1)) as url:

        def refused() -> bool:
            files = {"weights": ("w", b"x")}
            answer = httpx.post(f"{url}/api/v1/supernets", data={"name": "noise"}, files=files, timeout=MANY_S)
            if answer.status_code == 422:  # the other one has not come yet
                return False
            assert answer.status_code == 429
            assert (
                answer.json()["detail"]
                == "1 runs or weights are uploaded, no more at a time; send the request again later"
            )
            assert answer.json()["type"].endswith(":busy")
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["connection"] == "close"
            return True

        with begun_upload(url, 10):
            wait_for(refused)
            weights = httpx.post(f"{url}/api/v1/weights", content=b"x", headers=BYTES, timeout=MANY_S)
            assert (weights.status_code, weights.headers["connection"]) == (429, "close")
        wait_for(lambda: not refused())


def test_an_idempotency_key_of_weights_is_for_one_file(url: str) -> None:
    def sent(values: list[float]) -> httpx.Response:
        content = save({"w": torch.tensor(values)})
        headers = BYTES | {"Idempotency-Key": "weights-once"}
        return httpx.post(f"{url}/api/v1/weights", content=content, headers=headers, timeout=MANY_S)

    first, again, other = sent([1.0, 2.0]), sent([1.0, 2.0]), sent([1.0, 3.0])
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert (other.status_code, "was used for another request" in other.text) == (422, True)


def test_uploaded_runs_are_opened_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = 0, 0
    lock = threading.Lock()

    def verify(folder: Path, *, memory_bytes: int) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.3)
        with lock:
            at_once -= 1

    monkeypatch.setattr(runs, "verify_run", verify)
    made = [make_run(tmp_path / f"run{number}", seed=number) for number in range(3)]
    with serving(small_settings(tmp_path / "data", job_workers=0)) as url, ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda number: upload(url, made[number], f"run{number}"), range(3)))
    assert [answer.status_code for answer in answers] == [201] * 3
    assert most == 1


VERIFY = "import sys; from pathlib import Path; from service.verify import verify_run;" + (
    "verify_run(Path(sys.argv[1]), memory_bytes=1 << 40)"
)


def test_a_run_is_opened_no_longer_when_the_service_is_killed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "manifest.json").unlink()
    os.mkfifo(run / "manifest.json")  # whoever opens it waits for ever
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", VERIFY, str(run)], env=environment) as parent:

        def children() -> list[int]:
            processes = (path for path in Path("/proc").glob("[0-9]*") if path.name != str(parent.pid))
            return [int(path.name) for path in processes if str(run).encode() in _command(path)]

        wait_for(children)
        time.sleep(1)
        assert children()
        parent.kill()
        wait_for(lambda: not children())


def test_what_a_run_needs_to_be_opened_is_limited(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the run cannot be opened \(status \d+: .*; make it again"):
        verify_run(make_run(tmp_path / "run"), memory_bytes=1 << 28)  # less than torch itself


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
