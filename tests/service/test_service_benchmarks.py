"""The benchmarks of the service measure what they say: slowest answers, closed connections, tables that are lost."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from small_service import make_table

from benchmarks.service_crashes import lost_tables
from benchmarks.service_hostile import ATTACKS, HUNG_UP, MAY_BE_CUT, hear, hear_all
from service.client import Client

ANSWER = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"


def answered(content: bytes, after_s: float) -> socket.socket:
    """A connection whose other end sends something after a while, and hangs up."""
    mine, other = socket.socketpair()

    def send() -> None:
        time.sleep(after_s)
        other.sendall(content)
        other.close()

    threading.Thread(target=send, daemon=True).start()
    return mine


def test_the_slowest_of_many_answers_counts_and_a_hang_up_is_no_status() -> None:
    begin = time.monotonic()
    held = [answered(ANSWER, 0), answered(b"", 0), answered(ANSWER, 0.6), answered(ANSWER, 0)]
    statuses, seconds = hear_all(dict.fromkeys(held, begin))
    assert statuses == [429, HUNG_UP, 429, 429]
    assert 0.5 <= seconds <= time.monotonic() - begin
    held += [answered(b"", 0), answered(ANSWER, 0)]
    assert [hear(connection) for connection in held[-2:]] == [HUNG_UP, 429]
    for connection in held:
        connection.close()
    assert set(MAY_BE_CUT) < set(ATTACKS)


@pytest.fixture
def table(client: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    path = tmp_path_factory.mktemp("table") / "table.json"
    make_table("looked-up").save(path)
    client.create_device("looked-up")
    return client.upload_table("looked-up", path)["id"], path.read_bytes()


def test_a_table_that_was_answered_and_is_not_there_is_a_fault(url: str, table: tuple[str, bytes]) -> None:
    table_id, content = table
    assert lost_tables(url, {table_id: content}) == []
    assert len(lost_tables(url, {table_id: b"other"})) == 1
    (lost,) = lost_tables(url, {"0" * 64: content})
    assert "was answered and is a 404" in lost
