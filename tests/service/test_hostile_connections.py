from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from small_service import serving, small_settings

from service import protocol

BODY_S = 1.0
REQUESTS = 4


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with little patience and room; it does no jobs."""
    settings = small_settings(
        tmp_path_factory.mktemp("hardened"),
        job_workers=0,
        body_timeout_s=BODY_S,
        body_bytes_per_s=1000,
        max_requests=REQUESTS,
    )
    with serving(settings) as url:
        yield url


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def head(path: str = "/api/v1/devices", *lines: str, method: str = "POST") -> bytes:
    first = f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"
    return "\r\n".join([*first, *lines, "", ""]).encode()


def answer(connection: socket.socket) -> bytes:
    """Everything until the service hangs up."""
    received = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not piece:
            return received
        received += piece


def send(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def test_a_body_that_trickles_is_a_408_soon_after_the_limit(hardened: str) -> None:
    with closing(connect(hardened)) as connection:
        begin = time.monotonic()
        connection.sendall(head("/api/v1/devices", "Content-Length: 1000"))
        connection.sendall(b'{"name"')
        found = answer(connection)
        assert found.startswith(b"HTTP/1.1 408 ")
        assert b"the body came too slowly: 7 bytes in 1 s" in found
        assert BODY_S <= time.monotonic() - begin < 20


def test_a_body_that_comes_steadily_may_take_longer(hardened: str) -> None:
    content = b'{"name": "steady"%s}' % (b" " * 3000)
    with closing(connect(hardened)) as connection:
        connection.sendall(head("/api/v1/devices", f"Content-Length: {len(content)}", "Connection: close"))
        for start in range(0, len(content), 600):  # 2000 bytes a second
            connection.sendall(content[start : start + 600])
            time.sleep(0.3)
        assert answer(connection).startswith(b"HTTP/1.1 20")


def test_a_slow_multipart_upload_is_a_408_too(hardened: str) -> None:
    with closing(connect(hardened)) as connection:
        lines = "\r\n".join(
            [
                *("POST /api/v1/supernets HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 100000"),
                *("Content-Type: multipart/form-data; boundary=x", "", ""),
            ]
        )
        connection.sendall(lines.encode() + b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n')
        assert answer(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("size", [1 << 20, 8 << 20])
def test_headers_without_end_are_a_431_and_the_connection_ends(hardened: str, size: int) -> None:
    with closing(connect(hardened)) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        sent = 0
        while sent < size and send(connection, b"X-A: " + b"a" * 8000 + b"\r\n"):
            sent += 8007
        found = answer(connection)
        assert found.startswith(b"HTTP/1.1 431 ") or (found == b"" and sent > protocol.MAX_HEAD_BYTES)
    assert httpx.get(f"{hardened}/healthz").status_code == 200


@pytest.mark.parametrize("kind", ["trailers", "extensions"])
def test_a_body_that_is_all_frame_ends_the_connection(hardened: str, kind: str) -> None:
    with closing(connect(hardened)) as connection:
        connection.sendall(head("/api/v1/devices", "Transfer-Encoding: chunked"))
        piece = b"X-T: " + b"t" * 8000 + b"\r\n" if kind == "trailers" else b"1;" + b"e" * 8000 + b"\r\n{\r\n"
        if kind == "trailers":
            connection.sendall(b"1\r\n{\r\n0\r\n")
        sent = 0
        while sent < 8 << 20 and send(connection, piece):
            sent += len(piece)
        answer(connection)
        assert sent < 8 << 20
    assert httpx.get(f"{hardened}/healthz").status_code == 200


def test_headers_that_never_come_end_the_connection(hardened: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.5)
    for begun in (b"", b"GET /healthz HTTP/1.1\r\nHost:"):
        with closing(connect(hardened)) as connection:
            begin = time.monotonic()
            connection.sendall(begun)
            assert answer(connection).startswith(b"HTTP/1.1 408 ")
            assert time.monotonic() - begin < 20


def test_a_second_request_on_a_connection_has_its_own_time_and_room(
    hardened: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.5)
    with httpx.Client() as http:
        for _ in range(30):  # together more than the headers of one may have
            found = http.get(f"{hardened}/healthz", headers={"X-A": "a" * 4000})
            assert found.status_code == 200
        time.sleep(1)
        assert http.get(f"{hardened}/healthz").status_code == 200


def test_requests_beyond_the_cap_are_a_429_and_health_is_answered_still(hardened: str) -> None:
    held = [connect(hardened) for _ in range(REQUESTS)]
    try:
        for connection in held:
            connection.sendall(head("/api/v1/devices", "Content-Length: 10"))
        refused = httpx.get(f"{hardened}/api/v1/devices")
        deadline = time.monotonic() + BODY_S / 2
        while refused.status_code != 429 and time.monotonic() < deadline:
            refused = httpx.get(f"{hardened}/api/v1/devices")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["type"] == "urn:onceforall:problem:busy"
        assert httpx.get(f"{hardened}/healthz").status_code == 200
        for connection in held:  # their bodies never come
            assert answer(connection).startswith(b"HTTP/1.1 408 ")
    finally:
        for connection in held:
            connection.close()
    assert httpx.get(f"{hardened}/api/v1/devices").status_code == 200


def test_a_flood_of_connections_leaves_the_service_well(hardened: str) -> None:
    def one(_: int) -> int:
        return httpx.get(f"{hardened}/api/v1/devices", timeout=60).status_code

    with ThreadPoolExecutor(32) as pool:
        found = set(pool.map(one, range(200)))
    assert found <= {200, 429}
    assert httpx.get(f"{hardened}/api/v1/devices").status_code == 200


def test_clients_that_hang_up_in_the_middle_leave_nothing_behind(hardened: str, tmp_path: Path) -> None:
    for length in (0, 5):
        for _ in range(20):
            with closing(connect(hardened)) as connection:
                connection.sendall(head("/api/v1/devices", "Content-Length: 10") + b"x" * length)
    deadline = time.monotonic() + 20
    while httpx.get(f"{hardened}/api/v1/devices").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert httpx.get(f"{hardened}/api/v1/devices").status_code == 200
