"""SIGTERM: nothing new, what runs may end, streams say when to come back, jobs wait for the next start, status 0."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
from processes import ENDS_S, ServiceProcess, service_process
from small_service import small_settings

from service.client import Client
from service.storage import jobs
from service.storage.database import Database

SLOW = {"search_population": 100, "search_generations": 100_000}


def wait_for_stage(client: Client, job_id: str, stage: str) -> None:
    for _ in range(1200):
        if client.job(job_id)["stage"] == stage:
            return
        time.sleep(0.05)
    raise AssertionError(client.job(job_id))


def address(service: ServiceProcess) -> tuple[str, int]:
    host, port = service.url.removeprefix("http://").split(":")
    return host, int(port)


def begun_upload(service: ServiceProcess, content: bytes) -> socket.socket:
    """A request whose body has begun; `content` is to follow."""
    connection = socket.create_connection(address(service), timeout=ENDS_S)
    lines = ["POST /api/v1/devices HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""])
    connection.sendall(head.encode() + content[:1])
    return connection


def test_a_running_request_ends_a_new_one_is_refused_and_the_job_waits_uncounted(
    tmp_path: Path, data_folder: Path
) -> None:
    shutil.copytree(data_folder, tmp_path / "data")
    body = b'{"name": "late", "hardware": "x", "runtime": "y"}'
    with service_process(tmp_path / "data", stop_grace_s=60, **SLOW) as service, Client(service.url) as client:
        job_id = client.ask("noise", "macs<=4M")["id"]
        wait_for_stage(client, job_id, "searching")
        events: list[str] = []

        def listen() -> None:
            with httpx.stream("GET", f"{service.url}/api/v1/jobs/{job_id}/events", trust_env=False) as stream:
                events.extend(stream.iter_lines())

        reader = threading.Thread(target=listen, daemon=True)
        reader.start()
        upload = begun_upload(service, body)
        while not events:
            time.sleep(0.05)
        client.close()
        begin = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        reader.join(timeout=ENDS_S)  # the stream ends at once, whatever else runs
        assert not reader.is_alive()
        assert "retry: 2000" in events
        assert service.process.poll() is None
        wait_for_refusal(address(service))  # uvicorn looks ten times a second whether it is to end
        assert service.process.poll() is None
        upload.sendall(body[1:])
        assert upload.recv(4096).startswith(b"HTTP/1.1 201 Created")
        upload.close()
        assert service.process.wait(timeout=ENDS_S) == 0
        assert time.monotonic() - begin < 60  # not the whole grace: it ends when the last request has ended
        service.reader.join(timeout=ENDS_S)
        assert not [line for line in service.lines() if line["level"] == "error"]
    database = Database(small_settings(tmp_path / "data").resolved_database_url)
    with database.session() as session:
        job = jobs.get(session, job_id)
    database.close()
    assert job is not None
    assert (job.state, job.attempts, job.stage) == ("queued", 0, "queued")


def wait_for_refusal(where: tuple[str, int]) -> None:
    deadline = time.monotonic() + ENDS_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(where, timeout=5).close()
        except (ConnectionRefusedError, ConnectionResetError):
            return
        time.sleep(0.05)
    raise AssertionError("new connections were still taken")


def test_a_request_that_does_not_end_is_cut_when_the_grace_is_over(tmp_path: Path) -> None:
    with service_process(tmp_path / "data", stop_grace_s=1, job_workers=0) as service:
        upload = begun_upload(service, b"{}  ")
        time.sleep(0.5)
        begin = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=ENDS_S) == 0
        assert time.monotonic() - begin < 30
        upload.close()


def test_a_service_that_only_starts_ends_with_status_0_as_well(tmp_path: Path) -> None:
    with service_process(tmp_path / "data") as service:
        service.stop()  # its job host is still starting


def test_a_reader_of_events_goes_on_after_a_restart(tmp_path: Path, data_folder: Path) -> None:
    shutil.copytree(data_folder, tmp_path / "data")
    with service_process(tmp_path / "data", **(SLOW | {"search_generations": 800})) as first:
        host, port = address(first)
        with Client(first.url) as client:
            job_id = client.ask("noise", "macs<=4M")["id"]
            wait_for_stage(client, job_id, "searching")
            followed: list[dict[str, object]] = []
            reader = threading.Thread(target=lambda: followed.extend(client.follow(job_id)), daemon=True)
            reader.start()
            while not followed:
                time.sleep(0.05)
            first.stop()
            with service_process(tmp_path / "data", port=port, **(SLOW | {"search_generations": 800})):
                reader.join(timeout=ENDS_S * 2)
                assert not reader.is_alive()
    assert (followed[-1]["state"], followed[-1]["attempts"]) == ("succeeded", 1)
    assert host == "127.0.0.1"
