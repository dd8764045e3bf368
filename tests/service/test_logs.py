"""Logs: every line is JSON with the request's id, whoever wrote it, and no line holds a secret."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import structlog
from processes import service_process

from service import logs
from service.settings import Settings


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, config = list(root.handlers), root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("alembic", "sse_starlette", "httpx", "httpcore", "asyncio", "multipart", "python_multipart"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    structlog.configure(**config)
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configured(**values: object) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(Settings(**values), stream)  # type: ignore[arg-type]
    return stream


def test_our_lines_and_those_of_libraries_are_the_same_json_and_carry_the_request() -> None:
    stream = configured()
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        structlog.get_logger("service.x").info("ours", job_id="j", count=3)
        logging.getLogger("uvicorn.error").warning("theirs %s", "too", extra={"client": "c"})
        assert logs.request_id() == "r-1"
    assert logs.request_id() is None
    ours, theirs = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", str(ours.pop("timestamp")))
    assert theirs.pop("timestamp")
    assert ours == {
        "event": "ours", "logger": "service.x", "level": "info", "request_id": "r-1", "job_id": "j", "count": 3,
    }  # fmt: skip
    assert theirs == {
        "event": "theirs too", "logger": "uvicorn.error", "level": "warning", "request_id": "r-1", "client": "c",
    }  # fmt: skip


def test_the_level_is_a_lower_bound_and_libraries_chatter_less() -> None:
    stream = configured(log_level="warning")
    structlog.get_logger("service.x").info("no")
    structlog.get_logger("service.x").error("yes")
    logging.getLogger("uvicorn.error").info("no")
    assert [line["event"] for line in lines(stream)] == ["yes"]
    stream = configured(log_level="debug")
    structlog.get_logger("service.x").debug("yes")
    logging.getLogger("httpx").info("no")
    logging.getLogger("alembic.runtime.migration").info("Context impl SQLiteImpl.")
    logging.getLogger("alembic.runtime.migration").info("Running upgrade %s -> %s", "0001", "0002")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", UserWarning, stacklevel=1)
    found = [str(line["event"]) for line in lines(stream)]
    assert found[:2] == ["yes", "Running upgrade 0001 -> 0002"]
    assert "careful" in found[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key ofa_abc123_S3cretS3cret refused", "key ofa_abc123_*** refused"),
        ("postgresql+psycopg://me:hunter2@db:5432/x refused", "postgresql+psycopg://me:***@db:5432/x refused"),
        ("header Bearer abcdefghijkl", "header Bearer ***"),
        ("GET http://127.0.0.1:8000/x 200", "GET http://127.0.0.1:8000/x 200"),
    ],
)
def test_secrets_are_hidden_in_messages_values_and_tracebacks(text: str, shown: str) -> None:
    stream = configured()
    log = structlog.get_logger("service.x")
    log.info(text, detail={"deep": [text]})
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
        logging.getLogger("sqlalchemy").exception("failed too")
    first, second, third = lines(stream)
    assert first["event"] == shown
    assert first["detail"] == {"deep": [shown]}
    for line in (second, third):
        assert f"ValueError: {shown}" in str(line["exception"])
    if text != shown:
        assert not re.search("S3cret|hunter2|abcdefghijkl", stream.getvalue())


def test_what_is_named_like_a_secret_is_hidden_whatever_it_is() -> None:
    stream = configured()
    structlog.get_logger("service.x").info(
        "x", password="a", headers={"Authorization": "b", "Cookie": "c"}, secret_access_key=4, key="the-id", token=None
    )
    (line,) = lines(stream)
    assert (line["password"], line["headers"], line["secret_access_key"], line["key"], line["token"]) == (
        "***", {"Authorization": "***", "Cookie": "***"}, "***", "the-id", None,
    )  # fmt: skip


def test_words_are_for_terminals() -> None:
    stream = configured(log_format="console")
    structlog.get_logger("service.x").info("ready", url="http://x")
    assert "[info     ] ready" in stream.getvalue()
    assert "url=http://x" in stream.getvalue()
    stream = configured()  # no terminal
    structlog.get_logger("service.x").info("ready")
    assert lines(stream)[0]["event"] == "ready"


def test_a_served_request_is_one_line_with_the_id_that_its_answer_and_its_problem_carry(tmp_path: Path) -> None:
    with service_process(tmp_path / "data") as service:
        with httpx.Client(base_url=service.url, trust_env=False) as client:
            given = client.get("/api/v1/jobs", headers={"X-Request-ID": "my-id_1.2"})
            assert client.get("/api/v1/jobs", headers={"Authorization": "Bearer " + "s" * 20}).status_code == 401
            assert given.headers["x-request-id"] == "my-id_1.2"
            made = client.get(f"/api/v1/jobs/{'0' * 64}", headers={"X-Request-ID": "no spaces\tallowed"})
            request_id = made.headers["x-request-id"]
            assert re.fullmatch(r"[0-9a-f]{32}", request_id)
            problem = made.json()
            assert (problem["request_id"], problem["instance"]) == (request_id, f"urn:onceforall:request:{request_id}")
            long = client.get("/healthz", headers={"X-Request-ID": "a" * 65})
            assert re.fullmatch(r"[0-9a-f]{32}", long.headers["x-request-id"])
            refused = client.post("/api/v1/devices", content=b"{", headers={"Content-Type": "application/json"})
            assert refused.json()["request_id"] == refused.headers["x-request-id"]
            assert client.get("/nowhere").headers["x-request-id"]
            assert client.get("/static/style.css").status_code == 200
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:  # an upload that is cut
            connection.sendall(
                b"POST /api/v1/supernets HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )
        found = service.stop()
    assert all(isinstance(line["timestamp"], str) for line in found)
    requests = [line for line in found if line["event"] == "request"]
    assert {(line["method"], line["route"], line["status"]) for line in requests} == {
        ("GET", "/api/v1/jobs", 200),
        ("GET", "/api/v1/jobs/{job}", 404),
        ("POST", "/api/v1/devices", 400),
        ("GET", "none", 401),
        ("GET", "none", 404),
        ("GET", "/static", 200),
        ("POST", "/api/v1/supernets", 499),
    }
    assert len(requests) == 7
    assert [requests[0]["request_id"], requests[2]["request_id"]] == ["my-id_1.2", request_id]
    assert all(0 < float(str(line["duration_ms"])) < 60_000 for line in requests)
    assert "Running upgrade" in str([line["event"] for line in found])
    assert not [line for line in found if line["level"] == "error"]
    assert "ssss" not in json.dumps(found)


def test_a_jobs_lines_carry_the_request_that_asked_for_it_into_its_host_and_its_process(
    tmp_path: Path, data_folder: Path
) -> None:
    shutil.copytree(data_folder, tmp_path / "data")
    with service_process(tmp_path / "data", log_level="debug") as service:
        with httpx.Client(base_url=service.url, trust_env=False, timeout=60) as client:
            body = {"supernet": "noise", "constraints": [{"metric": "macs", "max": 4e6}]}
            asked = client.post("/api/v1/subnet-requests", json=body, headers={"X-Request-ID": "ask-1"})
            job_id = asked.json()["id"]
            client.get(f"/api/v1/jobs/{job_id}/events")
        found = service.stop()
    lines_of_job = [line for line in found if line.get("job_id") == job_id]
    assert {line["request_id"] for line in lines_of_job} == {"ask-1"}
    host = [line["event"] for line in lines_of_job if line["logger"] == "service.jobs.runner"]
    assert host == ["job_started", "job_succeeded"]
    child = [line for line in lines_of_job if line["logger"] == "service.worker"]
    assert {line["event"] for line in child} == {"job_progress"}
    assert "verifying" in {line["stage"] for line in child}


def test_a_bad_setting_is_one_line_that_says_what_is_allowed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "serve", "--data-dir", str(tmp_path)],
        env={"ONCEFORALL_LOG_FORMAT": "xml", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert re.match(r"error: settings: log_format: input should be 'auto', 'json' or 'console'; allowed: ", done.stderr)
